from tests.helpers.aihub import dump
from tests.helpers.sources_common import reasons, run, save, texts


def test_public_administration_words_are_read(tmp_path):
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
