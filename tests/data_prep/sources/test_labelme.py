import base64
import json

import pytest
from PIL import Image

from tests.helpers.sources_common import draw, encoded, pictures, reasons, run, save, texts
from tests.tools.fuzz import assert_survives, json_mutations


def shape(label, points, kind="rectangle", **more):
    return {"label": label, "points": points, "shape_type": kind, "flags": {}, **more}


def write(folder, name, shapes, **more):
    folder.mkdir(exist_ok=True)
    label = {"shapes": shapes, "imagePath": "..\\photos\\a.png", "imageData": None} | more
    (folder / name).write_text(json.dumps(label, ensure_ascii=False), encoding="utf-8")


def test_labelme_words_are_read(tmp_path):
    save(tmp_path / "in" / "photos" / "a.png", (60, 40))
    shapes = [
        shape("간판", [[1, 2], [30, 20]]),
        shape("triangle", [[30, 2], [50, 2], [50, 20]], "polygon"),
        shape("*", [[1, 2], [30, 20]]),
        shape("round", [[1, 2], [30, 20]], "circle"),
        shape("outside", [[100, 2], [130, 20]]),
        shape("", [[1, 2], [30, 20]]),
    ]
    write(tmp_path / "in", "labels.json", shapes, imageWidth=60, imageHeight=40)
    (tmp_path / "in" / "settings.json").write_text('{"theme": "dark"}')
    summary, rows, rejects = run("labelme", tmp_path / "in", tmp_path / "out", language="ko")
    assert texts(rows) == ["간판", "triangle", "*"] and rows[0].language == "ko"
    assert reasons(rejects) == ["malformed box", "box outside picture", "empty text"]
    assert summary["found"] == len(shapes)
    assert (rows[0].width, rows[0].height) == (29, 18)


def test_a_polygon_is_cut_out(tmp_path):
    (tmp_path / "in").mkdir()
    Image.new("L", (60, 40), 0).save(tmp_path / "in" / "a.png")
    write(tmp_path / "in", "a.json", [shape("x", [[10, 0], [30, 0], [30, 20]], "polygon")])
    _, rows, _ = run("labelme", tmp_path / "in", tmp_path / "out")
    (cut,) = pictures(tmp_path / "out", rows[0])
    assert cut.size == (20, 20)
    assert cut.getpixel((17, 2)) == 0 and cut.getpixel((2, 17)) == 255


def test_descriptions_are_the_texts_where_there_are_any(tmp_path):
    save(tmp_path / "in" / "a.png")
    shapes = [
        shape("text", [[1, 2], [30, 18]], description="hello"),
        shape("text", [[30, 2], [50, 18]], description=""),
    ]
    write(tmp_path / "in", "a.json", shapes)
    _, rows, rejects = run("labelme", tmp_path / "in", tmp_path / "out")
    assert texts(rows) == ["hello"] and '"label": "text"' in rows[0].meta
    assert reasons(rejects) == ["empty text"]
    _, rows, _ = run("labelme", tmp_path / "in", tmp_path / "pages", task="pages")
    assert texts(rows) == ["hello"]


def test_a_picture_in_the_file_is_taken_where_none_lies_beside_it(tmp_path):
    data = base64.b64encode(encoded(draw((60, 20), mark=7))).decode()
    write(tmp_path / "in", "a.json", [shape("x", [[0, 0], [60, 20]])], imageData=data)
    _, rows, _ = run("labelme", tmp_path / "in", tmp_path / "out")
    (cut,) = pictures(tmp_path / "out", rows[0])
    assert cut.convert("RGB").tobytes() == draw((60, 20), mark=7).tobytes()


@pytest.mark.parametrize("count", [500, pytest.param(2_000, marks=pytest.mark.slow)])
def test_damaged_annotations_give_only_rows_and_rejects(tmp_path, count):
    save(tmp_path / "in" / "a.png", (60, 40))
    shapes = [
        shape("간판", [[1, 2], [30, 20]]),
        shape("x", [[30, 2], [50, 4], [50, 20]], "polygon", description="y"),
    ]
    label = {"shapes": shapes, "imagePath": "a.png", "imageWidth": 60, "imageHeight": 40}
    damaged = json_mutations(json.dumps(label, ensure_ascii=False), count)
    assert assert_survives("labelme", damaged, tmp_path, "a.json") > 0
