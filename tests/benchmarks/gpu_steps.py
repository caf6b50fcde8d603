"""Short checks of a card, each in a process of its own: `gpu_steps NAME JOB`, a result as JSON.

Without CUDA the same code runs on the CPU, in float32 and with stand-ins for Unsloth's card.
"""

import json
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _config(job: dict[str, Any], **changes: Any) -> Any:
    from ocrkit import TrainConfig

    if job.get("backend") == "unsloth" and not _cuda():
        from tests.benchmarks.unsloth_peer import stand_in_for_card

        stand_in_for_card()
        changes["device_map"] = "cpu"
    settings = {"backend": job.get("backend", "auto"), "output_dir": job["output"]}
    return TrainConfig.from_recipe(
        job["recipe"], **{**settings, "dataset": job["dataset"], "logging_steps": 1, **changes}
    )


def precision(job: dict[str, Any]) -> dict[str, Any]:
    """Train the embedded model: losses, dtype of the logits, and whether a resumed run goes on.

    The job holds backend, dtype, dataset, output and steps.
    """
    from ocrkit import evaluate, load_data, load_model, train

    steps = job["steps"]
    more = {"dtype": job["dtype"], "max_steps": steps, "eval_steps": None, "save_steps": steps}
    config = _config({**job, "recipe": "quickstart"}, **more, warmup_steps=1, max_new_tokens=32)
    data = load_data(config)
    model, processor = load_model(config)
    from ocrkit.training import losses

    seen, cross_entropy = [], losses.cross_entropy

    def watched(logits: Any, *args: Any, **terms: Any) -> Any:
        seen.append(str(logits.dtype).removeprefix("torch."))
        return cross_entropy(logits, *args, **terms)

    losses.cross_entropy = watched
    began = time.perf_counter()
    result = train(model, processor, data, config)
    seconds = time.perf_counter() - began
    evaluation = evaluate(model, processor, data["test"], config, name="tuned")
    config.resume_from_checkpoint, config.max_steps = "auto", steps + 2
    resumed = train(model, processor, data, config)
    return {
        "losses": [entry["loss"] for entry in result.history if "loss" in entry],
        "dtypes": sorted(set(seen)),
        "seconds": seconds,
        "cer": evaluation.metrics["cer"]["value"],
        "resumed": resumed.global_step,
    }


def four_bits(job: dict[str, Any]) -> dict[str, Any]:
    """Train a tiny model of an architecture in 4 bits, merge it, and read with the merged copy."""
    from ocrkit import TrainConfig, export, load_data, load_model, predict, train
    from tests.helpers.architectures import build

    folder = Path(job["output"])
    settings = {
        "load_in_4bit": True,
        "max_steps": 2,
        "eval_steps": None,
        "per_device_train_batch_size": 2,
        "max_new_tokens": 8,
        "max_eval_samples": 4,
    }
    base = build(job["architecture"], folder / "base")
    config = _config({**job, "recipe": "quickstart"}, model_name_or_path=str(base), **settings)
    config.image_height = None
    data = load_data(config)
    model, processor = load_model(config)
    result = train(model, processor, data, config)
    # Random weights read otherwise in 4 bits than in 16: there is nothing to compare.
    export(model, processor, folder / "merged", "merged_16bit", config=config, samples=0)
    alone = {**config.to_dict(), "model_name_or_path": str(folder / "merged"), "use_peft": False}
    merged = TrainConfig.from_dict({**alone, "load_in_4bit": False, "backend": "transformers"})
    texts = predict(*load_model(merged), data["test"], merged)
    return {
        "quantized": bool(getattr(model, "is_loaded_in_4bit", False)),
        "losses": [entry["loss"] for entry in result.history if "loss" in entry],
        "read": len(texts),
    }


def out_of_memory(job: dict[str, Any]) -> dict[str, Any]:
    """Run out of memory in a step, keep the error, and count bytes before and after."""
    import torch

    from ocrkit import load_data, load_model, train
    from ocrkit.errors import TrainingError
    from ocrkit.training import trainer

    config = _config({**job, "recipe": "quickstart"}, max_steps=1, eval_steps=None)
    data = load_data(config)
    model, processor = load_model(config)
    own, kept = trainer.supervised_loss, []

    def fails(*args: Any, **terms: Any) -> Any:
        loss = own(*args, **terms)
        if not _cuda():
            raise torch.cuda.OutOfMemoryError("as if the memory were full")
        blocks = [loss]
        while True:  # really, until the card is full
            blocks.append(torch.empty(1 << 28, dtype=torch.uint8, device="cuda"))

    def allocated() -> int:
        return torch.cuda.memory_allocated() if _cuda() else 0

    trainer.supervised_loss = fails
    before = allocated()
    with suppress(TrainingError):
        try:
            train(model, processor, data, config)
        except TrainingError as error:
            kept.append(error)
            raise
    return {"before": before, "after": allocated(), "error": str(kept[0]) if kept else ""}


def windows(job: dict[str, Any]) -> dict[str, Any]:
    """Qwen2.5-VL's vision tower: seconds forwards and backwards, a call a window and batched."""
    import torch
    import transformers

    from ocrkit.models.kernels import batch_windows, convert_patch_embedding
    from tests.benchmarks.geometry import GEOMETRIES

    device = "cuda" if _cuda() else "cpu"
    vision = dict(GEOMETRIES[job["geometry"]]["vision"])
    config = transformers.Qwen2_5_VLConfig(vision_config=vision).vision_config
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
        Qwen2_5_VisionTransformerPretrainedModel as Tower,
    )

    torch.manual_seed(0)
    tower = Tower._from_config(config, attn_implementation="sdpa").to(device)
    tower = tower.to(torch.bfloat16 if _cuda() and torch.cuda.is_bf16_supported(False) else None)
    convert_patch_embedding(tower)
    grid = torch.tensor([[1, 8, 88]] * job["lines"], device=device)
    kind = next(tower.parameters()).dtype
    pixels = torch.randn(job["lines"] * 8 * 88, 1176, device=device, dtype=kind)

    def run() -> tuple[float, Any]:
        times, output = [], None
        for _ in range(3):
            began = time.perf_counter()
            output = tower(pixels, grid_thw=grid).pooler_output
            output = output if torch.is_tensor(output) else torch.cat(output)
            output.float().square().mean().backward()
            if _cuda():
                torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
        return min(times), output.detach().float()

    each, before = run()
    batch_windows(tower)
    together, after = run()
    return {
        "each": each,
        "together": together,
        "difference": float((before - after).abs().max() / before.abs().max()),
    }


def simulated(job: dict[str, Any]) -> dict[str, Any]:
    """The forecast's peak, in GiB, of a side of `gpu_side`, without the card."""
    from ocrkit import forecast, load_data
    from tests.benchmarks.gpu_side import kit_config

    config = kit_config(job)
    (card,) = forecast(config, load_data(config), on=job["on"]).cards
    return {"peak_gib": card.peak_gib, "hours": card.hours, "verdict": card.verdict}


if __name__ == "__main__":
    step = {f.__name__: f for f in (precision, four_bits, out_of_memory, windows, simulated)}
    print(json.dumps(step[sys.argv[1]](json.loads(sys.argv[2]))))
