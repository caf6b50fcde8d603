"""Say before a run what it will cost: tokens, what the pixel budget shrinks, memory and time."""

import math
import resource
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import psutil
import torch

from ocrkit.config import TrainConfig
from ocrkit.data.collate import Collator, picture_canvases, picture_sizes, token_lengths
from ocrkit.data.rows import text_of
from ocrkit.environment import process_count
from ocrkit.errors import DataError
from ocrkit.models.read import predict_stream
from ocrkit.training.batch_size import as_in_training, does_not_fit, probe_step, resolve_batch
from ocrkit.training.train import STREAM_SAMPLE, context_length, evaluation_rows

# Under this height of a line of text, models misread what people still read.
LEGIBLE = 16


@dataclass
class Plan:
    """Counts over the training split, and what a few probed steps took.

    `image_tokens`, `text_tokens` and `tokens` are (median, 95th percentile, largest) per sample;
    `shrunk` counts pictures above the pixel budget, `smallest_scale` is the side length that the
    most shrunk one keeps; `smallest_text` is the height in pixels that a line of text has at most
    in the worst of them, as the model sees it, and `small_texts` counts those under 16 pixels;
    `tiles` is (median, 95th percentile, largest) of tiles per sample where pictures are laid out in
    tiles, each of `tile_tokens` tokens beside the text, and else none;
    `too_long` counts samples beyond the context; `seconds` are those of all steps and of
    `evaluations`, each of which takes `evaluation_seconds`.
    """

    samples: int
    image_tokens: tuple[int, int, int]
    text_tokens: tuple[int, int, int]
    tokens: tuple[int, int, int]
    shrunk: int
    smallest_scale: float
    smallest_text: float
    small_texts: int
    context: int
    too_long: int
    steps: int
    samples_per_second: float
    peak_memory_gib: float
    seconds: float
    evaluations: int = 0
    evaluation_seconds: float = 0.0
    tiles: tuple[int, int, int] | None = None
    tile_tokens: int = 0

    def __str__(self) -> str:
        """The plan as a table for people."""
        lines = [f"{'tokens per sample':24}{'median':>8}{'p95':>8}{'max':>8}"]
        for name in ("image_tokens", "text_tokens", "tokens"):
            median, p95, largest = getattr(self, name)
            title = "all" if name == "tokens" else name.partition("_")[0]
            lines.append(f"  {title:22}{median:>8}{p95:>8}{largest:>8}")
        budget, setting = "the pixel budget", "max_pixels"
        if self.tiles:
            budget, setting = "the largest layout of tiles", "max_image_tiles"
            median, p95, largest = self.tiles
            lines.append(f"  {'tiles':22}{median:>8}{p95:>8}{largest:>8}")
            lines.append(
                f"a tile is {self.tile_tokens} tokens beside the text, which looks at them by "
                "cross-attention; they are no part of the context"
            )
        if self.shrunk:
            lines.append(
                f"{self.shrunk} of {self.samples} pictures are above {budget} and shrink, "
                f"one to {self.smallest_scale:.0%} of its side; raise {setting} to keep them"
            )
        else:
            lines.append(f"no picture is above {budget}")
        if self.small_texts:
            lines.append(
                f"WARNING: {self.small_texts} pictures shrink until lines of text are under "
                f"{LEGIBLE} pixels high, the worst {self.smallest_text:.0f}; models misread that"
            )
        lines.append(
            f"{self.too_long} of {self.samples} samples exceed the context of {self.context} tokens"
        )
        minutes, seconds = divmod(round(self.seconds), 60)
        read = f" and {self.evaluations} evaluations of {self.evaluation_seconds:.0f} s"
        lines.append(
            f"{self.steps} steps at {self.samples_per_second:.1f} samples/s"
            f"{read * bool(self.evaluations)}: about {minutes} min {seconds:02d} s; "
            f"peak memory {self.peak_memory_gib:.2f} GiB"
        )
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain names and values."""
        return asdict(self)


def plan(config: TrainConfig, data: Any, model: Any, processor: Any, probe_steps: int = 3) -> Plan:
    """Count tokens without opening a picture, probe a few steps, and print what a run will take.

    The probe runs forward and backward on the longest batch and on ordinary ones, as the run will,
    and reads a batch of validation rows if the run evaluates; no weight changes. Peak memory is the
    GPU's where there is one and the process's elsewhere, without the optimizer's state, which is
    not yet there. Of a stream the first rows are looked at.

    Raises:
        DataError: no training row, or none that fits the context.
        TrainingError: a batch does not fit the memory.
    """
    rows = data["train"].take(STREAM_SAMPLE) if config.streaming else data["train"]
    images, texts = token_lengths(rows, processor, config)
    tokens = [image + text for image, text in zip(images, texts)]
    whole, usable = len(rows), [i for i, count in enumerate(tokens) if math.isfinite(count)]
    if len(usable) < whole:  # as training leaves them out
        rows = rows.select(usable)
        images, texts, tokens = ([c[i] for i in usable] for c in (images, texts, tokens))
    scales = shrink_scales(rows, processor, config)
    drawn, sizes = picture_sizes(rows, None), picture_sizes(rows, config.image_height)
    heights = [
        line_height(size, text_of(completion)) * scale
        for before, row, completion, scale in zip(drawn, sizes, rows["completion"], scales)
        for full, size in zip(before[:1], row)
        if scale < 1 or size[0] < full[0]
    ]
    context = context_length(model, config)
    fitting = [i for i, length in enumerate(tokens) if length <= context]
    if not fitting:
        raise DataError(
            f"No training row fits the context of {context} tokens (the shortest needs "
            f"{min(tokens, default=0)}); raise max_length or lower max_pixels."
        )
    chosen = [tokens[i] for i in fitting]
    config = resolve_batch(config, model, processor, rows.select(fitting), chosen)
    per_second, peak = _probe(config, rows, fitting, tokens, model, processor, probe_steps)
    per_step = config.per_device_train_batch_size * config.gradient_accumulation_steps
    per_step *= process_count()
    steps = config.max_steps
    if steps < 0:
        steps = round(-(-len(fitting) // per_step) * config.num_train_epochs)
    validation = evaluation_rows(data, config)
    evaluations = 0 if validation is None else steps // config.eval_steps
    reading = _reading(config, validation, model, processor) if evaluations else 0.0
    tiles, tile_tokens = None, 0
    if hasattr(processor.image_processor, "max_image_tiles"):
        canvases = picture_canvases(rows, processor, config)
        tiles = _spread([sum(count for count, _ in row) for row in canvases])
        vision = model.config.vision_config
        tile_tokens = (vision.image_size // vision.patch_size) ** 2 + 1
    result = Plan(
        samples=whole,
        image_tokens=_spread(images),
        text_tokens=_spread(texts),
        tokens=_spread(tokens),
        shrunk=sum(scale < 1 for scale in scales),
        smallest_scale=min(scales),
        smallest_text=min(heights, default=math.inf),
        small_texts=sum(height < LEGIBLE for height in heights),
        context=context,
        too_long=whole - len(fitting),
        steps=steps,
        samples_per_second=per_second,
        peak_memory_gib=peak,
        seconds=steps * per_step / (per_second * process_count()) + evaluations * reading,
        evaluations=evaluations,
        evaluation_seconds=reading,
        tiles=tiles,
        tile_tokens=tile_tokens,
    )
    print(result)
    return result


def shrink_scales(rows: Any, processor: Any, config: TrainConfig) -> list[float]:
    """Share of its side that the pixel budget leaves each row's most shrunk picture; 1.0: all."""
    if hasattr(processor.image_processor, "max_image_tiles"):
        canvases = picture_canvases(rows, processor, config)
        return [min((min(1.0, scale) for _, scale in row), default=1.0) for row in canvases]
    size = getattr(processor.image_processor, "size", {})
    budget = size.get("longest_edge", None)
    if not budget:
        return [1.0] * len(rows)
    sizes = picture_sizes(rows, config.image_height)
    return [
        min((min(1.0, (budget / (h * w)) ** 0.5) for h, w in row), default=1.0) for row in sizes
    ]


