"""Remote code: no command runs code or pickles in a downloaded folder without consent."""

import json
import os
import pickle
import shutil

import pytest
import yaml
from PIL import Image

from ocrkit import TrainConfig
from ocrkit.__main__ import _config, _parser, main
from ocrkit.errors import ConfigError, ModelError
from ocrkit.evaluation.evaluation import score
from ocrkit.models.base import READING_SETTINGS, TINY, settings_of_run
from ocrkit.models.load import load_model
from ocrkit.runs.leaderboard import leaderboard
from ocrkit.training.checkpoints import seal

CODE = """
from pathlib import Path
Path({written!r}).write_text("the remote code ran")
raise RuntimeError("remote code ran")
"""
CLASSES = {
    "AutoConfig": "evil.Config",
    "AutoModelForImageTextToText": "evil.Model",
    "AutoProcessor": "evil.Processor",
    "AutoImageProcessor": "evil.Processor",
    "AutoTokenizer": ["evil.Processor", "evil.Processor"],
}


def untrusted_run(folder, thermal, written, known):
    """Run folder whose model and config.yaml name remote code that would write a file.

    Args:
        known: whether the model also loads without its code.
    """
    model = folder / "adapter"
    shutil.copytree(TINY, model)
    (model / "evil.py").write_text(CODE.format(written=str(written)))
    for name in ("config.json", "processor_config.json", "tokenizer_config.json"):
        path = model / name
        if path.is_file():
            settings = json.loads(path.read_text()) | {"auto_map": CLASSES}
            if name == "config.json" and not known:
                settings |= {"model_type": "stranger", "architectures": ["Model"]}
            path.write_text(json.dumps(settings))
    settings = {
        "trust_remote_code": True,
        "load_in_4bit": False,
        "image_height": 32,
        "max_new_tokens": 8,
        "use_peft": False,
        "dataset": str(thermal),
        "output_dir": str(folder.parent / "elsewhere"),
        "report_to": "tensorboard",
        "attn_implementation": "stranger/kernel",
        "resume_from_checkpoint": "auto",
        "max_eval_samples": 1,
        "sft_kwargs": {"push_to_hub": True},
        "unknown_to_this_version": 1,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    evaluation = score([{"id": "a", "reference": "A", "prediction": "A"}], "tuned")
    evaluation.save(folder / "eval" / "tuned")
    return folder


COMMANDS = {
    "predict": ["predict", "{picture}"],
    "evaluate": ["evaluate", "--max_eval_samples", "1"],
    "plan": ["plan", "--max_train_samples", "2", "--use_peft", "true"],
    "train": ["train", "--output_dir", "{tmp}/new", "--max_steps", "1", "--use_peft", "true"],
    "find-lr": ["find-lr", "--steps", "10", "--use_peft", "true"],
    "export": ["export", "--out", "{tmp}/exported", "--format", "merged_16bit", "--samples", "1"],
}


@pytest.mark.parametrize("known", [False, True], ids=["needs its code", "does without"])
@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_runs_remote_code(command, known, thermal, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # no question is asked
    written = tmp_path / "written"
    run = untrusted_run(tmp_path / "run", thermal, written, known)
    Image.new("RGB", (60, 32), "white").save(tmp_path / "a.png")
    places = {"picture": tmp_path / "a.png", "tmp": tmp_path}
    arguments = [argument.format(**places) for argument in COMMANDS[command]]
    assert main([*arguments, "--model", str(run)]) == (0 if known else 1)
    assert not written.exists()
    error = capsys.readouterr().err
    assert known or "give --trust_remote_code true" in error
    assert f"From {run / 'config.yaml'}: load_in_4bit=false, " in error
    assert not (tmp_path / "elsewhere").exists(), "output_dir of an untrusted config.yaml"


@pytest.mark.parametrize("command", ["compare", "leaderboard"])
def test_compare_and_leaderboard_run_no_remote_code(command, thermal, tmp_path):
    written = tmp_path / "written"
    run = untrusted_run(tmp_path / "run", thermal, written, known=False)
    if command == "compare":
        assert main(["compare", str(run / "eval" / "tuned"), "--out", str(tmp_path / "page")]) == 0
    else:
        assert leaderboard(run)[0]["metrics"]
    assert not written.exists()


@pytest.mark.slow
def test_sweep_runs_no_remote_code(thermal, tmp_path):
    import nbformat

    written = tmp_path / "written"
    run = untrusted_run(tmp_path / "run", thermal, written, known=False)
    cells = [
        "output_dir = 'runs/x'\nseed = 1\nmodel_name_or_path = None",
        "from ocrkit import TrainConfig, load_model\n"
        "load_model(TrainConfig.from_parameters(globals()))",
    ]
    cells = [nbformat.v4.new_code_cell(cell) for cell in cells]
    cells[0].metadata.tags = ["parameters"]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(notebook, tmp_path / "n.ipynb")
    out = ["--seeds", "1,2", "--out", str(tmp_path / "sweep")]
    model = ["-p", "model_name_or_path", str(run)]
    assert main(["sweep", str(tmp_path / "n.ipynb"), *model, *out]) == 1
    assert "give --trust_remote_code true" in (tmp_path / "sweep" / "sweep.json").read_text()
    assert not written.exists()


def test_trust_remote_code_on_the_command_line_runs_the_code(thermal, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "m"))
    monkeypatch.syspath_prepend(str(tmp_path / "m"))
    written = tmp_path / "written"
    run = untrusted_run(tmp_path / "run", thermal, written, known=False)
    arguments = ["evaluate", "--model", str(run), "--trust_remote_code", "true"]
    config = _config(_parser().parse_args(arguments))
    assert config.trust_remote_code
    with pytest.raises(ModelError, match="remote code ran"):
        load_model(config)
    assert written.exists()


def test_only_reading_settings_are_taken_from_a_model_folder(thermal, tmp_path):
    run = untrusted_run(tmp_path / "run", thermal, tmp_path / "written", known=True)
    settings = settings_of_run(run)
    assert set(settings) <= {*READING_SETTINGS, "dataset", "output_dir"}
    assert settings["output_dir"] == str(run) and settings["dataset"] == str(thermal)
    assert TrainConfig.from_dict(settings).image_height == 32
    settings = yaml.safe_load((run / "config.yaml").read_text()) | {"dataset": "no/folder"}
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    assert "dataset" not in settings_of_run(run)


@pytest.mark.parametrize("value", ["true", "yes", "on", '"true"', "!!bool true"])
def test_recipe_files_cannot_set_trust_remote_code(value, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"trust_remote_code: {value}\n")
    with pytest.raises(ConfigError, match="give --trust_remote_code true"):
        TrainConfig.from_recipe(str(path))
    assert main(["predict", "a.png", "--recipe", str(path)]) == 2
    assert TrainConfig.from_recipe(str(path), trust_remote_code=True).trust_remote_code
    assert not TrainConfig.from_recipe(str(path), trust_remote_code="false").trust_remote_code
    path.write_text("trust_remote_code: false\n")
    assert not TrainConfig.from_recipe(str(path)).trust_remote_code


def test_attention_kernels_of_the_hub_need_trust_remote_code():
    with pytest.raises(ConfigError, match="is code of the Hub"):
        TrainConfig(attn_implementation="stranger/kernel")
    trusted = TrainConfig(attn_implementation="stranger/kernel", trust_remote_code=True)
    assert trusted.attn_implementation == "stranger/kernel"


class _Writes:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"echo ran > {self.path}",)


