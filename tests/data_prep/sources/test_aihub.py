import json
import zipfile

import pytest

from data_prep.dataset.schema import DataError
from tests.helpers.aihub import WORDS, dump, jpeg, outdoor, pack, wild
from tests.helpers.sources_common import draw, encoded, pictures, reasons, run, save, texts
from tests.tools.fuzz import assert_survives, json_mutations


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