def line_height(size: tuple[int, int], text: str) -> float:
    """Pixels that a line of `text` has at most in a picture of (height, width) that holds it all.

    Its lines share the height, and its characters, the narrowest half as wide as high, the area.
    """
    height, width = size
    lines = len(text.splitlines()) or 1
    return min(height / lines, math.sqrt(2 * height * width / (len(text) or 1)))


def _spread(counts: list[int]) -> tuple[int, int, int]:
    median, p95, largest = np.percentile(counts, [50, 95, 100])
    return round(median), round(p95), round(largest)


def _probe(
    config: TrainConfig,
    rows: Any,
    fitting: list[int],
    tokens: list[int],
    model: Any,
    processor: Any,
    steps: int,
) -> tuple[float, float]:
    """Samples per second over evenly chosen batches, and peak memory in GiB over all of them."""
    import torch

    if not fitting:
        return float("nan"), float("nan")
    collate = Collator(processor, config.image_height)
    by_length = sorted(fitting, key=lambda i: tokens[i])
    size = min(config.per_device_train_batch_size, len(by_length))
    starts = np.linspace(0, len(by_length) - size, steps + 2).astype(int)[1:-1]
    batches = [by_length[-size:], *(by_length[start : start + size] for start in starts)]
    cuda = model.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    spent = 0.0
    with as_in_training(model, config):
        for number, batch in enumerate(batches):
            started = time.perf_counter()
            try:
                probe_step(model, collate([rows[i] for i in batch]), config)
            except torch.cuda.OutOfMemoryError as error:
                model.zero_grad(set_to_none=True)
                ids = [rows[i]["id"] for i in batch]
                raise does_not_fit("in a trial", [tokens[i] for i in batch], ids) from error
            # The longest batch comes first, warms up, and sets the peak; it is no typical step.
            spent += (time.perf_counter() - started) if number else 0.0
    if cuda:
        peak = torch.cuda.max_memory_allocated() / 2**30
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return size * steps / spent, peak