def test_pickles_in_checkpoints_are_not_executed(config, tmp_path, capsys):
    """States of optimizer, schedule and random numbers, training arguments, and .bin weights."""
    config.max_steps = config.save_steps = 1
    config.save(tmp_path / "recipe.yaml")
    recipe = ["--recipe", str(tmp_path / "recipe.yaml")]
    assert main(["train", *recipe]) == 0
    checkpoint = tmp_path / "run" / "checkpoint-1"
    written = tmp_path / "written"
    names = {"optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"}
    assert names <= {path.name for path in checkpoint.iterdir()}
    for name in sorted(names):
        before = (checkpoint / name).read_bytes()
        (checkpoint / name).write_bytes(pickle.dumps(_Writes(written)))
        seal(checkpoint)
        resume = ["--max_steps", "2", "--resume_from_checkpoint", str(checkpoint)]
        code = main(["train", *recipe, *resume, "--output_dir", str(tmp_path / name)])
        # Nothing reads training_args.bin.
        assert code == (0 if name == "training_args.bin" else 1), name
        assert not written.exists(), name
        (checkpoint / name).write_bytes(before)
    weights = tmp_path / "run" / "adapter"
    (weights / "adapter_model.safetensors").unlink()
    (weights / "adapter_model.bin").write_bytes(pickle.dumps(_Writes(written)))
    Image.new("RGB", (60, 32), "white").save(tmp_path / "a.png")
    assert main(["predict", str(tmp_path / "a.png"), "--model", str(tmp_path / "run")]) == 1
    assert not written.exists()
