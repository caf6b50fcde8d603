import json

import pytest

from data_prep.dataset.schema import DataError
from tests.helpers.sources_common import reasons, run, save, texts
from tests.tools.fuzz import assert_survives, json_mutations


def test_csv_values_may_hold_commas_quotes_and_lines(tmp_path):
    save(tmp_path / "img" / "a.png")
    body = 'file,label,note\r\nimg/a.png,"one, ""two""",x\r\nimg/a.png,"first\nsecond",\r\n'
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbf" + body.encode())
    options = {"image_column": "file", "text_column": "label", "language": "bn"}
    _, rows, rejects = run("table", tmp_path / "t.csv", tmp_path / "out", **options)
    assert texts(rows) == ['one, "two"', "first\nsecond"] and not rejects
    assert {row.language for row in rows} == {"bn"} and len({row.group for row in rows}) == 1


def test_tsv_and_bad_records(tmp_path):
    save(tmp_path / "a.png")
    lines = ["image\ttext", "a.png\tfine", "a.png\ttoo\tmany", "a.png", "\tno picture", "a.png\t"]
    body = "\n".join(lines).encode() + b"\na.png\tcaf\xe9\n\na.png\tlast"
    (tmp_path / "t.tsv").write_bytes(body)
    _, rows, rejects = run("table", tmp_path / "t.tsv", tmp_path / "out", split="1,0,0")
    assert texts(rows) == ["fine", "last"]
    assert reasons(rejects) == [
        *("malformed line", "malformed line", "missing image", "empty text", "text is not UTF-8")
    ]
    assert [reject["where"] for reject in rejects] == [f"t.tsv:{n}" for n in range(3, 8)]


def test_group_and_split_columns_are_read_and_required(tmp_path):
    save(tmp_path / "a.png")
    lines = [
        json.dumps({"image": "a.png", "text": str(n), "doc": n, "part": "test"}) for n in range(4)
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    _, rows, rejects = run(
        "table", tmp_path / "t.jsonl", tmp_path / "a", group_column="doc", split_column="part"
    )
    assert len(rows) == 4 and not rejects
    for option in ("group_column", "split_column"):
        with pytest.raises(DataError, match="malformed line"):
            run("table", tmp_path / "t.jsonl", tmp_path / option, **{option: "docc"})


def test_jsonl_takes_texts_numbers_and_objects(tmp_path):
    save(tmp_path / "a.png")
    lines = [
        '{"image": "a.png", "text": "한글"}',
        '{"image": "a.png", "text": 12}',
        '{"image": "a.png", "text": 12.50}',
        '{"image": "a.png", "text": {"a": 1}}',
        '{"image": "a.png", "text": null}',
        '{"image": ["a.png"], "text": "x"}',
        '{"image": "a.png", "text": "cut',
        "[1]",
        "[" * 100_000,
        '{"image": "a.png", "text": "\\ud800"}',
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    _, rows, rejects = run("table", tmp_path / "t.jsonl", tmp_path / "a", split="1,0,0")
    assert texts(rows) == ["한글", "12", "12.50"]
    assert reasons(rejects) == [
        *("malformed line", "empty text", "missing image", "malformed line", "malformed line"),
        *("malformed line", "text is not UTF-8"),
    ]
    table = tmp_path / "t.jsonl"
    _, rows, _ = run("table", table, tmp_path / "b", task="extraction", split="1,0,0")
    assert texts(rows) == ["12", "12.5", '{"a": 1}'] and rows[0].task == "extraction"


def test_splits_and_groups_come_from_their_columns(tmp_path):
    records = []
    for index, split in enumerate(("train", "val", "test", "train")):
        save(tmp_path / f"{index}.png")
        record = {"image": f"{index}.png", "text": f"{index}", "part": split, "who": index % 2}
        records.append(json.dumps(record))
    (tmp_path / "t.jsonl").write_text("\n".join(records))
    out = tmp_path / "out"
    options = {"split_column": "part", "group_column": "who"}
    summary, rows, _ = run("table", tmp_path / "t.jsonl", out, **options)
    assert summary["rows"] == {"train": 2, "validation": 1, "test": 1}
    assert [row.group for row in rows] == ["0", "1", "1", "0"]


def test_paths_from_another_machine_find_their_picture(tmp_path):
    save(tmp_path / "data" / "img" / "a.png")
    absolute = save(tmp_path / "elsewhere.png")
    names = [r"C:\work\data\img\a.png", "/mnt/x/img/a.png", str(absolute), "../img/a.png"]
    lines = [json.dumps({"image": name, "text": "x"}) for name in names]
    (tmp_path / "data" / "t.jsonl").write_text("\n".join(lines))
    _, rows, _ = run("table", tmp_path / "data" / "t.jsonl", tmp_path / "out", split="1,0,0")
    assert len(rows) == 4


def test_a_missing_column_is_one_sentence(tmp_path):
    (tmp_path / "t.csv").write_text("scan,label\na.png,x\n")
    with pytest.raises(
        DataError, match=r"t\.csv has no column 'image'; its columns are scan, label"
    ):
        run("table", tmp_path / "t.csv", tmp_path / "out")


@pytest.mark.parametrize("count", [100, pytest.param(2_000, marks=pytest.mark.slow)])
def test_mutated_table_gives_only_rows_and_rejects(tmp_path, count):
    save(tmp_path / "in" / "a.png")
    damaged = json_mutations(json.dumps({"image": "a.png", "text": "nine", "n": 9}), count)
    told = {"image_column": "image", "text_column": "text"}
    assert assert_survives("table", damaged, tmp_path, "t.jsonl", **told)


def test_a_header_that_cannot_be_read_is_one_sentence(tmp_path):
    (tmp_path / "mac.csv").write_bytes(b"image,text\ra.png,x\r")
    with pytest.raises(DataError, match=r"mac\.csv has no header that can be read"):
        run("table", tmp_path / "mac.csv", tmp_path / "out")


@pytest.mark.parametrize("count", [200, pytest.param(2_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "filename,words\na.png,hello, you\n"),
        ("t.json", '[{"image": "a.png", "text": "x"}, {"image": "a.png", "text": "y"}]'),
        ("t.json", '{"a.png": "x", "b.png": "y"}'),
    ],
)
def test_damaged_tables_give_only_rows_and_rejects(tmp_path, name, text, count):
    save(tmp_path / "in" / "a.png")
    assert assert_survives("table", json_mutations(text, count), tmp_path, name) > 0


@pytest.mark.parametrize(
    "table, expected",
    [
        ("image;text\na.png;1,5\n", "1,5"),
        ("image\ttext\na.png\tone, two\n", "one, two"),
        ('filename,words\na.png,"1,200"\n', "1,200"),
        ('filename,words\na.png,"He said ""hi"""\n', 'He said "hi"'),
        ('filename,words\na.png,"a",b\n', '"a",b'),
        ('filename,words\na.png,a"\n', 'a"'),
        ("ID,File_Path,Transcription\n1,a.png,one\n", "one"),
        ("a.png\tone two\n", "one two"),
        ("one,a.png\n", "one"),
    ],
)
def test_delimiters_and_quotes_of_other_programs_csv(tmp_path, table, expected):
    save(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text(table)
    _, rows, _ = run("table", tmp_path / "t.csv", tmp_path / "out")
    assert texts(rows) == [expected]
