"""Rounds of labelling: which pictures are corrected, what is counted, and the table."""

from types import SimpleNamespace

import pytest
from datasets import Dataset

from ocrkit import TrainConfig
from ocrkit.training import rounds as module
from ocrkit.training.rounds import rounds, rounds_table

INTERVAL = {"value": 0.25, "low": 0.125, "high": 0.5}


def split(count):
    return Dataset.from_list(
        [
            {
                "id": f"r{n}",
                "completion": [{"role": "assistant", "content": f"line {n:02d}"}],
            }
            for n in range(count)
        ]
    )


@pytest.fixture
def trained(monkeypatch):
    """Ids of each training; the model reads "line" and is surest of the highest numbers."""
    calls = []

    def read(model, processor, rows, config):
        for id in rows["id"][::-1]:
            yield {"id": id, "prediction": "line", "confidence": int(id[1:]) / 100}

    def train(model, processor, data, config):
        calls.append((config.seed, list(data["train"]["id"])))

    evaluation = SimpleNamespace(metrics={"cer": INTERVAL})
    monkeypatch.setattr(module, "load_model", lambda config: (object(), None))
    monkeypatch.setattr(module, "predict_stream", read)
    monkeypatch.setattr(module, "train", train)
    monkeypatch.setattr(module, "evaluate", lambda *_, **__: evaluation)
    return calls


def test_rounds_correct_least_confident_rows_or_as_many_random_ones(trained, tmp_path):
    config = TrainConfig.from_recipe("tiny", output_dir=str(tmp_path))
    lines = rounds(config, {"train": split(30), "test": split(3)}, 5, seeds=[1, 2])
    assert [(x["seed"], x["choice"], x["round"], x["pictures"]) for x in lines[:4]] == [
        (1, "least sure", 1, 5),
        (1, "least sure", 2, 10),
        (1, "random", 1, 5),
        (1, "random", 2, 10),
    ]
    assert len(lines) == len(trained) == 8 and trained[0][0] == 1 and trained[4][0] == 2
    assert sorted(trained[0][1]) == [f"r{n}" for n in range(5)]
    assert sorted(trained[1][1]) == sorted(f"r{n}" for n in range(10))
    chosen = [set(ids) for _, ids in trained]
    # Random pictures are others with another seed, and a round adds to those before it.
    assert chosen[2] < chosen[3] and chosen[3] != chosen[7] and len(chosen[3]) == 10
    # " 00" is typed after the draft "line", and Enter.
    assert lines[0]["corrected"] == 5 * 4 and lines[0]["typed"] == 5 * 8
    assert lines[0]["draft_cer"] == 3 / 7
    shown = rounds_table(lines)
    expected = "5 least sure 1 25.0 % [12.5, 50.0] 42.9% 20 40"
    assert " ".join(shown.text.splitlines()[1].split()) == expected
    assert str(shown.html).count("<tr>") == 9