def _reading(config: TrainConfig, rows: Any, model: Any, processor: Any) -> float:
    """Seconds that an evaluation over `rows` takes, judged by a batch of them."""
    few = rows.select(range(min(len(rows), config.per_device_eval_batch_size)))
    started = time.perf_counter()
    for _ in predict_stream(model, processor, few, config, progress_bar=False):
        pass
    return (time.perf_counter() - started) * len(rows) / len(few) / process_count()


# The first batches start workers and warm caches up.
_WARM = 1


def measure(
    name: str,
    data: Any,
    model: Any,
    processor: Any,
    config: TrainConfig,
    batches: int = 6,
    **settings: Any,
) -> dict[str, Any]:
    """Train a few batches with some settings changed, and say how fast that was.

    Forward and backward passes over batches that the run's own workers prepare, as training does
    them; no weight changes.

    Args:
        name: what the step is called in the table.
        data: as `load_data` gives it; rows are taken from its train split, the first ones.
        config: of the run.
        batches: to time, after one that is not timed.
        settings: of the config, changed for this measurement.

    Returns:
        {step, batch, learning rate, workers, samples/s, waiting, memory GiB}: the learning rate as
        scaled for the batch where `learning_rate_batch_size` is set, `waiting` the share of the
        time spent waiting for pictures, memory the most that torch held on a GPU and that this
        process and its workers hold elsewhere.
    """
    config = replace(config, **settings)
    rows = data["train"].take(STREAM_SAMPLE) if config.streaming else data["train"]
    images, texts = token_lengths(rows, processor, config)
    lengths = [image + text for image, text in zip(images, texts)]
    usable = [i for i, length in enumerate(lengths) if math.isfinite(length)]
    rows, lengths = rows.select(usable), [lengths[i] for i in usable]
    config = resolve_batch(config, model, processor, rows, lengths)
    size = int(config.per_device_train_batch_size)
    order = [n % len(rows) for n in range(size * (batches + _WARM))]
    loader = torch.utils.data.DataLoader(
        torch.utils.data.Subset(rows, order),
        batch_size=size,
        num_workers=config.dataloader_num_workers,
        collate_fn=Collator(processor, config.image_height),
    )
    cuda = model.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    waited = worked = memory = 0.0
    last = time.perf_counter()
    with as_in_training(model, config):
        for number, batch in enumerate(loader):
            taken = time.perf_counter()
            probe_step(model, batch, config)
            done = time.perf_counter()
            if number >= _WARM:
                waited, worked = waited + taken - last, worked + done - taken
            if number == _WARM and not cuda:
                memory = _resident()
            last = time.perf_counter()
    if cuda:
        memory = torch.cuda.max_memory_allocated() / 2**30
    return {
        "step": name,
        "batch": size,
        "learning rate": config.learning_rate,
        "workers": config.dataloader_num_workers,
        "samples/s": size * batches / (waited + worked),
        "waiting": f"{waited / (waited + worked):.0%}",
        "memory GiB": memory,
    }


def fastest(steps: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Batch and workers of the step of `measure` with the most samples a second, as settings."""
    best = max(steps, key=lambda step: step["samples/s"])
    return {
        "per_device_train_batch_size": best["batch"],
        "dataloader_num_workers": best["workers"],
    }


def _resident() -> float:
    """GiB that this process and its workers hold; pages that they share count for each."""
    process = psutil.Process()
    family = [process, *process.children(recursive=True)]
    return sum(one.memory_info().rss for one in family) / 2**30
