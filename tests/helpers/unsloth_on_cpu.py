"""Drive the real Unsloth classes on a machine without a GPU: `unsloth_on_cpu.py JOB.json...`.

Unsloth has no CPU path for vision models, but runs on a CPU with stand-ins for its queries of the
GPU. It runs in a separate process, because Unsloth patches transformers for the whole process. On
a machine with CUDA there are no stand-ins.
"""

import json
import os
import sys
import traceback
from dataclasses import replace
from functools import partial
from pathlib import Path

jobs = [json.loads(Path(name).read_text()) for name in sys.argv[1:]]
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "UNSLOTH_DISABLE_STATISTICS": "1",
    "UNSLOTH_COMPILE_LOCATION": jobs[0]["cache"],
}

from tests.benchmarks.unsloth_peer import import_unsloth, stand_in_for_card  # noqa: E402


def stand_in_for_bfloat16() -> None:
    """Let Unsloth take the card for one with bfloat16: without, some models are not in float32."""
    import_unsloth()
    import unsloth.models._utils as utils

    utils.SUPPORTS_BFLOAT16 = True


def stand_in_for_four_bits() -> None:
    """Let Unsloth load weights in 4 bits on a CPU, with the slow CPU kernels of bitsandbytes."""
    import_unsloth()
    import bitsandbytes.nn.modules as modules
    import unsloth.models.loader as loader

    loader.ALLOW_BITSANDBYTES = True
    # The 4-bit layout of CPUs with AVX512-BF16 gives no gradient.
    modules.has_avx512bf16 = lambda: False


stand_in_for_card()
in_4_bits = any(job["config"]["load_in_4bit"] for job in jobs)
if in_4_bits and jobs[0]["config"]["device_map"] == "cpu":
    stand_in_for_four_bits()

from ocrkit import TrainConfig, export, load_data, load_model, predict, train  # noqa: E402


def generate_trainers() -> None:
    """Let Unsloth rewrite TRL's trainer, as it does on a GPU and leaves out on a CPU."""
    from unsloth.models.rl import _patch_trl_rl_trainers
    from unsloth.trainer import _patch_trl_trainer

    os.environ["UNSLOTH_ALLOW_CPU"] = "0"
    _patch_trl_rl_trainers("sft_trainer")
    _patch_trl_trainer()
    os.environ["UNSLOTH_ALLOW_CPU"] = "1"


def _count(calls: dict, name: str, *inputs: object) -> None:
    calls[name] += 1


def drive(job: dict) -> dict:
    """Load, export, read, train, read and merge; return losses, texts and counts of calls."""
    config = TrainConfig.from_dict(job["config"])
    data = load_data(config)
    names = ("unsloth", "transformers", "trl", "peft")
    heavy_before = [name for name in names if name in sys.modules]
    if job.get("bfloat16"):
        stand_in_for_bfloat16()
    model, processor = load_model(config)
    if job.get("untrained"):
        export(model, processor, job["gguf"], "gguf", samples=0)
        return {}
    if job.get("generated"):
        generate_trainers()
    targets = sorted(n for n, _ in model.named_modules() if n.endswith(".lora_A.default"))
    calls = {"model": 0, "head": 0, "layer": 0}
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    modules = {"model": base.model, "head": base.get_output_embeddings()}
    modules["layer"] = base.model.language_model.layers[0]
    for name, module in modules.items():
        module.register_forward_pre_hook(partial(_count, calls, name))
    export(model, processor, job["start"])
    before = predict(model, processor, data["test"], config)
    outcome = train(model, processor, data, config)
    after = predict(model, processor, data["test"], config)
    compared = {"rows": data["test"], "config": config, "samples": job["samples"]}
    export(model, processor, job["merged"], "merged_16bit", **compared)
    if job.get("gguf"):
        export(model, processor, job["gguf"], "gguf", **compared | {"min_equal": 0})
    if config.load_in_4bit:
        export(model, processor, job["merged_4bit"], "merged_4bit", **compared)
    losses = [entry["loss"] for entry in outcome.history if "loss" in entry]
    again = replace(config, model_name_or_path=job["start"]) if job.get("again") else None
    return {
        "device": model.device.type,
        "trainers": [kind.__name__ for kind in trainer_classes()],
        "quantized": bool(getattr(model, "is_loaded_in_4bit", False)),
        "heavy_before": heavy_before,
        "targets": targets,
        "before": before,
        "after": after,
        "losses": losses,
        "calls": calls,
        "unsloth": "unsloth" in sys.modules,
        "idle": adapters_without_gradient(again) if again else [],
        # Last, since it changes the rest of the process.
        "stances": stances(model) if job.get("stances") else [],
    }


def adapters_without_gradient(config: TrainConfig) -> list[str]:
    """Trainable weights of a loaded model that a step on a drawn line gives no gradient."""
    from ocrkit.data.collate import Collator
    from ocrkit.data.read_rows import drawn_rows
    from ocrkit.training.losses import supervised_loss
    from ocrkit.training.probe import training_mode

    model, processor = load_model(config)
    with training_mode(model, config):
        supervised_loss(model, Collator(processor, config.image_height)(drawn_rows(1))).backward()
    weights = {name: w for name, w in model.named_parameters() if w.requires_grad}
    assert weights
    return [name for name, weight in weights.items() if weight.grad is None]


def trainer_classes() -> tuple[type, ...]:
    """The kit's trainer and the classes that it inherits from."""
    from ocrkit.training.trainer import OCRTrainer

    return OCRTrainer.__mro__


def stances(model) -> list[str]:
    """Stance of torch.compile inside and after inference mode, with compilation turned off."""
    from torch._dynamo import eval_frame

    from ocrkit.models.backend import inference_mode
    from ocrkit.models.kernels import turn_off_compilation

    turn_off_compilation()
    model.train()
    with inference_mode(model):
        inside = eval_frame._stance.stance
    return [inside, eval_frame._stance.stance]


for job in jobs:
    try:
        result = drive(job)
    except Exception:  # a job of any error; the other jobs of this process still run
        result = {"error": traceback.format_exc()}
    Path(job["result"]).write_text(json.dumps(result))
