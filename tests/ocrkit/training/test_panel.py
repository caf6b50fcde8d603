"""Parts of the panel; the panel in a running kernel: tests/end_to_end/test_widgets.py."""

import json
from types import SimpleNamespace

import pytest
from markupsafe import escape

from ocrkit.run_folder import append_log, write_run
from ocrkit.training.callbacks import StopOnSignal
from ocrkit.training.panel import (
    BEGUN,
    TrainingPanel,
    clock,
    curves_picture,
    last_samples,
    sample_table,
)

SAMPLE = {"id": "1", "reference": "a<b", "prediction": "a<c"}
LOG = [
    {"step": 1, "loss": 2.0},
    {"step": 2, "loss": 1.0, "eval_cer": 0.5, "samples": [SAMPLE]},
    {"step": 3, "loss": 0.5},
]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (65.4, "1:05"), (3599.6, "1:00:00"), (7385, "2:03:05")]
)
def test_durations_are_formatted_for_reading(seconds, text):
    assert clock(seconds) == text


def test_samples_are_those_of_the_last_evaluation():
    assert last_samples(LOG) == [SAMPLE] and last_samples(LOG[:1]) == []
    html = sample_table(LOG)
    assert "CER 33%" in html and "a&lt;b" in html and "a<b" not in html
    assert sample_table([]) == ""


def test_panel_curves_are_a_picture_after_the_first_loss():
    picture = curves_picture(LOG)
    assert picture is not None and picture.startswith(b"\x89PNG")
    assert curves_picture([]) is None


@pytest.mark.parametrize(
    ("weights", "points"), [("start", [(0, 0.75), (2, 0.5)]), ("others", [(2, 0.5)])]
)
def test_panel_curves_begin_with_the_cer_of_the_base(weights, points, tmp_path):
    for entry in LOG:
        append_log(tmp_path / "train_log.jsonl", entry)
    write_run(tmp_path, {"id": "a", "start": "start"})
    base = tmp_path / "eval" / "base"
    base.mkdir(parents=True)
    summary = {"weights": weights, "metrics": {"cer": {"value": 0.75}}}
    (base / "metrics.json").write_text(json.dumps(summary))
    panel = TrainingPanel(tmp_path, StopOnSignal())
    panel.state = SimpleNamespace(global_step=3)
    panel.log = panel._read()
    history = panel._history()
    assert [(e["step"], e["eval_cer"]) for e in history if "eval_cer" in e] == points
    assert (escape(BEGUN) in panel._curves()) == (points[0][0] == 0)
    # Numbers and samples stay those of the training.
    assert panel.log == LOG
