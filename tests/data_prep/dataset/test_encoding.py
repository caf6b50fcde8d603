import random
import re

import pytest

from data_prep.dataset.encoding import encoding_of
from data_prep.dataset.schema import DataError, FileRefused, UsageError
from tests.helpers.sources_common import read_rejects, run, save, texts

CHINESE = (
    "今天上午我们在北京市中心的一家书店里看到了很多新书，"
    "其中最有意思的是关于中国历史和文化的介绍，是社会生活的一部分。"
)
TRADITIONAL = (
    "今天上午我們在臺北市中心的一家書店裡看到了很多新書，其中最有意思的是關於中國歷史和文化的介紹。"
)
KOREAN = (
    "오늘 오전에 우리는 서울 시내의 한 서점에서 많은 새 책을 보았다. "
    "그중 가장 재미있는 것은 한국의 역사였다."
)
JAPANESE = (
    "今日の午前中に東京の中心にある書店でたくさんの新しい本を見ました。"
    "その中で一番面白いのは日本の歴史です。"
)
LEGACY = {"gbk": CHINESE, "big5": TRADITIONAL, "cp949": KOREAN, "cp932": JAPANESE}


def lines_of(text, count, seed):
    """`count` pieces of a text as somebody would write them in a label file."""
    chance = random.Random(seed)
    starts = [chance.randrange(len(text) - 4) for _ in range(count)]
    return [text[at : at + chance.randint(2, 12)].strip() for at in starts]


@pytest.mark.parametrize("count", [1, 5, 50])
@pytest.mark.parametrize("encoding", LEGACY)
def test_encoding_detection_never_takes_a_wrong_encoding(encoding, count):
    read = refused = 0
    for seed in range(100):
        data = "\n".join(lines_of(LEGACY[encoding], count, seed)).encode(encoding)
        lines = data.split(b"\n")
        try:
            decoded = data.decode(encoding_of(lambda lines=lines: lines, "labels.txt"))
        except FileRefused as error:
            assert "--encoding" in str(error) and encoding in str(error)
            refused += 1
            continue
        except UnicodeDecodeError:  # taken for UTF-8 with broken lines: rejects, and no wrong text
            refused += 1
            continue
        # By chance the few bytes of a line may be sound UTF-8.
        assert decoded == data.decode(encoding) or count == 1
        read += 1
    assert read + refused == 100
    # What is long enough is known by what the other encodings lack.
    assert read >= 95 or count < 50 or encoding not in ("gbk", "big5")


@pytest.mark.parametrize("data", [b"caf\xe9s", "ж б с".encode("cp1251")])
def test_undetectable_bytes_are_taken_for_utf8_with_broken_lines(data):
    assert encoding_of(lambda: data.split(b"\n"), "labels.txt") == "utf-8"


def test_one_broken_line_does_not_change_the_detected_encoding():
    lines = ["图片一\n".encode()] * 3 + ["图片一".encode("gbk")]
    assert encoding_of(lambda: lines, "labels.txt") == "utf-8"


def table(folder, encoding, text):
    save(folder / "a.png")
    rows = "".join(f"a.png,{line}\n" for line in text)
    (folder / "t.csv").write_bytes(f"image,text\n{rows}".encode(encoding))
    return folder / "t.csv"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gbk"])
def test_a_table_of_any_encoding_gives_its_texts(tmp_path, encoding):
    lines = lines_of(CHINESE, 50, 1)
    summary, rows, _ = run("table", table(tmp_path, encoding, lines), tmp_path / "out")
    assert texts(rows) == lines
    expected = [f"label files that are not UTF-8 were read as {encoding}, such as t.csv"]
    assert summary.get("notes", []) == (expected if encoding in ("utf-16", "gbk") else [])


def test_an_unclear_encoding_is_refused_until_it_is_named(tmp_path):
    path = table(tmp_path, "cp949", ["간판"])
    with pytest.raises(DataError, match=r"t\.csv is not UTF-8 and decodes as .* --encoding"):
        run("table", path, tmp_path / "out")
    summary, rows, _ = run("table", path, tmp_path / "out", encoding="cp949")
    assert texts(rows) == ["간판"] and summary["options"]["encoding"] == "cp949"
    for name in ("cp94", "\udcff", "a\0b", "base64"):
        with pytest.raises(UsageError, match=re.escape(f"--encoding is {name!r}")):
            run("table", path, tmp_path / "other", encoding=name)


def test_truncated_last_character_is_a_broken_line(tmp_path):
    path = table(tmp_path, "utf-16", ["sound", "cut"])
    path.write_bytes(path.read_bytes()[:-3])
    _, rows, _ = run("table", path, tmp_path / "out")
    assert texts(rows) == ["sound"]
    assert [reject["reason"] for reject in read_rejects(tmp_path / "out")] == ["text is not UTF-8"]


@pytest.mark.parametrize("source", ["pairs", "funsd", "pdf", "sroie"])
def test_a_label_of_an_unclear_encoding_ends_the_conversion_of_every_source(tmp_path, source):
    save(tmp_path / "in" / "a.png")
    text = {"funsd": '{"form": "간판"}', "sroie": '{"company": "간판"}'}.get(source, "간판")
    name = "a.json" if source in ("funsd", "sroie") else "a.txt"
    (tmp_path / "in" / name).write_bytes(text.encode("cp949"))
    task = {"sroie": "fields"}.get(source)
    with pytest.raises(DataError, match=rf"{name} is not UTF-8 .*--encoding"):
        run(source, tmp_path / "in", tmp_path / "out", task=task)
