import pytest

from ocrkit.display.markdown import markdown_block, markdown_code, markdown_table, markdown_text


@pytest.mark.parametrize(
    "name, text",
    [
        ("tuned", "tuned"),
        ("exact_match", "exact_match"),
        ("s1/tuned-2 (1.5)", "s1/tuned-2 (1.5)"),
        ("한글 ক্ষ", "한글 ক্ষ"),
        ("a|b", "a\\|b"),
        ("a\\|b", "a\\\\\\|b"),
        ("[x](javascript:alert(1))", "\\[x\\](javascript:alert(1))"),
        ("![x](y)", "!\\[x\\](y)"),
        ("<script>", "&#60;script&#62;"),
        ("&lt;b&gt;", "&#38;lt;b&#38;gt;"),
        ("a\n# b\r\n\u2028c", "a \\# b c"),
        ("_a_ *b* ~~c~~ `d`", "\\_a\\_ \\*b\\* \\~\\~c\\~\\~ \\`d\\`"),
        ("a\u202eb", "a\\\\u202eb"),
        ("\x1b[2J\x00\ud800", "\\\\x1b\\[2J\\\\x00\\\\ud800"),
        ("https://evil.example", "https&#58;//evil.example"),
        ("www.evil.example", "www&#46;evil.example"),
        ("@someone $x$", "&#64;someone \\$x\\$"),
        (3, "3"),
    ],
)
def test_markdown_text_is_plain_text(name, text):
    assert markdown_text(name) == text


@pytest.mark.parametrize(
    "value, code",
    [
        ("a", "`a`"),
        ("", ""),
        ("a `b` c", "``a `b` c``"),
        ("`", "`` ` ``"),
        ("a\n\nb", "`a b`"),
        ("a|b <c>", "`a|b <c>`"),
        ("\u202e", "`\\u202e`"),
    ],
)
def test_markdown_code_is_one_span(value, code):
    assert markdown_code(value) == code


def test_a_bar_in_a_table_is_escaped_within_code():
    assert markdown_code("a|b", in_table=True) == "`a\\|b`"


def test_markdown_code_block_is_not_closed_by_its_text():
    block = markdown_block("a: |\n  ````\n  \u202eb  c", "yaml")
    assert block == "`````yaml\na: |\n  ````\n  \\u202eb  c\n`````"


def test_columns_of_a_table_are_aligned_to_the_right_by_number():
    lines = markdown_table(["a", "n"], [["x", "1"]], right=[1])
    assert lines == ["| a | n |", "| --- | ---: |", "| x | 1 |"]
    assert markdown_table(["a"], []) == ["| a |", "| --- |"]
