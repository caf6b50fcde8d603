from tests.helpers.aihub import dump
from tests.helpers.sources_common import run, save, texts


def test_aihub_document_words_are_read(tmp_path):
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
