"""Unsloth backend on a CPU: the real Unsloth classes, driven through the public functions."""

import inspect
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from transformers import AutoProcessor

from ocrkit.config import TrainConfig
from ocrkit.data.load import load_data
from ocrkit.metrics import ned_similarity
from ocrkit.models.budget import apply_pixel_budget
from ocrkit.models.gguf import read_gguf
from ocrkit.models.load import load_model
from ocrkit.models.read import predict
from ocrkit.training.train import train
from tests.helpers.architectures import build
from tests.helpers.llama_cpp import patched_llama_cpp, reader_for_llama_cpp
from tests.helpers.tiny_architectures import build as build_tiny
from tests.helpers.unsloth_jobs import run_unsloth, unsloth_job

# Architectures of the recipes that Unsloth supports, beside the embedded model's Qwen3-VL.
OTHERS = ("mllama", "paddleocr_vl", "qwen2_5_vl", "qwen2_vl")
# Architectures beyond the recipes that Unsloth supports.
FURTHER = ("qwen3_5", "gemma3", "gemma4", "lfm2_vl", "mistral3")


def _has_gpu() -> bool:
    """Whether the machine has a GPU, which this process cannot see."""
    command = shutil.which("nvidia-smi")
    return bool(command and subprocess.run([command, "-L"], capture_output=True).stdout)


def _quickstart(thermal: Path, **changes) -> TrainConfig:
    settings = {
        # Exact enough to compare losses, also where a CPU would multiply in bfloat16.
        "dtype": "float32",
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        # The evaluation in the middle changes modes, and the weights of the last two steps.
        "loss": "focal_confusion_weighted",
        "eval_steps": 2,
        "eval_samples": 4,
        "max_new_tokens": 48,
        "max_eval_samples": 8,
        "warmup_steps": 1,
        "gradient_checkpointing": True,
    }
    return TrainConfig.from_recipe("quickstart", dataset=str(thermal), **{**settings, **changes})


@pytest.fixture(scope="module")
def driven(thermal, tmp_path_factory):
    """Job, result, config and folder of the embedded model, trained with adapters by Unsloth.

    With the trainer that Unsloth generates on a GPU; the other fixtures train with TRL's own.
    """
    folder = tmp_path_factory.mktemp("unsloth")
    config = _quickstart(thermal)
    job = unsloth_job(folder, config) | {"generated": True, "again": True}
    (result,) = run_unsloth(folder, job)
    assert "error" not in result, result["error"]
    return job, result, config, folder


@pytest.fixture(scope="module")
def whole(thermal, tmp_path_factory):
    """As `driven`, without adapters, for two steps; then compilation is turned off."""
    folder = tmp_path_factory.mktemp("whole")
    config = _quickstart(
        thermal,
        use_peft=False,
        max_steps=2,
        loss="cross_entropy",
        eval_steps=None,
        learning_rate=1e-3,
        warmup_steps=0,
    )
    job = unsloth_job(folder, config) | {"stances": True}
    (result,) = run_unsloth(folder, job)
    assert "error" not in result, result["error"]
    return job, result, config, folder


def _with(config: TrainConfig, **changes) -> TrainConfig:
    return TrainConfig.from_dict({**config.to_dict(), **changes})


def test_unsloth_is_imported_first(driven):
    _, result, *_ = driven
    assert result["unsloth"]
    assert result["heavy_before"] == []
    assert "Backend: unsloth" in result["output"]


def test_the_trainer_is_the_one_that_unsloth_generates_on_a_gpu(driven, whole):
    assert "UnslothSFTTrainer" in driven[1]["trainers"]
    assert "UnslothSFTTrainer" not in whole[1]["trainers"]


