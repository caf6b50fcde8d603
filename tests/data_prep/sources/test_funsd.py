import json

import pytest
from PIL import Image

from tests.helpers.sources_common import reasons, run, save, texts
from tests.tools.fuzz import assert_survives, json_mutations

FORM = {
    "form": [
        {"id": 0, "text": "TO:", "box": [10, 10, 40, 25], "label": "question", "linking": [[0, 1]]},
        {"id": 1, "text": "Ann", "box": [50, 10, 90, 25], "label": "answer", "linking": [[0, 1]]},
        {"id": 2, "text": "CC", "box": [10, 40, 40, 55], "label": "question"},
        {"id": 3, "text": "Bob", "box": [50, 40, 90, 55], "label": "answer"},
        {"id": 4, "text": "Eve", "box": [100, 40, 150, 55], "label": "answer"},
        {"id": 5, "text": "DATE", "box": [10, 70, 40, 85], "label": "question"},
        {"id": 6, "text": "", "box": [50, 70, 90, 85], "label": "other"},
    ]
}

LINKS = {2: [[2, 3], [2, 4]], 3: [[2, 3]], 4: [[2, 4]]}
for entity in FORM["form"]:
    entity.setdefault("linking", LINKS.get(entity["id"], []))
    entity["words"] = [{"text": entity["text"], "box": entity["box"]}]


def make_form(folder, name="f1", form=FORM):
    save(folder / "images" / f"{name}.png", (200, 100))
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "annotations" / f"{name}.json").write_text(json.dumps(form))


def test_funsd(tmp_path):
    make_form(tmp_path / "in" / "training_data")
    make_form(tmp_path / "in" / "testing_data", "f2")
    make_form(tmp_path / "in" / "testing_data", "f3", {"form": [{"id": 0}]})
    summary, rows, rejects = run("funsd", tmp_path / "in", tmp_path / "lines")
    assert texts(rows)[:6] == ["TO:", "Ann", "CC", "Bob", "Eve", "DATE"]
    assert summary["rows"] == {"train": 6, "test": 6}
    assert sorted(reasons(rejects)) == ["empty text", "empty text", "malformed JSON"]
    _, rows, _ = run("funsd", tmp_path / "in", tmp_path / "pages", task="pages")
    assert texts(rows)[0] == "TO: Ann\nCC Bob Eve\nDATE"
    _, rows, _ = run("funsd", tmp_path / "in", tmp_path / "fields", task="fields")
    assert json.loads(texts(rows)[0]) == {"TO:": "Ann", "CC": ["Bob", "Eve"], "DATE": ""}


@pytest.mark.parametrize("count", [100, pytest.param(2_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("task", ["lines", "fields"])
def test_mutated_forms_give_only_rows_and_rejects(tmp_path, task, count):
    Image.new("L", (200, 100)).save(tmp_path / "a.png")
    make_form(tmp_path / "in")
    damaged = json_mutations(json.dumps(FORM), count)
    assert_survives("funsd", damaged, tmp_path, "annotations/f1.json", task=task)
