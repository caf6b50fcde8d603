import json
import zipfile

import pytest

from data_prep.dataset.schema import DataError
from tests.helpers.sources_common import draw, encoded, pictures, reasons, run, save, texts
from tests.tools.fuzz import assert_survives, json_mutations


def outdoor(name="a.jpg", words=(), size=(200, 100), **more) -> dict:
    boxes = [{"id": 1, "bbox": box, "text": text} for text, box in words]
    image = {"file_name": name, "width": size[0], "height": size[1]}
    return {
        "images": [image],
        "annotations": boxes,
        "metadata": [{"wordorientation": "가로"}],
    } | more


def dump(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


WORDS = [
    ("둘", [60, 12, 40, 20]),
    ("하나", [10, 10, 40, 20]),
    ("xxx", [120, 10, 40, 20]),
    ("셋", [10, 50, 40, 20]),
]


def test_outdoor_words_and_pages_from_parallel_trees(tmp_path):
    for part in ("Training", "Validation"):
        dump(tmp_path / "in" / part / "[라벨]간판" / "a.json", outdoor(words=WORDS))
        save(tmp_path / "in" / part / "[원천]간판" / "a.jpg", (200, 100))
    summary, rows, rejects = run("aihub-outdoor", tmp_path / "in", tmp_path / "words")
    assert summary["rows"] == {"train": 3, "validation": 3}
    assert texts(rows)[:3] == ["둘", "하나", "셋"] and (rows[0].width, rows[0].height) == (40, 20)
    assert reasons(rejects) == ["marked illegible"] * 2
    assert json.loads(rows[0].meta) == {"box": [60, 12, 100, 32], "orientation": "가로"}
    assert len({row.group for row in rows}) == 2 and rows[0].language == "ko"

    _, rows, rejects = run("aihub-outdoor", tmp_path / "in", tmp_path / "pages", task="pages")
    assert texts(rows) == ["하나 둘\n셋"] * 2 and not rejects
    assert json.loads(rows[0].meta) == {"left_out": 1} and rows[0].width == 200


def test_zips_with_cp949_names_lie_in_the_folder_as_they_came(tmp_path):
    def cp949_zip(path, name, data):
        # As Korean Windows writes it: the name's bytes are CP949 and no flag says so.
        with zipfile.ZipFile(path, "w") as archive:
            info = zipfile.ZipInfo(name.encode("cp949").decode("cp437"))
            archive.writestr(info, data)
        raw = path.read_bytes()
        wrong = name.encode("cp949").decode("cp437").encode()
        assert len(wrong) != len(name.encode("cp949"))
        with zipfile.ZipFile(path) as archive:
            assert archive.infolist()[0].flag_bits & 0x800
        # Python wrote UTF-8 and the flag; put the CP949 bytes in place of both.
        fixed = raw.replace(wrong, name.encode("cp949"))
        short = len(wrong) - len(name.encode("cp949"))
        fixed = bytearray(fixed)
        for signature, flag, length in ((b"PK\x03\x04", 6, 26), (b"PK\x01\x02", 8, 28)):
            at = fixed.index(signature)
            fixed[at + flag : at + flag + 2] = b"\0\0"
            size = int.from_bytes(fixed[at + length : at + length + 2], "little") - short
            fixed[at + length : at + length + 2] = size.to_bytes(2, "little")
        end = fixed.index(b"PK\x05\x06")
        for field, less in ((12, short), (16, short)):
            value = int.from_bytes(fixed[end + field : end + field + 4], "little") - less
            fixed[end + field : end + field + 4] = value.to_bytes(4, "little")
        path.write_bytes(fixed)

    folder = tmp_path / "in" / "Training"
    folder.mkdir(parents=True)
    label = json.dumps(outdoor("간판_1.jpg", WORDS), ensure_ascii=False).encode("cp949")
    cp949_zip(folder / "[라벨]간판.zip", "가로/간판_1.json", label)
    cp949_zip(folder / "[원천]간판.zip", "가로/간판_1.jpg", encoded(draw((200, 100)), "JPEG"))
    summary, rows, _ = run("aihub-outdoor", tmp_path / "in", tmp_path / "out", workers=2)
    assert texts(rows) == ["둘", "하나", "셋"] and summary["rows"] == {"train": 3}
    assert rows[0].group == "Training/[원천]간판.zip/가로/간판_1"


def pack(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in files.items():
            data = json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value
            archive.writestr(name, data)
    return path


def jpeg(mark):
    return encoded(draw((200, 100), mark=mark), "JPEG")


def test_labels_and_pictures_are_inputs_of_their_own(tmp_path):
    labels = pack(
        tmp_path / "Training" / "라벨링데이터.zip",
        {"1.가로/a.json": outdoor("a.jpg", WORDS), "2.세로/b.json": outdoor("b.jpg", WORDS[:1])},
    )
    first = pack(tmp_path / "Training" / "원천데이터1.zip", {"1.가로/a.jpg": jpeg(1)})
    second = pack(tmp_path / "Training" / "원천데이터2.zip", {"elsewhere/b.jpg": jpeg(2)})
    for inputs in ([labels, first, second], [second, first, labels]):
        out = tmp_path / f"out{inputs.index(labels)}"
        _, rows, rejects = run("aihub-outdoor", inputs, out, workers=2, split="1,0,0")
        assert texts(rows) == ["둘", "하나", "셋", "둘"]
        assert reasons(rejects) == ["marked illegible"]
        assert len({row.group for row in rows}) == 2
    # The very same zip of labels, unpacked, and pictures in a folder.
    with zipfile.ZipFile(labels) as archive:
        archive.extractall(tmp_path / "labels")
    save(tmp_path / "pictures" / "a.jpg", (200, 100))
    folders = [tmp_path / "labels", tmp_path / "pictures"]
    _, rows, rejects = run("aihub-outdoor", folders, tmp_path / "mixed", split="1,0,0")
    assert texts(rows) == ["둘", "하나", "셋"]
    assert reasons(rejects) == ["marked illegible", "missing image"]


def test_pictures_of_one_name_go_to_the_labels_of_their_archive(tmp_path):
    def label(text):
        return {"a.json": outdoor("a.jpg", [(text, [10, 10, 40, 20])])}

    inputs = [
        pack(tmp_path / "TL_간판.zip", label("훈련")),
        pack(tmp_path / "VL_간판.zip", label("검증")),
        pack(tmp_path / "TS_간판.zip", {"a.jpg": jpeg(20)}),
        pack(tmp_path / "VS_간판.zip", {"a.jpg": jpeg(45)}),
    ]
    out = tmp_path / "out"
    _, rows, rejects = run("aihub-outdoor", inputs, out, split="1,0,0")
    assert texts(rows) == ["훈련", "검증"] and not rejects
    for row, mark in zip(rows, (20, 45)):
        box = pictures(out, row)[0].convert("L").point(lambda v: 255 * (v < 128)).getbbox()
        assert abs(box[0] - (2 + mark - 10)) <= 2
    # Where nothing tells two pictures apart, neither is guessed.
    inputs[2:] = [
        pack(tmp_path / "x.zip", {"a.jpg": jpeg(20)}),
        pack(tmp_path / "y.zip", {"a.jpg": jpeg(45)}),
    ]
    inputs[1:2] = []
    out = tmp_path / "unclear"
    with pytest.raises(DataError, match="1 several pictures of this name"):
        run("aihub-outdoor", inputs, out, split="1,0,0")


def test_a_missing_picture_is_not_taken_from_another_whole_dataset(tmp_path):
    for part in ("one", "two"):
        dump(tmp_path / part / "a.json", outdoor("a.jpg", [(part, [10, 10, 40, 20])]))
    save(tmp_path / "two" / "a.jpg", (200, 100))
    inputs = [tmp_path / "one", tmp_path / "two"]
    _, rows, rejects = run("aihub-outdoor", inputs, tmp_path / "out", split="1,0,0")
    assert texts(rows) == ["two"] and reasons(rejects) == ["missing image"]


def test_text_in_the_wild_with_its_pictures_in_other_archives(tmp_path):
    images = [{"id": "1", "file_name": "a.jpg", "type": "sign", "width": 200, "height": 100}]
    label = wild(images, [("1", "1", [60, 12, 40, 20], "나", "word")])
    inputs = [tmp_path / "textinthewild_data_info.json"]
    dump(inputs[0], label)
    inputs.append(pack(tmp_path / "01_textinthewild_signboard.zip", {"sign/a.jpg": jpeg(1)}))
    _, rows, rejects = run("aihub-wild", inputs, tmp_path / "out", split="1,0,0")
    assert texts(rows) == ["나"] and not rejects


def test_outdoor_trouble_is_rejects(tmp_path):
    words = [
        ("ok", [10, 10, 20, 20]),
        ("x", [10, 10, 20]),
        ("x", None),
        ("x", ["1", "2", "3", "4"]),
        ("x", [10, 10, -5, 20]),
        ("x", [900, 10, 20, 20]),
        (None, [10, 10, 20, 20]),
        (7, [10, 10, 20, 20]),
        ("xxx", [10, 10, 20, 20]),
        ("", [10, 10, 20, 20]),
        ("edge", [-5, 90, 20, 20]),
    ]
    dump(tmp_path / "in" / "a.json", outdoor(words=words))
    dump(tmp_path / "in" / "b.json", outdoor("missing.jpg", [("x", [1, 1, 2, 2])]))
    dump(tmp_path / "in" / "c.json", {"images": []})
    (tmp_path / "in" / "d.json").write_text('{"images": [')
    dump(tmp_path / "in" / "e.json", outdoor("small.jpg", [("x", [1, 1, 2, 2])]))
    save(tmp_path / "in" / "a.jpg", (200, 100))
    save(tmp_path / "in" / "small.jpg", (20, 10))
    _, rows, rejects = run("aihub-outdoor", tmp_path / "in", tmp_path / "out")
    assert texts(rows) == ["ok", "edge"] and (rows[1].width, rows[1].height) == (15, 10)
    assert reasons(rejects) == [
        *["malformed box"] * 4,
        *("box outside picture", "null text", "malformed annotation", "marked illegible"),
        *("empty text", "missing image", "malformed JSON", "malformed JSON"),
        "size differs from annotation",
    ]
    # A page with a word that cannot be placed is no page to learn from.
    dump(tmp_path / "in" / "f.json", outdoor(words=WORDS))
    _, rows, rejects = run("aihub-outdoor", tmp_path / "in", tmp_path / "pages", task="pages")
    assert [row.id for row in rows] == ["aihub-outdoor-f"]
    assert rejects[0] == {
        "where": "a.json",
        "reason": "malformed box",
        "detail": "word 1: no list of points",
    }


def test_documents(tmp_path):
    label = {
        "images": [{"image.file.name": "p.jpg", "image.width": 200, "image.height": 100}],
        "annotations": [
            {"id": 2, "annotation.text": "끝", "annotation.bbox": [10, 60, 30, 20]},
            {"id": 1, "annotation.text": "처음", "annotation.bbox": [10, 10, 60, 20]},
        ],
    }
    dump(tmp_path / "in" / "labels" / "p.json", label)
    save(tmp_path / "in" / "images" / "p.jpg", (200, 100))
    _, rows, _ = run("aihub-documents", tmp_path / "in", tmp_path / "words")
    assert texts(rows) == ["끝", "처음"]
    _, rows, _ = run("aihub-documents", tmp_path / "in", tmp_path / "pages", task="pages")
    assert texts(rows) == ["처음\n끝"] and rows[0].group == "images/p"


def test_public(tmp_path):
    boxes = [
        {"id": 1, "data": "공공", "x": [10, 10, 50, 50], "y": [5, 25, 5, 25]},
        {"id": 2, "data": "기록", "x": [60, 60, 90], "y": [5, 25, 5, 25]},
    ]
    label = {"Images": {"identifier": "rec", "type": "png", "width": 200, "height": 100}}
    dump(tmp_path / "in" / "rec.json", label | {"Bbox": boxes})
    save(tmp_path / "in" / "rec.png", (200, 100))
    _, rows, rejects = run("aihub-public", tmp_path / "in", tmp_path / "out")
    assert texts(rows) == ["공공"] and (rows[0].width, rows[0].height) == (40, 20)
    assert reasons(rejects) == ["malformed box"]


def test_letters_words_and_sentences(tmp_path):
    save(tmp_path / "in" / "w.jpg", (200, 100))
    save(tmp_path / "in" / "l.jpg", (40, 40))
    save(tmp_path / "in" / "s.jpg", (90, 40))
    words = [
        {"value": "바른", "wordbox": [10, 10, 60, 30]},
        {"value": "글", "wordbox": [70, 12, 90, 32]},
        {"value": "?", "wordbox": None},
    ]
    image = {"file_name": "w.jpg", "width": 200, "height": 100}
    dump(tmp_path / "in" / "w.json", {"image": image, "text": {"word": words}})
    letter = {"image": {"file_name": "l.jpg"}, "text": {"letter": {"value": "각"}}}
    dump(tmp_path / "in" / "l.json", letter)
    dump(tmp_path / "in" / "s.json", {"image": {"file_name": "s.jpg"}, "info": {"text": "한 문장"}})
    options = {"split": "1,0,0"}
    _, rows, rejects = run("aihub-letters", tmp_path / "in", tmp_path / "out", **options)
    assert texts(rows) == ["각", "한 문장", "바른", "글"] and reasons(rejects) == ["malformed box"]
    assert [(row.width, row.height) for row in rows] == [(40, 40), (90, 40), (50, 20), (20, 20)]
    options |= {"task": "pages"}
    _, rows, rejects = run("aihub-letters", tmp_path / "in", tmp_path / "p", **options)
    assert texts(rows) == ["각", "한 문장"] and reasons(rejects) == ["malformed box"]


def wild(images, annotations):
    fields = ("id", "image_id", "bbox", "text")
    rows = [dict(zip(fields, row[:4])) | {"attributes": {"class": row[4]}} for row in annotations]
    return {"info": {"name": "TextInTheWild"}, "images": images, "annotations": rows}


def test_text_in_the_wild(tmp_path):
    images = [
        {"id": "00001", "file_name": "a.jpg", "type": "sign", "width": 200, "height": 100},
        {"id": "00002", "file_name": "gone.jpg", "type": "book", "width": 200, "height": 100},
    ]
    annotations = [
        ("1", "00001", [60, 12, 40, 20], "나", "word"),
        ("2", "00002", [60, 12, 40, 20], "책", "word"),
        ("3", "00001", [10, 10, 40, 20], "가다", "word"),
        ("4", "00001", [10, 10, 20, 20], "가", "character"),
        ("5", "00001", [150, 60, 20, 20], "홀", "character"),
        ("6", "00001", [10, 70, 20, 20], None, "ignored"),
        ("7", "99999", [10, 70, 20, 20], "x", "word"),
        ("8", "00001", [-10, 70, 20, 20], "왼", "word"),
    ]
    path = tmp_path / "in" / "textinthewild_data_info.json"
    dump(path, wild(images, annotations))
    save(tmp_path / "in" / "01_sign" / "a.jpg", (200, 100))
    _, rows, rejects = run("aihub-wild", tmp_path / "in", tmp_path / "out", split="1,0,0")
    assert texts(rows) == ["나", "가다", "가", "홀", "왼"] and rows[4].width == 10
    assert reasons(rejects) == ["missing image", "marked as ignored", "missing image"]
    assert json.loads(rows[0].meta)["class"] == "word" and rows[0].group == "01_sign/a"
    out = tmp_path / "pages"
    _, rows, rejects = run("aihub-wild", tmp_path / "in", out, task="pages", split="1,0,0")
    assert texts(rows) == ["가다 나\n왼 홀"] and len(pictures(out, rows[0])) == 1
    assert reasons(rejects) == ["missing image", "missing image"]


MUTANTS = {
    "aihub-outdoor": outdoor(words=WORDS),
    "aihub-documents": {
        "images": [{"image.file.name": "a.jpg", "image.width": 200}],
        "annotations": [{"annotation.text": "가", "annotation.bbox": [1, 2, 30, 40]}] * 2,
    },
    "aihub-public": {
        "Images": {"identifier": "a", "type": "jpg", "width": 200, "height": 100},
        "Bbox": [{"id": 1, "data": "공", "x": [1, 1, 50, 50], "y": [5, 25, 5, 25]}] * 2,
    },
    "aihub-letters": {
        "image": {"file_name": "a.jpg"},
        "text": {"word": [{"value": "바른", "wordbox": [1, 1, 60, 30]}]},
        "info": {"text": "바른"},
    },
    "aihub-wild": wild(
        [{"id": "1", "file_name": "a.jpg", "type": "sign", "width": 200, "height": 100}],
        [("1", "1", [6, 12, 40, 20], "나", "word"), ("2", "1", [6, 12, 9, 9], "나", "character")],
    ),
}


@pytest.mark.parametrize("count", [100, pytest.param(2_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("task", ["words", "pages"])
@pytest.mark.parametrize("source", MUTANTS)
def test_mutated_labels_give_only_rows_and_rejects(tmp_path, source, task, count):
    save(tmp_path / "in" / "a.jpg", (200, 100))
    name = "textinthewild_data_info.json" if source == "aihub-wild" else "a.json"
    damaged = json_mutations(json.dumps(MUTANTS[source], ensure_ascii=False), count)
    assert_survives(source, damaged, tmp_path, name, task=task)
