import json
import math

import pytest
from PIL import Image, ImageDraw

from tests.helpers.sources_common import pictures, reasons, run, save, texts
from tests.tools.fuzz import assert_survives, json_mutations

SIZE = {"original_width": 200, "original_height": 100}


def region(key, place, kind="rectanglelabels", **value):
    """A result of a region: its place in percents."""
    names = ("x", "y", "width", "height")
    place = dict(zip(names, place)) if len(place) == 4 else {"points": place}
    value = {**place, "rotation": 0, kind: ["Text"], **value}
    return {"id": key, "type": kind, "value": value, "from_name": "label", **SIZE}


def text(key, *lines):
    """A result of a region's text area."""
    value = {"x": 0, "y": 0, "width": 1, "height": 1, "text": list(lines)}
    return {"id": key, "type": "textarea", "value": value, "from_name": "transcription", **SIZE}


def task(*results, image="/data/upload/1/0a1b2c3d-a%20b.png", **more):
    return {"id": 1, "data": {"image": image}, "annotations": [{"result": list(results)}], **more}


def read(folder, tasks, **options):
    (folder / "in").mkdir(exist_ok=True)
    (folder / "in" / "project-1.json").write_text(json.dumps(tasks))
    out = folder / f"out-{len(list(folder.iterdir()))}"
    return (*run("label-studio", folder / "in", out, split="1,0,0", **options), out)


def test_regions_are_joined_with_their_texts(tmp_path):
    image = Image.new("L", (200, 100), 255)
    ImageDraw.Draw(image).rectangle((20, 10, 59, 29), fill=0)
    (tmp_path / "in").mkdir()
    image.save(tmp_path / "in" / "a b.png")
    results = [
        region("r1", (10, 10, 20, 20)),
        text("r1", "two", "lines"),
        region("r2", (50, 50, 10, 10)),
        region("r3", [[10, 60], [30, 60], [30, 90]], "polygonlabels"),
        text("r3", "polygon"),
        region("r4", (200, 200, 10, 10)),
        text("r4", "outside"),
        {"type": "relation", "from_id": "r1", "to_id": "r3"},
        {"id": "c", "type": "choices", "value": {"choices": ["good"]}},
    ]
    summary, rows, rejects, out = read(tmp_path, [task(*results)])
    assert texts(rows) == ["two\nlines", "polygon"]
    assert reasons(rejects) == ["null text", "box outside picture"]
    assert {row.group for row in rows} == {"a b"} and '"label": "Text"' in rows[0].meta
    (cut,) = pictures(out, rows[0])
    assert cut.size == (40, 20) and cut.getextrema() == (0, 0)
    places = {
        result["id"]
        for result in results
        if "x" in result.get("value", "") or "p" in result["type"][:1]
    }
    assert summary["found"] == len(places) == 4


@pytest.mark.parametrize("rotation", [0, 30, 90, 330])
def test_rotated_label_studio_box_is_straightened(tmp_path, rotation):
    # A black box of 60 x 20 pixels, turned clockwise around its first corner.
    turn, corner = math.radians(rotation), (100, 35)
    cosine, sine = math.cos(turn), math.sin(turn)
    points = [
        (corner[0] + x * cosine - y * sine, corner[1] + x * sine + y * cosine)
        for x, y in ((0, 0), (60, 0), (60, 20), (0, 20))
    ]
    image = Image.new("L", (200, 100), 255)
    ImageDraw.Draw(image).polygon(points, fill=0)
    (tmp_path / "in").mkdir()
    image.save(tmp_path / "in" / "a b.png")
    results = [region("r", (50, 35, 30, 20), rotation=rotation), text("r", "x")]
    _, rows, _, out = read(tmp_path, [task(*results)])
    (cut,) = pictures(out, rows[0])
    assert cut.size == (60, 20)
    assert cut.crop((2, 2, 58, 18)).getextrema()[1] < 60


def test_predictions_and_further_annotations_are_not_truths(tmp_path):
    save(tmp_path / "in" / "a.png", (200, 100))
    results = [region("r", (10, 10, 20, 20)), text("r", "first")]
    two = [region("s", (10, 10, 20, 20)), text("s", "second")]
    both = task(*results, image="a.png")
    both["annotations"].append({"result": two, "ground_truth": True})
    both["annotations"].append({"result": two, "was_cancelled": True})
    guess = {"data": {"ocr": "a.png"}, "predictions": [{"result": results}]}
    _, rows, rejects, _ = read(tmp_path, [both, guess, {"data": {"ocr": "a.png"}}])
    assert texts(rows) == ["second"]
    assert reasons(rejects) == [
        *("another annotation of the picture",) * 2,
        *("prediction, no annotation", "missing annotation"),
    ]


