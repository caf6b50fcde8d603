"""Values of settings: by their type and as written, from shell, papermill, YAML and Python."""

import math
import subprocess
import sys

import pytest

from data_prep.dataset.command import parse_float, parse_int
from ocrkit.__main__ import main
from ocrkit.config import TrainConfig
from ocrkit.config.names import ATTENTION, OPTIMIZERS, SCHEDULES
from ocrkit.config.values import read_settings
from ocrkit.errors import ConfigError
from ocrkit.evaluation.evaluation import score
from ocrkit.training.lr_finder import check_range


@pytest.mark.parametrize(
    ("text", "value"), [("12", 12), ("-1", -1), ("1e6", 10**6), ("2.0", 2), (" 7 ", 7), ("0", 0)]
)
def test_parse_int_reads_whole_numbers(text, value):
    assert parse_int(text) == value
    assert isinstance(parse_int(text), int)


YAML_1_1 = ["010", "1:30", "0x10", "0o10", "0b1", "1_000", "+010"]
NONSENSE = ["", "one", "1 2", "٣", "1e", "--1", "1.5.2", "9" * 5000 + "x", "true"]


@pytest.mark.parametrize("text", [*YAML_1_1, *NONSENSE, "1.5", ".inf", "nan", "1e400"])
def test_parse_int_rejects_other_text(text):
    with pytest.raises(ValueError):
        parse_int(text)


@pytest.mark.parametrize("text", [*YAML_1_1, *NONSENSE])
def test_parse_float_rejects_other_text(text):
    with pytest.raises(ValueError):
        parse_float(text)


def ways(name, text, tmp_path):
    """The same text for a setting by a command line's way, papermill's and a YAML file's."""
    path = tmp_path / "recipe.yaml"
    path.write_text(f"{name}: {text}\n")
    yield lambda: TrainConfig.from_dict({name: text})
    yield lambda: TrainConfig.from_parameters({name: text})
    yield lambda: TrainConfig.from_recipe(str(path))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("seed", text) for text in [*YAML_1_1, ".inf", "-1", "4294967296", "1e400", "1.5", "on"]),
        *(("learning_rate", text) for text in [*YAML_1_1, ".inf", ".nan", "-.inf", "1e400", "0"]),
        ("warmup_steps", "1e23"),
        ("max_steps", "1e10"),
        ("lora_r", "1e9"),
        ("lora_alpha", "99999999"),
        ("image_height", "1e6"),
        ("dataloader_num_workers", "100000"),
        ("use_peft", "1"),
        ("use_peft", "2.0"),
        ("optim", "adamw"),
        ("lr_scheduler_type", "cosin"),
        ("attn_implementation", "flash"),
        ("device_map", "everywhere"),
        ("loss", "focale"),
        ("tags", "a,,b"),
        ("tags", "{a: b}"),
        ("tags", "[[a]]"),
        ("prompts", "OCR"),
        ("augmentation", "[blur]"),
        ("sft_kwargs", "{1: 2}"),
        ("sft_kwargs", "[" * 800),
    ],
)
def test_invalid_setting_is_refused_by_every_interface(name, text, tmp_path):
    for way in ways(name, text, tmp_path):
        with pytest.raises(ConfigError) as raised:
            way()
        assert "\n" not in str(raised.value) and len(str(raised.value)) < 1500


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("max_steps", "1e6", 10**6),
        ("seed", "4294967295", 2**32 - 1),
        ("learning_rate", "1e-4", 1e-4),
        ("learning_rate", "5.e-5", 5e-5),
        ("use_peft", "on", True),
        ("streaming", "No", False),
        ("run_name", "010", "010"),
        ("run_name", "1:30", "1:30"),
        ("run_name", "on", "on"),
        ("run_name", "2024-01-01", "2024-01-01"),
        ("run_name", "1e6", "1e6"),
        ("tags", "a,b", ["a", "b"]),
        ("tags", "[a, b]", ["a", "b"]),
        ("tags", "a", ["a"]),
        ("tags", "010,on", ["010", "on"]),
        ("lora_target_modules", "q_proj, v_proj", ["q_proj", "v_proj"]),
        (
            "sft_kwargs",
            "{a: 010, b: 1_000, c: on, d: 1e3}",
            {"a": "010", "b": "1_000", "c": "on", "d": 1e3},
        ),
        ("sft_kwargs", "{a: 5, b: 0.5, c: true}", {"a": 5, "b": 0.5, "c": True}),
        ("sft_kwargs", "{a: null}", {"a": None}),
        ("eval_steps", "~", None),
    ],
)
def test_text_settings_are_not_converted(name, text, value, tmp_path):
    for way in ways(name, text, tmp_path):
        parsed = getattr(way(), name)
        assert parsed == value and type(parsed) is type(value)


def test_python_values_keep_their_type():
    assert TrainConfig(tags=["a", 2024]).tags == ["a", "2024"]
    with pytest.raises(ConfigError):
        TrainConfig(learning_rate=10**400)
    with pytest.raises(ConfigError):
        TrainConfig(tags=[None])
    with pytest.raises(ConfigError):
        TrainConfig(seed=math.inf)


