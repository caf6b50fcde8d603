"""Relabelling: what a report suspects, and a new dataset with a record of its changes."""

import json

import pytest

from data_prep.dataset.schema import DataError
from data_prep.validate import validate
from ocrkit import TrainConfig, load_data
from ocrkit.evaluation.evaluation import score
from ocrkit.evaluation.label_widget import table, view
from ocrkit.evaluation.relabel import relabel, write_corrected


@pytest.fixture
def data(thermal, tmp_path):
    return load_data(TrainConfig(dataset=str(thermal), output_dir=str(tmp_path / "run")))


def evaluation_of(rows, wrong):
    """All read right, but for `wrong`: {number: (prediction, confidence)}."""
    records = []
    for number, row in enumerate(rows):
        truth = row["completion"][0]["content"]
        prediction, confidence = wrong.get(number, (truth, 0.99))
        records.append(
            {
                "id": row["id"],
                "reference": truth,
                "prediction": prediction,
                "confidence": confidence,
            }
        )
    return score(records, "tuned")


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_relabel_shows_suspects_first_and_writes_a_corrected_dataset(data, thermal, tmp_path):
    rows, before = data["test"], snapshot(thermal)
    wrong = {1: ("SURELY THIS", 0.99), 4: ("x", 0.2), 6: ("", None)}
    labels = relabel(evaluation_of(rows, wrong), tmp_path / "labels", data)
    ids = [rows[n]["id"] for n in (1, 4, 6)]
    assert labels.samples[0]["id"] == ids[0] and {s["id"] for s in labels.samples} == set(ids)
    assert [sample["why"] for sample in labels.samples] == ["suspect label"] + [
        "among the worst"
    ] * 2
    # A suspect's box begins with the reading, another's with its label.
    assert labels.draft_of(labels.samples[0]) == "SURELY THIS"
    assert labels.draft_of(labels.samples[1]) == labels.samples[1]["label"]
    labels.answer(ids[0], "take", "SURELY THIS")
    labels.answer(ids[1], "unreadable")
    labels.answer(ids[2], "take", labels.draft_of(labels.samples[labels.place[ids[2]]]))
    out = tmp_path / "corrected"
    changes = write_corrected(data, labels, out)
    old = {row["id"]: row["completion"][0]["content"] for row in rows}
    first = {"id": ids[0], "split": "test", "old": old[ids[0]], "new": "SURELY THIS"}
    second = {"id": ids[1], "split": "test", "old": old[ids[1]], "new": None}
    expected = [first | {"why": "suspect label"}, second | {"why": "among the worst"}]
    assert sorted(changes, key=str) == sorted(expected, key=str)
    assert [
        json.loads(line) for line in (out / "changes.jsonl").read_text().splitlines()
    ] == changes
    assert snapshot(thermal) == before and validate(out)["ok"]
    corrected = load_data(TrainConfig(dataset=str(out), output_dir=str(tmp_path / "run2")))
    assert {split: len(part) for split, part in corrected.items()} == {
        split: len(part) - (split == "test") for split, part in data.items()
    }
    new = {row["id"]: row["completion"][0]["content"] for row in corrected["test"]}
    assert new[ids[0]] == "SURELY THIS" and ids[1] not in new
    assert {id: text for id, text in new.items() if id != ids[0]}.items() <= old.items()
    assert write_corrected(data, labels, out) == changes
    labels.answer(ids[1], "take", "after all")
    with pytest.raises(DataError, match="choose another --out"):
        write_corrected(data, labels, out)


def test_relabel_without_suspects_prints_one_sentence(data, tmp_path, capsys):
    labels = relabel(evaluation_of(data["test"], {}), tmp_path / "labels", data)
    assert "no label is suspect, and nothing was read wrong" in capsys.readouterr().out
    assert labels.samples == []
    assert view(labels, labels.next())["note"] == "Nothing is to be checked."
    assert "0 of 0" in repr(table(labels))
    assert write_corrected(data, labels, tmp_path / "corrected") == []
    # Another evaluation is not kept from it.
    wrong = {0: ("wrong", 0.1)}
    assert relabel(evaluation_of(data["test"], wrong), tmp_path / "labels", data).samples
