import json

import pytest

from data_prep.dataset.schema import DataError
from tests.helpers.sources_common import (
    real_data,
    reasons,
    run,
    save,
    texts,
)


def aqua(image, question, answer="people", knowledge=False):
    return {
        "image": image,
        "question": question,
        "answer": answer,
        "need_external_knowledge": knowledge,
    }


def make_aqua(folder):
    for name in ("1-a.jpg", "2-b.jpg"):
        save(folder / "Images" / name, mark=int(name[0]))
    records = [
        aqua("1-a.jpg", "what stands"),
        aqua("1-a.jpg", "who painted it", "Ann", True),
        aqua("2-b.jpg", "who painted it", "Bob", True),
        aqua("3-c.jpg", "gone"),
        {"image": "1-a.jpg"},
    ]
    (folder / "train.json").write_text(json.dumps(records))
    (folder / "val.json").write_text(json.dumps([aqua("1-a.jpg", "again")]))
    table = "IMAGE_FILE\tDESCRIPTION\tAUTHOR\n1-a.jpg\tA caf\xe9 by Ann.\tAnn\n"
    (folder / "semart.csv").write_bytes(table.encode("cp1252"))


def test_aqua_prompt_holds_knowledge_of_questions_that_need_it(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    make_aqua(source)
    options = {"images": str(source / "Images"), "knowledge": str(source / "semart.csv")}
    summary, rows, rejects = run("aqua", source, out, **options)
    assert summary["rows"] == {"train": 2, "validation": 1} and summary["tasks"] == {"vqa": 3}
    asked = [row.prompt[0]["content"] for row in rows]
    assert asked == ["what stands", "A café by Ann.\n\nwho painted it", "again"]
    assert [json.loads(row.meta)["need_external_knowledge"] for row in rows] == [False, True, False]
    assert reasons(rejects) == ["missing knowledge", "missing image", "malformed record"]
    assert len(list((out / "train").rglob("*.jpg"))) == 1
    _, rows, _ = run("aqua", source, tmp_path / "bare", images=str(source / "Images"))
    assert len(rows) == 4 and rows[2].prompt[0]["content"] == "who painted it"


def test_aqua_takes_the_knowledge_of_all_splits_from_semarts_folder(tmp_path):
    source = tmp_path / "in"
    make_aqua(source)
    options = {"images": str(source / "Images"), "knowledge": str(tmp_path / "SemArt")}
    (tmp_path / "SemArt").mkdir()
    with pytest.raises(DataError, match="SemArt holds no semart_"):
        run("aqua", source, tmp_path / "none", **options)
    for name, image, text in (("train", "1-a.jpg", "Ann's."), ("test", "2-b.jpg", "Bob's.")):
        table = f"IMAGE_FILE\tDESCRIPTION\n{image}\t{text}\n"
        (tmp_path / "SemArt" / f"semart_{name}.csv").write_text(table)
    _, rows, rejects = run("aqua", source, tmp_path / "out", **options)
    asked = [row.prompt[0]["content"] for row in rows]
    assert "Ann's.\n\nwho painted it" in asked and "Bob's.\n\nwho painted it" in asked
    assert reasons(rejects) == ["missing image", "malformed record"]
    (tmp_path / "SemArt" / "semart_val.csv").write_text("a\tb\n")
    with pytest.raises(DataError, match=r"semart_val.csv lacks the columns"):
        run("aqua", source, tmp_path / "other", **options)


@pytest.mark.real_data
def test_real_aqua_questions_find_their_pictures(tmp_path):
    source = real_data("vqa_aqua_text") / "val_excerpt.json"
    records = json.loads(source.read_text())
    # The paintings are not there: stand-ins of the same names.
    for record in records:
        save(tmp_path / "images" / record["image"])
    options = {"images": str(tmp_path / "images")}
    summary, rows, _ = run("aqua", source, tmp_path / "out", **options)
    assert texts(rows) == [record["answer"] for record in records]
    assert summary["rows"] == {"validation": 8}
