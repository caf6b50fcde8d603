import json

from tests.helpers.aihub import dump, jpeg, pack, wild
from tests.helpers.sources_common import pictures, reasons, run, save, texts


def test_text_in_the_wild_with_its_pictures_in_other_archives(tmp_path):
    images = [{"id": "1", "file_name": "a.jpg", "type": "sign", "width": 200, "height": 100}]
    label = wild(images, [("1", "1", [60, 12, 40, 20], "나", "word")])
    inputs = [tmp_path / "textinthewild_data_info.json"]
    dump(inputs[0], label)
    inputs.append(pack(tmp_path / "01_textinthewild_signboard.zip", {"sign/a.jpg": jpeg(1)}))
    _, rows, rejects = run("aihub-wild", inputs, tmp_path / "out", split="1,0,0")
    assert texts(rows) == ["나"] and not rejects


def test_aihub_text_in_the_wild_is_read(tmp_path):
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