def test_an_empty_dataset_means_none_in_a_notebook():
    assert TrainConfig.from_parameters({"recipe": "quickstart", "dataset": ""}).dataset == ""
    assert TrainConfig.from_parameters({"report_to": ""}).trackers == []
    for name in ("output_dir", "model_name_or_path"):
        with pytest.raises(ConfigError, match=f"{name} is empty"):
            TrainConfig.from_parameters({name: " "})


def test_given_epochs_override_the_recipes_max_steps(tmp_path):
    assert TrainConfig.from_recipe("quickstart").max_steps == 320
    for config in (
        TrainConfig.from_recipe("quickstart", num_train_epochs=1),
        TrainConfig.from_parameters({"recipe": "quickstart", "num_train_epochs": "1"}),
    ):
        assert (config.max_steps, config.num_train_epochs) == (-1, 1)
    both = TrainConfig.from_recipe("quickstart", num_train_epochs=1, max_steps=5)
    assert both.max_steps == 5


def test_invalid_recipe_file_is_refused(tmp_path):
    path = tmp_path / "x.yaml"
    for text in ("- a", "a", "1: 2", "a: [", "a: !!python/object:os.system {}", "[" * 800):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"x\.yaml"):
            read_settings(path)
    path.write_bytes(b"a: \xff\xfe")
    with pytest.raises(ConfigError, match="not valid YAML"):
        read_settings(path)
    path.write_text("")
    assert read_settings(path) == {}
    with pytest.raises(ConfigError, match="cannot be read"):
        read_settings(tmp_path)


def test_names_of_schedules_and_optimizers_equal_transformers():
    from transformers.modeling_utils import AttentionInterface
    from transformers.trainer_utils import SchedulerType
    from transformers.training_args import OptimizerNames

    assert set(OPTIMIZERS) == {name.value for name in OptimizerNames}
    assert set(SCHEDULES) == {name.value for name in SchedulerType}
    known = {name for name in AttentionInterface._global_mapping if "|" not in name}
    assert set(ATTENTION) == known | {"eager"}


def test_settings_are_checked_without_transformers():
    code = "import sys, ocrkit.__main__, ocrkit.config; "
    code += "print({'torch', 'transformers'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    "line",
    [
        ["evaluate", "--fail-if", ""],
        ["evaluate", "--fail-if="],
        ["evaluate", "--fail-if", "cer > 1e400"],
        ["evaluate", "--fail-if", "cer > nan"],
        ["evaluate", "--engine", ""],
        ["evaluate", "--engine", "tesseracht"],
        ["evaluate", "--name", ""],
        ["evaluate", "--name", "../x"],
        ["evaluate", "--name", "."],
        ["evaluate", "--dataset", ""],
        ["evaluate", "--dataset", "  "],
        ["train", "--recipe", ""],
        ["train", "--recipe", "x" * 3000],
        ["train", "--max_steps", "010"],
        ["train", "--optim", "adamw"],
        ["train", "--warmup_steps", "1e23"],
        ["compare", "a", "--fail-if", "change of cer > 1e999"],
        ["compare", "a", "--fail-if", "change of "],
        ["compare", ""],
        ["predict", ""],
        ["predict", "a.png", "--prompt", ""],
        ["export", "--out", "x", "--samples", "-1"],
        ["export", "--out", "x", "--samples", "1.5"],
        ["export", "--out", "x", "--min_equal", "nan"],
        ["export", "--out", "x", "--min_equal", "1.01"],
        ["export", "--out", "x", "--push_to_hub", ""],
        ["export", "--out", "x", "--push_to_hub", "nobody"],
        ["export", "--out", "x", "--format", "nope"],
        ["find-lr", "--steps", "0"],
        ["find-lr", "--steps", "1e9"],
        ["find-lr", "--min_lr", "0.1", "--max_lr", "0.01"],
        ["find-lr", "--min_lr", "0"],
        ["find-lr", "--max_lr", "inf"],
        ["find-lr", "--max_lr", "nan"],
        ["sweep", "a.ipynb", "--seeds", ""],
        ["sweep", "a.ipynb", "-p", "dataset", ""],
        ["doctor", "--output_dir", ""],
    ],
)
def test_wrong_usage_ends_with_2_before_a_model_is_loaded(line, tmp_path, monkeypatch, capsys):
    def load(*_):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("ocrkit.models.load.load_model", load)
    monkeypatch.setattr("ocrkit.load_model", load, raising=False)
    monkeypatch.chdir(tmp_path)
    try:
        code = main(line)
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    assert not list(tmp_path.iterdir()), "nothing is written"
    assert capsys.readouterr().err


def test_fail_if_on_a_nan_metric_exits_1_with_a_reason(tmp_path, capsys):
    evaluation = score([{"id": "a", "reference": "A", "prediction": "A"}], "tuned")
    evaluation.metrics["cer"]["value"] = math.nan
    folder = evaluation.save(tmp_path / "eval" / "tuned")
    assert main(["compare", str(folder), "--fail-if", "cer > 0.5"]) == 1
    assert "has no value of cer" in capsys.readouterr().err


def test_predict_with_an_overlong_model_name_is_one_sentence(tmp_path, capsys):
    assert main(["predict", "a.png", "--model", "x" * 5000]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_lr_range_that_does_not_rise_is_refused():
    for rates in ((0, 1, 60), (1, 1, 60), (1e-6, math.inf, 60), (math.nan, 1, 60), (1e-6, 1, 9)):
        with pytest.raises(ConfigError, match="make no sweep"):
            check_range(*rates)
