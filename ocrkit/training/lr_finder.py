"""LR finder: raise the learning rate step by step until the loss diverges, and suggest one."""

import io
import json
import math
import random
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_prep.dataset.manifest import check_own, write_folder
from ocrkit.config import TrainConfig
from ocrkit.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from datasets import DatasetDict
    from transformers import PreTrainedModel, ProcessorMixin

_FILES = ("lr_finder.json", "lr_finder.png")


@dataclass
class LRCurve:
    """Losses over exponentially rising rates, and the rate where they fell fastest.

    `smoothed` are `losses` averaged with their neighbours; `suggestion` is None where the loss
    never fell.
    """

    learning_rates: list[float]
    losses: list[float]
    smoothed: list[float]
    suggestion: float | None

    def __str__(self) -> str:
        """The suggestion as one line."""
        low, high = self.learning_rates[0], self.learning_rates[-1]
        if self.suggestion is None:
            return f"The loss fell nowhere between learning rates {low:.1e} and {high:.1e}."
        return f"Suggested learning_rate: {self.suggestion:.1e} (tried {low:.1e} to {high:.1e})."


def find_lr(
    config: TrainConfig,
    data: "DatasetDict",
    model: "PreTrainedModel",
    processor: "ProcessorMixin",
    min_lr: float = 1e-6,
    max_lr: float = 0.1,
    steps: int = 60,
) -> LRCurve:
    """Train briefly at rising learning rates, and suggest the rate of the steepest descent.

    Every step trains one batch at a rate `(max_lr / min_lr) ** (1 / (steps - 1))` times the last,
    with the run's own loss, optimizer and precision; the sweep ends early where the mean of three
    losses exceeds four times its lowest. Weights and random states are restored afterwards. Writes
    `lr_finder.json` and `lr_finder.png` into the run folder. The method is the LR range test of
    Smith (2015, arXiv:1506.01186).

    Raises:
        ConfigError: `min_lr`, `max_lr` or `steps` make no sweep.
        DataError, ConfigError, TrainingError: as `train`.
        FileExistsError: a file of that name there was not written by the kit.
    """
    check_range(min_lr, max_lr, steps)
    folder = Path(config.output_dir)
    check_own(folder, _FILES, way_out="move it, or give another output_dir")  # before the sweep
    with _restored_random_states(), _restored_weights(model):
        rates, losses = _sweep(config, data, model, processor, min_lr, max_lr, steps)
    curve = LRCurve(rates, losses, smooth(losses), None)
    curve.suggestion = steepest(rates, curve.smoothed)
    table = json.dumps(asdict(curve), indent=1) + "\n"
    write_folder(folder, dict(zip(_FILES, (table, _plot(curve)))))
    print(f"{curve} Curve: {folder / 'lr_finder.png'}")
    return curve


def check_range(min_lr: float, max_lr: float, steps: int) -> None:
    """Reject learning rates that do not rise, and fewer than 10 steps.

    Raises:
        ConfigError: with the three values.
    """
    if not 0 < min_lr < max_lr < math.inf or steps < 10:
        raise ConfigError(
            f"min_lr={min_lr:g}, max_lr={max_lr:g}, steps={steps} make no sweep; they have to "
            "rise, over at least 10 steps."
        )


def smooth(losses: Sequence[float]) -> list[float]:
    """Gaussian-weighted average of each loss with its neighbours on both sides.

    The standard deviation is a tenth of the sweep. A moving average of past steps would follow
    single easy and hard batches at the start.
    """
    steps = np.arange(len(losses))
    width = len(losses) / 10
    weights = np.exp(-0.5 * ((steps[:, None] - steps) / width) ** 2)
    return (weights @ np.asarray(losses) / weights.sum(axis=1)).tolist()


def steepest(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """The rate where the loss falls fastest before its lowest point; None: nowhere."""
    lowest = int(np.argmin(losses))
    if lowest < 2:
        return None
    slopes = np.gradient(np.asarray(losses[: lowest + 1]), np.log(rates[: lowest + 1]))
    # Noise alone makes the loss fall somewhere, which says nothing about rates.
    if slopes.min() >= 0 or losses[0] - losses[lowest] < 0.02 * abs(losses[0]):
        return None
    return float(rates[int(np.argmin(slopes))])


def _sweep(
    config: TrainConfig,
    data: "DatasetDict",
    model: "PreTrainedModel",
    processor: "ProcessorMixin",
    min_lr: float,
    max_lr: float,
    steps: int,
) -> tuple[list[float], list[float]]:
    import torch
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

    from ocrkit.errors import TrainingError
    from ocrkit.training.train import make_trainer

    factor = (max_lr / min_lr) ** (1 / (steps - 1))
    rates: list[float] = []
    losses: list[float] = []

    class Record(TrainerCallback):
        """Keeps each step's loss, and ends the sweep when it diverges."""

        def on_log(
            self,
            args: TrainingArguments,
            state: TrainerState,
            control: TrainerControl,
            **kwargs: Any,
        ):
            logs = kwargs.get("logs") or {}
            if "loss" in logs:
                rates.append(min_lr * factor ** (state.global_step - 1))
                losses.append(float(logs["loss"]))
                means = np.convolve(losses, np.ones(3) / 3, "valid")
                control.should_training_stop = len(means) > 0 and means[-1] > 4 * np.min(means)
            return control

    with tempfile.TemporaryDirectory() as folder:
        sweep_config = replace(
            config,
            output_dir=folder,
            max_steps=steps,
            learning_rate=min_lr,
            warmup_steps=0,
            logging_steps=1,
            eval_steps=None,
            load_best_model_at_end=False,
            early_stopping_patience=None,
            loss=config.loss.replace("focal_confusion_weighted", "focal").replace(
                "confusion_weighted", "cross_entropy"
            ),
            curriculum=None,
            report_to="none",
            sft_kwargs={**config.sft_kwargs, "save_strategy": "no"},
        )
        trainer = make_trainer(model, processor, data, sweep_config, [Record()])
        trainer.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
            trainer.create_optimizer(), lambda step: factor**step
        )
        try:
            trainer.train()
        except TrainingError as error:
            # A loss of NaN ends a sweep as a diverging one does.
            if len(losses) < 3 or "loss is" not in str(error):
                raise
    return rates, losses


def _trained(model: "PreTrainedModel") -> "Iterator[tuple[str, torch.nn.Parameter]]":
    return ((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)


@contextmanager
def _restored_weights(model: "PreTrainedModel") -> Generator[None]:
    """Restore the trained weights, and drop their gradients, at the end of the block."""
    weights = {name: w.detach().to("cpu", copy=True) for name, w in _trained(model)}
    try:
        yield
    finally:
        for name, weight in _trained(model):
            weight.data.copy_(weights[name])
            weight.grad = None


@contextmanager
def _restored_random_states() -> Generator[None]:
    """Restore the random states of Python, NumPy and torch at the end of the block."""
    import torch

    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def _plot(curve: LRCurve) -> bytes:
    """Plot the curve as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(curve.learning_rates, curve.losses, color="0.75", label="loss")
    axes.plot(curve.learning_rates, curve.smoothed, label="smoothed")
    if curve.suggestion:
        axes.axvline(curve.suggestion, linestyle="--", label=f"suggested {curve.suggestion:.1e}")
    # Scaled to the diverging losses, the rest of the curve would be a flat line.
    top = max(curve.smoothed[0], min(curve.smoothed)) * 1.5
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss", ylim=(0, top))
    axes.legend()
    png = io.BytesIO()
    figure.savefig(png, dpi=120)
    return png.getvalue()
