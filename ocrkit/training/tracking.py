"""Tracking: throughput and memory in every log, and samples for TensorBoard and W&B.

Imports transformers, so it is imported only after a backend has been chosen.
"""

import os
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from PIL import Image
from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import TensorBoardCallback

from data_prep.dataset.pictures import open_image
from ocrkit.config import TrainConfig
from ocrkit.errors import ConfigError
from ocrkit.run_folder import LOG, read_log
from ocrkit.training.probe import GIB, resident_memory

if TYPE_CHECKING:
    from datasets import Dataset

    from ocrkit.training.trainer import OCRTrainer

# Share of the time spent waiting for data above which a warning is printed.
MOST_WAIT = 0.2
# Steps before that warning; the first step is not counted, since workers start in it.
_FEW_STEPS = 10


class Meter(TrainerCallback):
    """Adds throughput and memory of the steps since the last log to every log of a training loss.

    `data_wait` is the share of the time spent waiting for batches (evaluations and saving count
    for neither side), `samples_per_second` and `image_tokens_per_second` are over all processes,
    `host_memory_gb` is the resident memory of this process and its workers (pages that they share
    count for each), `gpu_memory_gb` the most that torch has held so far, in GiB, and
    `gpu_utilization` a percentage where nvidia-smi reports it.

    Trainer waits for the GPU after every backward pass (it reads the loss), so the host's clock is
    right except for the optimizer's own step.
    """

    def __init__(self, workers: int):
        self.workers = workers
        self.warned = False
        self.steps, self.total_waited, self.total = 0, 0.0, 0.0
        self.hook: Any = None
        self._reset()

    def _reset(self) -> None:
        self.waited = self.stepped = 0.0
        self.samples: int = 0
        self.image_tokens: Any = 0

    def _count(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids")
        if module.training and ids is not None:
            self.samples += len(ids)
            if self.image_token is not None:
                # A tensor that stays on the GPU until it is logged.
                self.image_tokens = self.image_tokens + (ids == self.image_token).sum()

    def _mark(self, *args: Any, **kwargs: Any) -> None:
        self.last = time.perf_counter()

    on_epoch_begin = on_evaluate = on_save = _mark

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count samples and image tokens of every forward pass from here on."""
        model = kwargs["model"]
        names = ("image_token_id", "image_token_index")
        ids = (getattr(model.config, name, None) for name in names)
        self.image_token = next((token for token in ids if token is not None), None)
        self.hook = model.register_forward_pre_hook(self._count, with_kwargs=True)
        self._mark()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Add the time spent waiting for the step's batches."""
        now = time.perf_counter()
        self.waited += now - self.last
        if self.steps:
            self.total_waited += now - self.last
            self.total += now - self.last
        self.last = now

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Add the time that the step took."""
        now = time.perf_counter()
        self.stepped += now - self.last
        self.total += now - self.last if self.steps else 0
        self.steps += 1
        self.last = now

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Add the measurements to the log, and warn once when too much time is waiting."""
        logs = kwargs.get("logs")
        seconds = self.waited + self.stepped
        if logs and "loss" in logs and seconds:
            logs["data_wait"] = self.waited / seconds
            logs["samples_per_second"] = self.samples * args.world_size / seconds
            if self.image_token is not None:
                tokens = int(self.image_tokens) * args.world_size
                logs["image_tokens_per_second"] = tokens / seconds
            logs.update(memory())
            self._reset()
            if state.is_world_process_zero:
                self._warn()
        self._mark()

    def remove_hook(self) -> None:
        """Stop counting, also after a run that failed."""
        if self.hook is not None:
            self.hook.remove()

    def _warn(self) -> None:
        share = self.total_waited / self.total if self.total else 0
        if share > MOST_WAIT and self.steps > _FEW_STEPS and not self.warned:
            self.warned = True
            tqdm.write(
                f"Waiting for data: {share:.0%} of the time in {self.steps} steps. Raise "
                f"dataloader_num_workers (now {self.workers}; there are {os.cpu_count()} CPU "
                "cores), put the dataset on a local disk (python -m data_prep.unpack), or make "
                "its pictures smaller (max_pixels)."
            )


def memory() -> dict[str, float]:
    """Memory of the host and the GPU in GiB, and the GPU's utilisation in percent."""
    measured = {"host_memory_gb": resident_memory()}
    if torch.cuda.is_available():
        measured["gpu_memory_gb"] = torch.cuda.max_memory_allocated() / GIB
        if (share := gpu_utilization()) is not None:
            measured["gpu_utilization"] = share
    return measured


def gpu_utilization() -> float | None:
    """Utilisation of this process's GPU in percent, as nvidia-smi reports it; None where unknown.

    torch's own figure needs nvidia-ml-py, which nothing else here needs; nvidia-smi comes with the
    driver.
    """
    device = torch.cuda.get_device_properties(torch.cuda.current_device()).uuid
    query = ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    try:
        output = subprocess.run(
            ["nvidia-smi", f"--id=GPU-{device}", *query],
            capture_output=True,
            text=True,
            check=True,
            timeout=5,
        )
        return float(output.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        # A slice of a card (MIG) has no figure of its own.
        return None


class Samples(TrainerCallback):
    """Sends the rows that an evaluation shows to the trackers: picture, truth and prediction.

    Args:
        trainer: an OCRTrainer.
        run: the W&B run; None where there is none.
    """

    def __init__(self, trainer: "OCRTrainer", run: Any) -> None:
        self.trainer, self.run = trainer, run

    def _writers(self) -> list[Any]:
        callbacks = self.trainer.callback_handler.callbacks
        boards = [callback for callback in callbacks if isinstance(callback, TensorBoardCallback)]
        return [board.tb_writer for board in boards if board.tb_writer]

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Send the settings to TensorBoard; W&B has them already."""
        for writer in self._writers():
            settings = yaml.safe_dump(self.trainer.config.to_dict(), allow_unicode=True)
            writer.add_text("config", f"```\n{settings}```", state.global_step)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Send the samples that the evaluation of this step logged."""
        log = read_log(Path(args.output_dir or "") / LOG)
        entries = [e for e in log if e["step"] == state.global_step and e.get("samples")]
        rows = self.trainer.eval_dataset
        if rows is None or not entries or not state.is_world_process_zero:
            return
        samples = entries[-1]["samples"]
        ids = list(rows["id"])
        pictures = [_thumbnail(rows, ids.index(sample["id"])) for sample in samples]
        for writer in self._writers():
            _to_tensorboard(writer, state.global_step, samples, pictures)
        if self.run is not None:
            _to_wandb(self.run, state.global_step, samples, pictures)


def _thumbnail(rows: "Dataset", number: int) -> Image.Image:
    """A row's first picture, small; a white pixel where it cannot be opened."""
    try:
        picture = open_image(rows[number]["images"][0]).copy()
    except (OSError, ValueError):
        return Image.new("L", (1, 1), 255)
    picture.thumbnail((1024, 1024))
    return picture


def _to_tensorboard(writer: Any, step: int, samples: list[dict], pictures: list[Any]) -> None:
    import numpy as np

    lines = ["| id | truth | read |", "| --- | --- | --- |"]
    for sample in samples:
        texts = (sample[key] for key in ("id", "reference", "prediction"))
        # Replace characters that would end a cell or a line of the table.
        cells = (" ".join(text.replace("|", "¦").replace("`", "'").split()) for text in texts)
        lines.append("| " + " | ".join(f"`{cell}`" if cell else "—" for cell in cells) + " |")
    writer.add_text("eval/samples", "\n".join(lines), step)
    for sample, picture in zip(samples, pictures):
        pixels = np.asarray(picture.convert("RGB"))
        writer.add_image(f"eval/{sample['id']}", pixels, step, dataformats="HWC")


def _to_wandb(run: Any, step: int, samples: list[dict], pictures: list[Any]) -> None:
    import wandb

    texts = [[sample[key] for key in ("id", "reference", "prediction")] for sample in samples]
    # W&B keeps pictures inside a table in the home folder until they are synchronised, so an
    # offline run folder could not be moved to another machine.
    images = [
        wandb.Image(picture.convert("RGB"), caption=f"{name}\ntruth: {truth}\nread: {read}")
        for (name, truth, read), picture in zip(texts, pictures)
    ]
    table = wandb.Table(columns=["id", "truth", "read"], data=texts)
    run.log({"eval/samples": table, "eval/pictures": images, "train/global_step": step})


@contextmanager
def tracked(trainer: "OCRTrainer") -> Generator[None]:
    """Measure and track a run inside this context, with the trackers of `report_to`.

    Their files lie in the run folder: `tensorboard/`, `wandb/`. A W&B run that is already open is
    used and left open; a resumed run continues its own.

    Raises:
        ConfigError: W&B cannot start, e.g. without a login.
    """
    config, callbacks = trainer.config, trainer.callback_handler.callbacks
    meter = Meter(config.dataloader_num_workers)
    trainer.add_callback(meter)
    # All callbacks get the same dict of logs in turn: those that add to it come before those that
    # write it.
    callbacks.insert(0, callbacks.pop())
    for callback in callbacks:
        if isinstance(callback, TensorBoardCallback) and not callback.logging_dir:
            callback.logging_dir = str(Path(config.output_dir) / "tensorboard")
    run, opened, failed = None, False, True
    if "wandb" in config.trackers and trainer.is_world_process_zero():
        run, opened = _wandb_run(config, trainer.description.get("wandb_run"))
        trainer.description["wandb_run"] = run.id
    if config.trackers:
        trainer.add_callback(Samples(trainer, run))
    try:
        yield
        failed = False
    finally:
        meter.remove_hook()
        if run is not None and opened:
            run.finish(exit_code=int(failed))


def _wandb_run(config: TrainConfig, resumed: str | None) -> tuple[Any, bool]:
    """The W&B run, and whether it was opened here.

    Args:
        resumed: id of the run to continue; None begins a new one.
    """
    import wandb

    if wandb.run is not None:
        return wandb.run, False
    options = {"id": resumed, "resume": "allow", "allow_val_change": True} if resumed else {}
    try:
        run = wandb.init(
            **options,
            project=config.project,
            name=config.run_name or Path(config.output_dir).name,
            tags=config.tags,
            dir=config.output_dir,
            config=yaml.safe_load(yaml.safe_dump(config.to_dict())),
        )
    except wandb.errors.Error as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"report_to='wandb' cannot start ({reason}); run `wandb login`, or set the environment "
            "variable WANDB_MODE=offline."
        ) from None
    return run, True