def _check_same_on_transformers(job, theirs, config, folder):
    """Train with transformers from the adapters that Unsloth began with; returns the rows."""
    ours = {"backend": "transformers", "dtype": "float32", "output_dir": str(folder / "ours")}
    config = _with(config, model_name_or_path=job["start"], **ours)
    data = load_data(config)
    model, processor = load_model(config)
    targets = sorted(n for n, _ in model.named_modules() if n.endswith(".lora_A.default"))
    assert targets == theirs["targets"]
    assert predict(model, processor, data["test"], config) == theirs["before"]
    result = train(model, processor, data, config)
    losses = [entry["loss"] for entry in result.history if "loss" in entry]
    assert losses == pytest.approx(theirs["losses"], abs=1e-4)
    assert predict(model, processor, data["test"], config) == theirs["after"]
    return data


def test_both_backends_train_the_same_adapters_to_the_same_losses(driven):
    job, theirs, config, folder = driven
    assert len(theirs["losses"]) == 4
    _check_same_on_transformers(job, theirs, config, folder)


def _check_logits_computed_once(result):
    calls = result["calls"]
    assert calls["model"] > 0
    assert calls["head"] == calls["model"]


def test_logits_are_computed_once(driven):
    """Unsloth computes it a second time where UNSLOTH_RETURN_LOGITS asks for logits."""
    _check_logits_computed_once(driven[1])


def _check_layers_recomputed(result):
    """Checkpointing runs a layer once more for each backward pass."""
    calls = result["calls"]
    assert calls["layer"] >= calls["model"] + len(result["losses"])


def test_unsloths_gradient_checkpointing_check_layers_recomputed(driven):
    _check_layers_recomputed(driven[1])


def test_adapters_that_were_loaded_all_get_a_gradient(driven):
    """Unsloth prepares the vision tower for checkpointing only where it makes the adapters."""
    assert driven[1]["idle"] == []


def test_finetune_flags_select_the_same_layers_on_both_backends(driven):
    _, theirs, config, folder = driven
    ours = {"backend": "transformers", "output_dir": str(folder / "flags")}
    model, _ = load_model(_with(config, **ours))
    targets = sorted(n for n, _ in model.named_modules() if n.endswith(".lora_A.default"))
    assert targets == theirs["targets"]


def test_unsloths_merge_reads_like_its_adapter(driven):
    job, theirs, config, _ = driven
    config = _with(config, model_name_or_path=job["merged"], use_peft=False, backend="transformers")
    data = load_data(config)
    texts = predict(*load_model(config), data["test"], config)
    same = sum(a == b for a, b in zip(texts, theirs["after"]))
    # The merged weights are rounded to 16 bits, which may tip a close decision.
    assert same >= len(texts) - 1


def test_both_backends_train_every_weight_to_the_same_losses(whole):
    from safetensors.torch import load_file

    job, theirs, config, folder = whole
    assert theirs["targets"] == [] and len(theirs["losses"]) == 2
    _check_same_on_transformers(job, theirs, config, folder)
    saved = Path(job["config"]["output_dir"]) / "adapter"
    assert not (saved / "adapter_config.json").exists()
    before, after = (load_file(Path(f) / "model.safetensors") for f in (job["start"], saved))
    assert before.keys() == after.keys()
    moved = [name for name in before if (before[name] != after[name]).any()]
    # The vision tower and the language model, and what lies between them.
    assert any("visual" in name for name in moved) and len(moved) > 0.9 * len(before)


def test_compilation_stays_off_when_unsloth_changes_modes(whole):
    assert whole[1]["stances"] == ["force_eager", "force_eager"]


# C++ compiler for torch.compile on a CPU, without optimisation, which would take minutes.
COMPILER = """#!/bin/sh
case "$*" in *-c*) {first} ;; esac
exec g++ "$@" -O0
"""


def _compiled(folder: Path, config: TrainConfig, first: str) -> tuple[dict, dict]:
    """Job and result with compilation on, by a compiler that runs `first` before each file."""
    compiler = folder / "compiler"
    compiler.write_text(COMPILER.format(first=first))
    compiler.chmod(0o755)
    # A merge that is read again would be compiled again.
    job = unsloth_job(folder, config) | {"samples": 0}
    # The folder for kernels; Unsloth removes TORCHINDUCTOR_CACHE_DIR.
    (folder / "kernels").mkdir()
    places = {"TMPDIR": str(folder / "kernels"), "CXX": str(compiler)}
    (result,) = run_unsloth(folder, job, UNSLOTH_COMPILE_DISABLE="0", **places)
    assert "error" not in result, result["error"]
    return job, result


needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")


@pytest.mark.slow
@needs_compiler
def test_compiled_models_train_and_read_like_transformers(thermal, tmp_path):
    config = _quickstart(thermal, max_steps=2)
    job, theirs = _compiled(tmp_path, config, first=":")
    assert "compilation is turned off" not in theirs["output"]
    # Kernels were compiled.
    assert len([*(tmp_path / "kernels").rglob("*.so")]) > 20
    _check_logits_computed_once(theirs)
    _check_layers_recomputed(theirs)
    _check_same_on_transformers(job, theirs, config, tmp_path)


@pytest.mark.slow
@needs_compiler
def test_kernels_that_do_not_compile_run_in_eager_mode(thermal, tmp_path):
    config = _quickstart(thermal, max_steps=2)
    job, theirs = _compiled(tmp_path, config, first="exit 1")
    # Unsloth falls back for most of them itself, but not for those of the training step.
    assert "could not generate code for apply_rotary_pos_emb_vision" in theirs["output"]
    assert theirs["output"].count("A kernel does not compile on this machine") == 1
    _check_same_on_transformers(job, theirs, config, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif("UNSLOTH_LLAMA_CPP_PATH" not in os.environ, reason="needs a built llama.cpp")
def test_llama_cpp_reads_the_export_like_the_trained_model(thermal, tmp_path):
    source = Path(os.environ["UNSLOTH_LLAMA_CPP_PATH"])
    (tmp_path / "llama.cpp").mkdir()
    place = {"UNSLOTH_LLAMA_CPP_PATH": str(patched_llama_cpp(source, tmp_path / "llama.cpp"))}
    config = _quickstart(thermal)
    config.model_name_or_path = str(reader_for_llama_cpp(tmp_path / "reader"))
    kinds = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
    small = {name: _small(name, tmp_path / name, thermal) for name in kinds}
    jobs = {"reader": unsloth_job(tmp_path, config)}
    jobs |= {name: unsloth_job(tmp_path / name, settings) for name, settings in small.items()}
    for name, job in jobs.items():
        job["gguf"] = str(tmp_path / name / "gguf")
    results = run_unsloth(tmp_path, *jobs.values(), UNSLOTH_OFFLINE="1", **place)
    program = str(tmp_path / "llama.cpp" / "llama-mtmd-cli")
    for name, job, result in zip(jobs, jobs.values(), results):
        assert "error" not in result, (name, result["error"])
        card = (Path(job["gguf"]) / "README.md").read_text()
        equal, compared = re.search(r"(\d+) of (\d+) rows are read the same", card).groups()
        if name == "reader":
            assert int(equal) >= 0.5 * int(compared)
        settings = TrainConfig.from_dict(job["config"])
        processor = AutoProcessor.from_pretrained(job["gguf"])
        apply_pixel_budget(processor, settings)
        rows = list(load_data(settings)["test"])
        texts = read_gguf(program, Path(job["gguf"]), processor, rows, settings)
        # Random weights decide by a hair, and 8 bits turn some of it; but each picture is seen.
        other = ned_similarity(result["after"], texts[1:] + texts[:1])
        assert ned_similarity(result["after"], texts) > 1.5 * other, name


def _small(name: str, folder: Path, dataset: Path) -> TrainConfig:
    """Settings of a short run of a tiny model of an architecture, which is built in `folder`."""
    make = build_tiny if name in FURTHER else build
    settings = {
        "model_name_or_path": str(make(name, folder / "base")),
        "dataset": str(dataset),
        "load_in_4bit": False,
        "dtype": "float32",
        # The default of both backends; Unsloth's masks of Llama-3.2-Vision are for nothing else.
        "attn_implementation": "sdpa",
        "gradient_checkpointing": True,
        "max_steps": 3,
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        "learning_rate": 0.005,
        "warmup_steps": 0,
        "max_eval_samples": 6,
        "max_new_tokens": 12,
    }
    return TrainConfig.from_dict(settings)


def _driven(folder, jobs, configs):
    """Job, result, config and folder of each architecture, by name."""
    results = run_unsloth(folder, *jobs.values())
    return {
        name: (job, result, configs[name], folder / name)
        for (name, job), result in zip(jobs.items(), results)
    }


@pytest.fixture(scope="module")
def others(thermal, tmp_path_factory):
    """Job, result, config and folder of each other architecture, by name."""
    folder = tmp_path_factory.mktemp("others")
    configs = {name: _small(name, folder / name, thermal) for name in OTHERS}
    jobs = {name: unsloth_job(folder / name, config) for name, config in configs.items()}
    configs["eager"] = configs["mllama"]
    (folder / "eager").mkdir()
    jobs["eager"] = unsloth_job(folder / "eager", configs["eager"], attn_implementation="eager")
    return _driven(folder, jobs, configs)


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_other_architectures_train_and_read_alike_on_both_backends(name, others):
    job, theirs, config, folder = others[name]
    assert "error" not in theirs, theirs["error"]
    assert len(theirs["losses"]) == 3
    _check_logits_computed_once(theirs)
    _check_layers_recomputed(theirs)
    data = _check_same_on_transformers(job, theirs, config, folder)
    merged = _with(config, model_name_or_path=job["merged"], use_peft=False, backend="transformers")
    texts = predict(*load_model(merged), data["test"], merged)
    # The merged weights are rounded to 16 bits, which may tip a close decision.
    assert sum(a == b for a, b in zip(texts, theirs["after"])) >= len(texts) - 1


@pytest.fixture(scope="module")
def further(thermal, tmp_path_factory):
    """As `others`, of architectures beyond the recipes."""
    folder = tmp_path_factory.mktemp("further")
    configs = {name: _small(name, folder / name, thermal) for name in FURTHER}
    # Random weights decide by a hair, which a merge in 16 bits tips: there is nothing to compare.
    jobs = {
        n: unsloth_job(folder / n, config) | {"samples": 0, "bfloat16": True, "again": True}
        for n, config in configs.items()
    }
    return _driven(folder, jobs, configs)


@pytest.mark.slow
@pytest.mark.parametrize("name", FURTHER)
def test_further_architectures_train_and_read_alike_on_both_backends(name, further):
    job, theirs, config, folder = further[name]
    assert "error" not in theirs, theirs["error"]
    assert len(theirs["losses"]) == 3
    # LFM2-VL does not call its tower's head.
    assert [name for name in theirs["idle"] if "vision_tower.head" not in name] == []
    _check_same_on_transformers(job, theirs, config, folder)


@pytest.fixture(scope="module")
def in_four_bits(thermal, tmp_path_factory):
    """As `others`, with Unsloth's weights in 4 bits, by bitsandbytes' kernels for a CPU."""
    folder = tmp_path_factory.mktemp("four-bits")
    configs = {name: _small(name, folder / name, thermal) for name in ("qwen3_vl", *OTHERS)}
    for config in configs.values():
        config.load_in_4bit, config.optim = True, "adamw_8bit"
    # Random weights read otherwise in 4 bits than in 16: there is nothing to compare.
    jobs = {n: unsloth_job(folder / n, config) | {"samples": 0} for n, config in configs.items()}
    return _driven(folder, jobs, configs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ("qwen3_vl", *OTHERS))
def test_both_backends_train_and_read_alike_in_four_bits(name, in_four_bits, monkeypatch):
    monkeypatch.setattr("ocrkit.models.load.supports_4bit", lambda: True)
    job, theirs, config, folder = in_four_bits[name]
    assert "error" not in theirs, theirs["error"]
    assert theirs["quantized"] and len(theirs["losses"]) == 3
    _check_same_on_transformers(job, theirs, config, folder)
    ours = {"backend": "transformers", "output_dir": str(folder / "alone")}
    for place, packed in (("merged", False), ("merged_4bit", True)):
        alone = _with(config, model_name_or_path=job[place], load_in_4bit=packed, **ours)
        model, _ = load_model(alone)
        assert bool(getattr(model, "is_loaded_in_4bit", False)) == packed


@pytest.mark.slow
def test_eager_attention_is_refused_for_unsloths_boolean_masks(others):
    """Eager attention adds masks to scores; Unsloth's masks of Llama-3.2-Vision are boolean."""
    assert "attn_implementation='eager' adds attention masks" in others["eager"][1]["error"]


@pytest.mark.skipif(not _has_gpu(), reason="needs a GPU")
def test_four_bit_trains_reads_and_merges_on_a_gpu(thermal, tmp_path):
    changes = {"device_map": None, "load_in_4bit": True, "dtype": "auto", "max_steps": 2}
    changes["attn_implementation"] = None
    names = ("qwen3_vl", *OTHERS)
    configs = {name: _small(name, tmp_path / name, thermal) for name in names}
    # Random weights read otherwise in 4 bits than in 16: there is nothing to compare.
    jobs = [
        unsloth_job(tmp_path / name, config, **changes) | {"samples": 0}
        for name, config in configs.items()
    ]
    for name, result in zip(names, run_unsloth(tmp_path, *jobs, gpu=True)):
        assert "error" not in result, (name, result["error"])
        assert result["device"] == "cuda" and result["quantized"], name
        assert len(result["losses"]) == 2 and all(0 < loss < 20 for loss in result["losses"]), name
        assert len(result["after"]) == len(result["before"]) > 0, name
        _check_logits_computed_once(result)


def _parameters(path: str, name: str, owner: str) -> set[str]:
    """Argument names of `owner.name` read from Unsloth's source, which a CPU cannot import."""
    import ast
    from importlib.util import find_spec

    source = Path(find_spec("unsloth").origin).parent / path
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef) and node.name == owner:
            for item in node.body:
                if isinstance(item, ast.FunctionDef) and item.name == name:
                    arguments = item.args
                    return {a.arg for a in [*arguments.args, *arguments.kwonlyargs]}
    raise AssertionError(f"{owner}.{name} is not in {path}")


