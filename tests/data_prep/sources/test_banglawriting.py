import json

import pytest

from tests.helpers.sources_common import reasons, run, save, texts
from tests.tools.fuzz import assert_survives, json_mutations


def labelme(shapes, size=(200, 100), image="1_25_1.jpg") -> dict:
    return {
        "version": "4.5.6",
        "shapes": [{"label": text, "points": points} for text, points in shapes],
        "imagePath": image,
        "imageHeight": size[1],
        "imageWidth": size[0],
    }


SHAPES = [
    ("বাংলা", [[90.5, 10], [20, 30]]),
    ("*", [[100, 10], [120, 30]]),
    ("লেখা", [[20, 50], [80, 72]]),
]


def test_banglawriting(tmp_path):
    save(tmp_path / "in" / "1_25_1.jpg", (200, 100))
    (tmp_path / "in" / "1_25_1.json").write_text(json.dumps(labelme(SHAPES)))
    (tmp_path / "in" / "2_30_0.json").write_text(json.dumps(labelme(SHAPES[:1], image="gone.jpg")))
    (tmp_path / "in" / "3_30_0.json").write_text('{"shapes": 3}')
    _, rows, rejects = run("banglawriting", tmp_path / "in", tmp_path / "out")
    assert texts(rows) == ["বাংলা", "লেখা"] and {row.group for row in rows} == {"1"}
    assert (rows[0].width, rows[0].height, rows[0].language) == (71, 20, "bn")
    assert reasons(rejects) == ["struck out", "missing image", "malformed JSON"]
    _, rows, _ = run("banglawriting", tmp_path / "in", tmp_path / "pages", task="pages")
    assert texts(rows) == ["বাংলা\nলেখা"] and json.loads(rows[0].meta) == {"left_out": 1}


@pytest.mark.parametrize("count", [100, pytest.param(2_000, marks=pytest.mark.slow)])
def test_mutated_labelme_files_give_only_rows_and_rejects(tmp_path, count):
    save(tmp_path / "in" / "1_25_1.jpg", (200, 100))
    damaged = json_mutations(json.dumps(labelme(SHAPES)), count)
    assert_survives("banglawriting", damaged, tmp_path, "1_25_1.json")
