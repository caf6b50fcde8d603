"""Drafts: by the embedded model, an engine, a server; the least sure first; simulated answers."""

import pytest

from ocrkit import TrainConfig
from ocrkit.evaluation import drafts
from ocrkit.evaluation.drafts import draft, keystrokes, simulate
from ocrkit.evaluation.labelling import Labels, collect_pictures
from tests.helpers.chat_server import serving
from tests.ocrkit.evaluation.test_labelling import TEXTS, scans  # noqa: F401


@pytest.fixture
def labels(scans, tmp_path):  # noqa: F811
    return collect_pictures(scans, tmp_path / "labels", language="en")


def test_drafts_of_the_embedded_model_come_the_least_sure_first(labels):
    config = TrainConfig.from_recipe("quickstart", max_new_tokens=48)
    draft(labels, "tiny", config)
    sure = [labels.drafts[sample["id"]]["confidence"] for sample in labels.samples]
    assert sure == sorted(sure) and len(sure) == 8
    texts = {labels.draft_of(sample) for sample in labels.samples}
    assert len(texts & set(TEXTS)) >= 6
    # All are there: no model is loaded again.
    assert draft(Labels(labels.folder), "no such model", config).drafts == labels.drafts


def test_drafts_by_a_server_and_by_an_engine(labels, monkeypatch):
    pytest.importorskip("openai")
    config = TrainConfig(model_name_or_path="m", dataset="d", output_dir="r")
    with serving(lambda picture, body: "read by a server") as server:
        draft(labels, server.url, config, model="m")
    assert {labels.draft_of(sample) for sample in labels.samples} == {"read by a server"}
    assert all(line["doubts"] == [] for line in labels.drafts.values())
    labels.drafts.clear()
    read = [{"id": s["id"], "prediction": "E", "confidence": 0.4} for s in labels.samples]
    monkeypatch.setattr("ocrkit.evaluation.engines.open_engine", lambda name, rows: name)
    monkeypatch.setattr("ocrkit.evaluation.engines.read_rows", lambda rows, engine: read)
    draft(labels, "rapidocr", config)
    assert {line["reader"] for line in labels.drafts.values()} == {"rapidocr"}


def test_simulated_answers_are_the_truth_and_count_keys(labels):
    truths = {sample["id"]: "TOTAL 1.00" for sample in labels.samples}
    labels.drafts = {id: {"prediction": "TOTAL 1,00", "confidence": 0.5} for id in truths}
    assert simulate(labels, truths, 5) == {
        "pictures": 5,
        "characters": 50,
        "typed": 55,
        "corrected": 15,
    }
    assert len(labels.answers) == 5 and len(Labels(labels.folder).answers) == 5
    del truths[labels.next()["id"]]
    simulate(labels, truths)
    assert labels.next() is None
    assert sum(answer["action"] == "skip" for answer in labels.answers.values()) == 1


def test_keystrokes_are_insertions_deletions_and_enter():
    assert [keystrokes("abc", text) for text in ("abc", "ab", "abcd", "abd", "")] == [1, 2, 2, 3, 4]
    assert drafts.keystrokes("", "ab") == 3
