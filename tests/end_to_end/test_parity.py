"""Settings and results are equal from Python, command line, YAML and notebook."""

import os
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
import yaml
from papermill.cli import _resolve_type as as_papermill_reads

from ocrkit.__main__ import _config, _parser
from ocrkit.config import RECIPES, TrainConfig

ROOT = Path(__file__).parents[2]
FIELDS = [spec.name for spec in fields(TrainConfig)]
# Values that are not the default, where a type alone gives none that is allowed.
VALUES = {
    "backend": "transformers",
    "attn_implementation": "eager",
    "lr_scheduler_type": "constant",
    "optim": "sgd",
    "dtype": "bfloat16",
    "confusion_max_weight": 2.5,
    "device_map": "auto",
    "loss": "focal",
    "curriculum": "length",
    "augmentation": {"blur": 0.5},
    "prompts": {"transcription": "OCR:"},
    "per_device_train_batch_size": 3,
    "min_pixels": 4096,
    "metric_for_best_model": "exact_match",
    "normalization_profile": "strict",
    "report_to": "tensorboard",
    "eval_steps": 50,
    "save_steps": 50,
    "run_name": "2024",
    "locale": "de",
    "sft_kwargs": {"adam_beta1": 0.8},
    "chat_template_kwargs": {"enable_thinking": True},
    "processor_kwargs": {"longest_edge": 512},
    "replay_share": 0.5,
}
# Other settings that a setting needs.
REQUIRED = {
    "load_best_model_at_end": {"eval_steps": 100, "save_steps": 100},
    "early_stopping_patience": {"eval_steps": 100, "metric_for_best_model": "cer"},
    "streaming": {"max_steps": 5},
    "num_train_epochs": {"max_steps": -1},
}


def value_for(name):
    if name in VALUES:
        return VALUES[name]
    spec = TrainConfig.__dataclass_fields__[name]
    kind = str(spec.type)
    default = spec.default if spec.default is not MISSING else None
    if "bool" in kind:
        return not TrainConfig.from_recipe("quickstart").to_dict()[name]
    if "list" in kind:
        return ["q_proj", "v_proj"]
    if "float" in kind:
        return 0.25
    if "int" in kind:
        return 77
    assert "str" in kind and default != "other"
    return "other"


def as_text(value):
    """Value as typed into a shell."""
    if isinstance(value, list | dict):
        return yaml.safe_dump(value, default_flow_style=True).strip()
    return str(value)


@pytest.mark.parametrize("name", FIELDS)
def test_settings_are_equal_from_every_interface(name, tmp_path):
    value = value_for(name)
    settings = {**REQUIRED.get(name, {}), name: value}
    python = TrainConfig.from_recipe("quickstart", **settings)
    assert getattr(python, name) == value
    assert value != getattr(TrainConfig.from_recipe("quickstart"), name), "a value that changes it"

    options = [part for key, v in settings.items() for part in (f"--{key}", as_text(v))]
    arguments = _parser().parse_args(["train", "--recipe", "quickstart", *options])
    assert _config(arguments) == python

    recipe = yaml.safe_load((RECIPES / "quickstart.yaml").read_text())
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**recipe, **settings}))
    # A file cannot set trust_remote_code.
    consent = {name: value} if name == "trust_remote_code" else {}
    assert TrainConfig.from_recipe(str(path), **consent) == python

    parameters = {key: as_papermill_reads(as_text(v)) for key, v in settings.items()}
    assert TrainConfig.from_parameters({"recipe": "quickstart", **parameters}) == python

    python.save(path)
    assert TrainConfig.from_recipe(str(path), **consent) == python


@pytest.mark.slow
def test_same_seed_gives_the_same_weights_from_every_interface(thermal, tmp_path):
    """Bit for bit, though the notebook plans and evaluates before it trains."""
    import torch
    from safetensors.torch import load_file

    common = {
        "dataset": str(thermal),
        "max_steps": "3",
        "per_device_train_batch_size": "4",
        "eval_steps": "none",
        "max_new_tokens": "32",
        "warmup_steps": "1",
        "lora_dropout": "0.1",
        "seed": "7",
    }
    settings = tmp_path / "settings.yaml"
    recipe = yaml.safe_load((RECIPES / "quickstart.yaml").read_text())
    settings.write_text(yaml.safe_dump({**recipe, **common, "output_dir": str(tmp_path / "yaml")}))
    script = (
        "from ocrkit import TrainConfig, load_data, load_model, train\n"
        f"config = TrainConfig.from_recipe('quickstart', **{common!r}, "
        f"output_dir={str(tmp_path / 'python')!r})\n"
        "train(*load_model(config), load_data(config), config)\n"
    )
    notebook = [str(ROOT / "notebooks" / "quickstart.ipynb"), str(tmp_path / "out.ipynb")]
    ways = {
        "python": ["-c", script],
        "command": ["-m", "ocrkit", "train", "--recipe", "quickstart"],
        "yaml": ["-m", "ocrkit", "train", "--recipe", str(settings)],
        "notebook": ["-m", "papermill", "--no-progress-bar", *notebook],
    }
    for name, value in {**common, "output_dir": str(tmp_path / "command")}.items():
        ways["command"] += [f"--{name}", value]
    for name, value in {**common, "output_dir": str(tmp_path / "notebook")}.items():
        ways["notebook"] += ["-p", name, value]
    weights = {}
    for way, command in ways.items():
        # The number of threads decides the order of sums, and so their last bits.
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.run(
            [sys.executable, *command],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert process.returncode == 0, (way, process.stderr[-2000:])
        weights[way] = load_file(tmp_path / way / "adapter" / "adapter_model.safetensors")
    first = weights["python"]
    assert any(tensor.abs().sum() > 0 for name, tensor in first.items() if "lora_B" in name)
    for way, others in weights.items():
        assert others.keys() == first.keys()
        assert all(torch.equal(first[name], others[name]) for name in first), way
