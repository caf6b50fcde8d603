"""Type errors: none beyond the baseline, and a user's script with public names is checked."""

import pytest

from tests.tools import check_types
from tests.tools.check_types import MOST_ANY, MOST_ERRORS, TYPED, read_baseline, run_ty

SCRIPT = """
from ocrkit import TrainConfig, compare, evaluate, export
from ocrkit import find_lr, load_data, load_model, plan, train

config = TrainConfig({setting}=8)
data = load_data(config)
model, processor = load_model(config)
plan(config, data, model, processor)
before = evaluate(model, processor, data["test"], config, name="base")
result = train(model, processor, data, config)
after = evaluate(model, processor, data["test"], config, name="tuned")
compare(before, after).save("report", history=result.history)
export(model, processor, "merged", format="merged_16bit")
find_lr(config, data, model, processor)
"""


def test_no_file_has_more_type_errors_than_the_baseline(capsys):
    assert check_types.main([]) == 0, capsys.readouterr().out


def test_the_baseline_keeps_its_limits():
    baseline = read_baseline()
    assert sum(baseline["errors"].values()) <= MOST_ERRORS
    assert baseline["any_parameters"] <= MOST_ANY
    assert not [name for name in baseline["errors"] if name.startswith(TYPED)]


@pytest.mark.parametrize(("setting", "count"), [("lora_r", 0), ("lora_rr", 1)])
def test_a_script_with_a_misspelt_setting_is_an_error(tmp_path, setting, count):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("{setting}", setting))
    errors = run_ty(script)
    assert len(errors) == count, errors
    assert all("unknown-argument" in error and "lora_rr" in error for error in errors)


def test_a_new_error_exceeds_the_baseline(monkeypatch, capsys):
    baseline = {"any_parameters": 2, "errors": {"ocrkit/doctor.py": 1}}
    monkeypatch.setattr(check_types, "read_baseline", lambda: baseline)
    monkeypatch.setattr(check_types, "count_any", lambda: 1)
    error = "{}:1:2: error[rule] message"
    errors = [error.format("ocrkit/doctor.py"), error.format("ocrkit/places.py")]
    monkeypatch.setattr(check_types, "run_ty", lambda *paths: errors)
    assert check_types.main(["--lower"]) == 1
    assert "ocrkit/places.py: 1, baseline 0\nocrkit/places.py:1:2" in capsys.readouterr().out
    monkeypatch.setattr(check_types, "run_ty", lambda *paths: errors[:1])
    assert check_types.main([]) == 0
    assert "parameters annotated Any: 1, baseline 2" in capsys.readouterr().out
