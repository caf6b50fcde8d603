"""Labelling folders: pictures, answers on disk, restarts, and the dataset that comes of them."""

import json

import pytest
from PIL import Image, ImageDraw

from data_prep.synthetic.render import draw_line, load_font, shipped_fonts
from data_prep.validate import validate
from ocrkit import TrainConfig, load_data
from ocrkit.errors import DataError
from ocrkit.evaluation.evaluation import Evaluation
from ocrkit.evaluation.labelling import ANSWERS, Labels, clean_answer, collect_pictures

TEXTS = [f"TOTAL {n}.00" for n in range(8)]


@pytest.fixture
def scans(tmp_path):
    """Eight lines of print of four pages, one broken file, and one blank picture."""
    folder = tmp_path / "scans"
    folder.mkdir()
    font = load_font(shipped_fonts("DejaVuSans")[0], 21)
    for n, text in enumerate(TEXTS):
        draw_line(text, font).save(folder / f"page{n // 2}_line_{n % 2}.png")
    (folder / "broken.png").write_bytes(b"none")
    return folder


@pytest.fixture
def labels(scans, tmp_path):
    return collect_pictures(scans, tmp_path / "labels", language="en")


def test_answers_are_saved_at_once_and_resumed_after_a_restart(labels):
    ids = [sample["id"] for sample in labels.samples]
    assert len(ids) == 8 and labels.next()["id"] == ids[0]
    for number, id in enumerate(ids[:3]):
        labels.answer(id, "take", TEXTS[number], 2.0)
        again = Labels(labels.folder)
        assert again.answers[id]["text"] == TEXTS[number]
        assert again.next()["id"] == ids[number + 1]
    assert labels.progress() == "3 of 8 · about 1 min left · 300 characters a minute"
    labels.answer("", "undo")
    assert labels.next()["id"] == Labels(labels.folder).next()["id"] == ids[2]
    labels.answer(ids[2], "skip")
    labels.answer(ids[0], "take", "other")  # by way of "previous"
    labels.answer("", "undo")
    again = Labels(labels.folder)
    assert ids[0] not in again.answers and again.answers[ids[2]]["action"] == "skip"
    assert again.next()["id"] == ids[0]
    # Undone answers are still in the file: nothing that was typed is lost.
    assert "other" in (labels.folder / ANSWERS).read_text()


def test_truncated_answer_line_loses_no_other_answer(labels):
    ids = [sample["id"] for sample in labels.samples]
    labels.answer(ids[0], "take", "one")
    with (labels.folder / ANSWERS).open("a") as file:
        file.write('{"id": "' + ids[1])
    again = Labels(labels.folder)
    again.answer(ids[1], "take", "two")
    last = Labels(labels.folder).answers
    assert {id: answer["text"] for id, answer in last.items()} == {ids[0]: "one", ids[1]: "two"}


def test_full_disk_records_no_answer(labels, full_disk):
    id = labels.samples[0]["id"]
    with full_disk(0), pytest.raises(OSError, match="No space left on the disk"):
        labels.answer(id, "take", "text")
    assert id not in labels.answers and labels.next()["id"] == id


def test_empty_texts_and_control_characters(labels):
    id = labels.samples[0]["id"]
    for text in ("", "  ", "\x00\x1b"):
        assert "empty" in labels.answer(id, "take", text)
    assert not labels.answers
    assert (
        labels.answer(id, "take", "a\x00b\tc\x1b[0m\r\nd") == "2 control characters were removed."
    )
    assert labels.answers[id]["text"] == "ab c[0m\nd"
    assert clean_answer("\u09af\u09bc\ud800") == ("\u09af\u09bc", 1)
    with pytest.raises(ValueError, match="is no answer"):
        labels.answer("nobody", "take", "x")


def test_answers_become_a_dataset_that_validates(labels, tmp_path):
    by_name = {sample["id"].rpartition("/")[2]: sample["id"] for sample in labels.samples}
    ordered = [by_name[name] for name in sorted(by_name)]
    labels.drafts = {id: {"id": id, "prediction": "TOTAL", "confidence": 0.5} for id in ordered}
    for id, text in zip(ordered[:6], TEXTS):
        labels.answer(id, "take", text)
    labels.answer(ordered[6], "unreadable")
    labels.answer(ordered[7], "skip")
    evaluation = labels.write(tmp_path / "data", shares=(0.5, 0.0, 0.5))
    # The drafts lack the last 5 characters of 10.
    assert evaluation.metrics["cer"]["value"] == 0.5 and len(evaluation.records) == 6
    assert Evaluation.load(labels.folder / "eval" / "draft").metrics == evaluation.metrics
    assert validate(tmp_path / "data")["ok"]
    config = TrainConfig(dataset=str(tmp_path / "data"), output_dir=str(tmp_path / "run"))
    data = load_data(config)
    texts = {row["completion"][0]["content"] for split in data.values() for row in split}
    assert texts == set(TEXTS[:6])
    groups = [{row["group"] for row in split} for split in data.values()]
    assert not groups[0] & groups[1] and len(groups[0] | groups[1]) == 3
    rejects = (tmp_path / "data" / "rejects.jsonl").read_text().splitlines()
    assert {json.loads(line)["reason"] for line in rejects} == {"cannot be read", "skipped"}
    # The same answers again are the same dataset; other answers ask for another folder.
    labels.write(tmp_path / "data", shares=(0.5, 0.0, 0.5))
    labels.answer(ordered[7], "take", "late")
    with pytest.raises(DataError, match=r"already holds a dataset .* choose another --out"):
        labels.write(tmp_path / "data", shares=(0.5, 0.0, 0.5))


def test_labels_without_answers_write_no_dataset(labels, tmp_path):
    with pytest.raises(DataError, match="no text was taken yet"):
        labels.write(tmp_path / "data")
    with pytest.raises(DataError, match="collect_pictures makes such a folder"):
        Labels(tmp_path / "nowhere")


def test_rows_of_a_dataset_are_pictures(thermal, tmp_path):
    config = TrainConfig(dataset=str(thermal), output_dir=str(tmp_path / "run"))
    rows = load_data(config)["test"]
    labels = collect_pictures(rows, tmp_path / "labels")
    assert {sample["id"] for sample in labels.samples} == set(rows["id"])
    assert {sample["group"] for sample in labels.samples} == set(rows["group"])
    assert len(labels.rows()) == len(rows) and labels.picture(labels.samples[0]).is_file()


def test_pages_are_cut_into_lines(tmp_path):
    pytest.importorskip("rapidocr")
    picture = Image.new("L", (700, 240), 255)
    font = load_font(shipped_fonts("DejaVuSans")[0], 24)
    for row in range(2):
        text = f"The river was {row}"
        ImageDraw.Draw(picture).text((40, 40 + 90 * row), text, font=font, fill=0)
    (tmp_path / "in").mkdir()
    picture.save(tmp_path / "in" / "page.png")
    labels = collect_pictures(tmp_path / "in", tmp_path / "labels", lines=True)
    assert [sample["id"][-9:] for sample in labels.samples] == ["_line_001", "_line_002"]
    assert {sample["group"] for sample in labels.samples} == {"page.png"}