def test_unsloth_has_the_arguments_that_are_passed():
    load = _parameters("models/loader.py", "from_pretrained", "FastModel")
    assert {
        "load_in_4bit",
        "load_in_16bit",
        "full_finetuning",
        "dtype",
        "max_seq_length",
        "use_gradient_checkpointing",
        "trust_remote_code",
        "random_state",
        "device_map",
    } <= load
    wrap = _parameters("models/vision.py", "get_peft_model", "FastBaseModel")
    assert {
        "r",
        "lora_alpha",
        "lora_dropout",
        "use_rslora",
        "target_modules",
        "finetune_vision_layers",
        "finetune_language_layers",
        "finetune_attention_modules",
        "finetune_mlp_modules",
        "use_gradient_checkpointing",
        "random_state",
    } <= wrap
    for name in ("for_inference", "for_training"):
        assert "model" in _parameters("models/vision.py", name, "FastBaseModel")


def test_trl_has_the_arguments_that_are_passed(config):
    from trl import SFTConfig, SFTTrainer

    from ocrkit.training.arguments import sft_config

    settings = sft_config(config, evaluated=False)
    assert set(settings.to_dict()) >= {"train_sampling_strategy"}
    # Not None: Unsloth would then join rows itself.
    assert settings.packing is False and settings.padding_free is False
    accepted = set(inspect.signature(SFTTrainer.__init__).parameters)
    assert {"model", "args", "data_collator", "train_dataset", "eval_dataset"} <= accepted
    assert {"processing_class", "callbacks"} <= accepted
    assert {"max_length", "length_column_name", "dataset_kwargs"} <= set(
        inspect.signature(SFTConfig.__init__).parameters
    )