@pytest.mark.parametrize("image", ["/data/local-files/?d=sets/a.png", "http://x.org/up/a.png"])
def test_pictures_are_found_as_label_studio_names_them(tmp_path, image):
    save(tmp_path / "photos" / "a.png", (200, 100))
    results = [region("r", (10, 10, 20, 20)), text("r", "x")]
    _, rows, _, _ = read(tmp_path, [task(*results, image=image)], images=str(tmp_path / "photos"))
    assert texts(rows) == ["x"]


def test_a_picture_on_the_web_is_not_fetched(tmp_path):
    save(tmp_path / "in" / "a b.png", (200, 100))
    results = [region("r", (10, 10, 20, 20)), text("r", "x")]
    remote = task(*results, image="https://example.org/gone.png")
    _, rows, rejects, _ = read(tmp_path, [task(*results), remote])
    assert len(rows) == 1 and reasons(rejects) == ["remote image"]


def test_label_studio_json_min_export_is_read(tmp_path):
    save(tmp_path / "in" / "fe00.png", (200, 100))
    box = {"x": 10, "y": 10, "width": 20, "height": 20, "rotation": 0, **SIZE}
    other = box | {"x": 50}
    labelled = [place | {"rectanglelabels": ["Text"]} for place in (box, other)]
    tasks = [
        {"ocr": "/data/upload/1/fe00.png", "id": 2, "bbox": [box], "transcription": "one"},
        {"ocr": "fe00.png", "bbox": [box, other], "label": labelled, "transcription": ["a", "b"]},
        {"ocr": "fe00.png", "bbox": [box, other], "transcription": ["a"]},
        {"ocr": "fe00.png", "transcription": "the whole"},
    ]
    _, rows, rejects, _ = read(tmp_path, tasks)
    assert texts(rows) == ["one", "a", "b", "the whole"]
    assert rows[3].width == 200
    assert reasons(rejects) == ["null text"] * 2


@pytest.mark.parametrize("value", [10**400, float("inf"), "x", None, [1]])
@pytest.mark.parametrize("name", ["x", "width", "rotation", "original_width"])
def test_invalid_place_rejects_its_region_only(tmp_path, name, value):
    save(tmp_path / "in" / "a.png", (200, 100))
    bad = region("b", (10, 10, 20, 20))
    (bad if name == "original_width" else bad["value"])[name] = value
    results = [bad, text("b", "bad"), region("r", (10, 10, 20, 20)), text("r", "good")]
    written = json.dumps([task(*results, image="a.png")]).replace("Infinity", "1e999")
    (tmp_path / "in" / "project.json").write_text(written)
    _, rows, rejects = run("label-studio", tmp_path / "in", tmp_path / "out", split="1,0,0")
    # A rotation of null is none.
    read = ["bad", "good"] if (name, value) == ("rotation", None) else ["good"]
    assert texts(rows) == read and len(rejects) == 2 - len(read)


def test_pages_are_read_in_order(tmp_path):
    save(tmp_path / "in" / "a.png", (200, 100))
    results = [
        *(region("b", (10, 60, 20, 20)), text("b", "below")),
        *(region("r", (50, 10, 20, 20)), text("r", "right")),
        *(region("l", (10, 10, 20, 20)), text("l", "left")),
    ]
    _, rows, _, _ = read(tmp_path, [task(*results, image="a.png")], task="pages")
    assert texts(rows) == ["left right\nbelow"]


@pytest.mark.parametrize("count", [500, pytest.param(2_000, marks=pytest.mark.slow)])
def test_damaged_exports_give_only_rows_and_rejects(tmp_path, count):
    save(tmp_path / "in" / "a.png", (200, 100))
    results = [region("r", (10, 10, 20, 20), rotation=10), text("r", "x")]
    results += [region("p", [[10, 60], [30, 60], [30, 90]], "polygonlabels"), text("p", "y")]
    brief = {"ocr": "a.png", "bbox": [results[0]["value"] | SIZE], "transcription": "x"}
    whole = json.dumps([task(*results, image="a.png"), brief])
    damaged = json_mutations(whole, count)
    assert assert_survives("label-studio", damaged, tmp_path, "project.json") > 0
