"""Training on a CPU: a step beside a bare loop and TRL's own trainer, padding, and the loss."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.drawn import printed_lines
from tests.benchmarks.measure import in_own_process, limit_row, ratio_row


def training(folder: Path, rounds: int = 3, steps: int = 16, batch: int = 32) -> list[dict]:
    """Samples per second of one epoch: the kit, a bare loop over ready batches, TRL's SFTTrainer.

    All train the embedded model's adapters in float32 on the same lines, as short and long as on
    receipts. The bare loop takes the kit's batches, ready made; TRL has its own collator, random
    order and transformers' loss, since its own needs a GPU.
    """
    from tests.benchmarks.measure import in_turns

    printed_lines(folder / "data", steps * batch)
    sides = {
        "ours": lambda: _kit(folder, batch),
        "bare": lambda: _bare(folder, batch),
        "trl": lambda: _trl(folder, batch),
    }
    seconds = in_turns(sides, rounds)
    inputs = f"{steps} steps of {batch} lines, embedded model, LoRA r=16, float32"
    counted: dict[str, Any] = {"unit": "samples/s", "count": steps * batch, "inputs": inputs}
    what = "training, lines of mixed length"
    loop = "a bare torch loop over the same batches, ready made"
    trl = "TRL's SFTTrainer, its collator, transformers' loss"
    return [
        ratio_row(what, loop, seconds["ours"], seconds["bare"], 0.95, **counted),
        ratio_row(what, trl, seconds["ours"], seconds["trl"], 1.5, **counted),
    ]


def _config(folder: Path, batch: int) -> Any:
    from ocrkit.config import TrainConfig

    return TrainConfig.from_recipe(
        "quickstart",
        dataset=str(folder / "data"),
        output_dir=str(folder / "run"),
        backend="transformers",
        max_steps=-1,
        per_device_train_batch_size=batch,
        eval_steps=None,
        sft_kwargs={"save_strategy": "no"},
    )


def _clock() -> Any:
    """A callback whose `seconds` are those of the last epoch, from its beginning to its end."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        seconds = 0.0

        def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.seconds = time.perf_counter() - self.began

    return Clock()


def _kit(folder: Path, batch: int) -> float:
    from ocrkit.data.load import load_data
    from ocrkit.models.load import load_model
    from ocrkit.training.tracking import tracked
    from ocrkit.training.train import make_trainer

    config, clock = _config(folder, batch), _clock()
    model, processor = load_model(config)
    trainer = make_trainer(model, processor, load_data(config), config, [clock])
    with tracked(trainer):
        trainer.train()
    return clock.seconds


def _bare(folder: Path, batch: int) -> float:
    import torch

    from ocrkit.data.collate import Collator
    from ocrkit.data.load import load_data
    from ocrkit.data.order import TrainRows, TrainSampler
    from ocrkit.models.load import load_model
    from ocrkit.training.rows import fit_context

    config = _config(folder, batch)
    model, processor = load_model(config)
    collate = Collator(processor, config.image_height)
    rows = fit_context(load_data(config)["train"], "train", model, collate, config)
    order = list(TrainSampler(len(rows), batch, config.seed, lengths=rows["length"]))
    taken = TrainRows(rows)
    batches = [
        collate(taken.__getitems__(order[start : start + batch]))
        for start in range(0, len(order), batch)
    ]
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, betas=(0.9, config.adam_beta2))
    model.train()
    began = time.perf_counter()
    for ready in batches:
        model(**ready).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
    return time.perf_counter() - began


def _trl(folder: Path, batch: int) -> float:
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import AutoModelForImageTextToText, AutoProcessor, Trainer
    from trl import SFTConfig, SFTTrainer

    from ocrkit.models.adapters import lora_targets
    from ocrkit.models.base import TINY

    class Stock(SFTTrainer):
        compute_loss = Trainer.compute_loss

    config, clock = _config(folder, batch), _clock()
    rows = load_dataset("imagefolder", data_dir=config.dataset, cache_dir=str(folder / "cache"))
    model = AutoModelForImageTextToText.from_pretrained(TINY, dtype="float32")
    args = SFTConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=batch,
        num_train_epochs=1,
        learning_rate=config.learning_rate,
        max_length=None,
        bf16=False,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
    )
    trainer = Stock(
        model=model,
        args=args,
        train_dataset=rows["train"],
        processing_class=AutoProcessor.from_pretrained(TINY),
        peft_config=LoraConfig(
            r=config.lora_r,
            lora_alpha=config.lora_alpha,
            target_modules=lora_targets(model, config),
            task_type="CAUSAL_LM",
        ),
        callbacks=[clock],
    )
    trainer.train()
    return clock.seconds


def padding(folder: Path, count: int = 2000, batch: int = 8) -> list[dict[str, Any]]:
    """Share of the tokens of a batch that are padding, beside batches at random."""
    from transformers import AutoProcessor

    from ocrkit.data.lengths import token_lengths
    from ocrkit.data.load import load_data
    from ocrkit.data.order import TrainSampler
    from ocrkit.models.base import TINY

    printed_lines(folder / "mixed", count)
    config = replace(_config(folder, batch), dataset=str(folder / "mixed"))
    rows = load_data(config)["train"]
    images, texts = token_lengths(rows, AutoProcessor.from_pretrained(TINY), config)
    lengths = np.add(images, texts)
    order = np.array(list(TrainSampler(len(rows), batch, config.seed, lengths=lengths)))
    at_random = wasted(lengths[np.random.default_rng(0).permutation(len(lengths))], batch)
    share = wasted(lengths[order % len(lengths)], batch)
    inputs = f"{len(rows)} lines of {lengths.min()} to {lengths.max()} tokens, batches of {batch}"
    row = limit_row("padding", 100 * share, "% of tokens", 5, inputs, "batches at random")
    return [{**row, "theirs": round(100 * at_random, 1)}]


def wasted(lengths: np.ndarray, batch: int) -> float:
    """Share of padding where rows of these lengths are batched as they come."""
    full = [lengths[start : start + batch] for start in range(0, len(lengths), batch)]
    return 1 - lengths.sum() / sum(part.max() * len(part) for part in full)


def loss(
    folder: Path,
    rounds: int = 3,
    rows: int = 8,
    tokens: int = 512,
    labels: int = 64,
    vocabulary: int = 151_936,
) -> list[dict[str, Any]]:
    """Memory and time of the loss and its gradient where `labels` of `tokens` positions count."""
    shape = (rows, tokens, labels, vocabulary)
    losses: dict[str, list] = {"supervised": [], "full": []}
    for number in range(rounds):
        for side in list(losses)[:: -1 if number % 2 else 1]:
            losses[side].append(in_own_process("tests.benchmarks.loss_side", side, *shape))
    inputs = (
        f"{rows} x {tokens} tokens, {labels} labels a row, which ends up to {labels} tokens early, "
        f"vocabulary {vocabulary:,}, float32"
    )
    full = "transformers' loss over all positions"
    ours, theirs = (
        {key: [result[key] for result in losses[side]] for key in ("MB", "seconds")}
        for side in losses
    )
    what = "loss at supervised positions"
    return [
        ratio_row(f"{what}, memory", full, ours["MB"], theirs["MB"], 4, "MB", inputs=inputs),
        ratio_row(f"{what}, time", full, ours["seconds"], theirs["seconds"], 1, inputs=inputs),
    ]
