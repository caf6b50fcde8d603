"""Plan a run before it starts: tokens, pictures that the pixel budget shrinks, memory and time.

The module is a little above 400 lines, so that everything that a plan says is in one file.
"""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ocrkit.config import TrainConfig
from ocrkit.data.collate import Collator
from ocrkit.data.lengths import (
    picture_canvases,
    picture_counter,
    picture_sizes,
    row_lengths,
    token_lengths,
)
from ocrkit.data.order import TrainRows
from ocrkit.data.rows import text_of
from ocrkit.display.notebook import show
from ocrkit.display.tables import Table
from ocrkit.environment import process_count
from ocrkit.errors import DataError
from ocrkit.models.read import predict_stream
from ocrkit.models.sizes import count_sizes, picture_fits, row_scale
from ocrkit.training.batch_size import resolve_batch, resolved_batch_size
from ocrkit.training.probe import (
    GIB,
    cannot_compute,
    check_training,
    out_of_memory,
    peak_memory,
    resident_memory,
    timed_steps,
)
from ocrkit.training.rows import (
    STREAM_SAMPLE,
    context_length,
    epoch_samples,
    validation_rows,
)

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from transformers import PreTrainedModel, ProcessorMixin

# Pixels: models misread lines of text that are less high, which people still read.
LEGIBLE = 16
# Batches of `measure` that are not timed: workers start and caches fill in them.
_WARM_UP = 1
_ROWS_AT_ONCE = 1000


@dataclass
class Plan:
    """Token and picture counts of the training split, and the time and memory of a run.

    Spreads are (median, 95th percentile, largest) per sample.

    Attributes:
        samples: rows of the training split, or of the sample of a stream.
        image_tokens: spread of the pictures' tokens; likewise `text_tokens`, and `tokens` of both.
        shrunk: pictures that lose pixels in height or width, mostly those above the pixel budget.
        smallest_scale: share of its side that the most shrunk picture keeps.
        smallest_text: pixels that a line of text has at most in the worst shrunk picture, as the
            model sees it.
        small_texts: shrunk pictures whose lines are under 16 pixels high.
        context: tokens that a sample may have.
        too_long: samples with more tokens.
        steps: optimizer steps of the run.
        samples_per_second: throughput of the probe steps, on one process.
        peak_memory_gib: of the probe steps, in GiB.
        seconds: of all steps and all evaluations.
        evaluations: number during the run.
        evaluation_seconds: time of each.
        tiles: spread of tiles, where pictures are laid out in tiles (Mllama); else None.
        tile_tokens: tokens of a tile, which stand beside the text.
        budget: what bounds the pictures: a setting, "" where every picture has one size.
        squashed: pictures that are squashed out of their proportions.
        worst_squash: sizes of the worst of these, as "1500x64 becomes 896x896".
        cropped: pictures whose edges are cut off.
        unknown: pictures of which it is not known to which size they are brought.
        template_variables: of the chat template, with the value that each has.
        counting: how many sizes of pictures were measured, where not all could be; else empty.
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
    budget: str = "max_pixels"
    squashed: int = 0
    worst_squash: str = ""
    cropped: int = 0
    unknown: int = 0
    template_variables: dict[str, Any] = field(default_factory=dict)
    counting: str = ""

    def __str__(self) -> str:
        """The plan as a plain table and sentences."""
        return str(self.table())

    def table(self) -> Table:
        """The plan as a table of tokens, and sentences."""
        counts = {"image": self.image_tokens, "text": self.text_tokens, "all": self.tokens}
        lines = []
        if self.tiles:
            counts["tiles"] = self.tiles
            lines.append(
                f"a tile is {self.tile_tokens} tokens beside the text, which looks at them by "
                "cross-attention; they are no part of the context"
            )
        names = ("tokens per sample", "median", "p95", "max")
        rows = [dict(zip(names, (kind, *count))) for kind, count in counts.items()]
        if self.counting:
            lines.append(self.counting)
        if self.template_variables:
            values = (f"{n}={json.dumps(v)}" for n, v in self.template_variables.items())
            lines.append(f"chat template: {', '.join(values)} (chat_template_kwargs)")
        lines += self._sizes()
        if self.small_texts:
            lines.append(
                f"WARNING: {self.small_texts} pictures shrink until lines of text are under "
                f"{LEGIBLE} pixels high, the worst {self.smallest_text:.0f}; models misread that"
            )
        lines.append(
            f"{self.too_long} of {self.samples} samples exceed the context of {self.context} tokens"
        )
        minutes, seconds = divmod(round(self.seconds), 60)
        evaluations = ""
        if self.evaluations:
            evaluations = f" and {self.evaluations} evaluations of {self.evaluation_seconds:.0f} s"
        lines.append(
            f"{self.steps} steps at {self.samples_per_second:.1f} samples/s{evaluations}: "
            f"about {minutes} min {seconds:02d} s; peak memory {self.peak_memory_gib:.2f} GiB"
        )
        return Table(rows, "\n".join(lines))

    def _sizes(self) -> list[str]:
        """Sentences on pictures that are shrunk, squashed, cropped, or of unknown size."""
        if self.unknown == self.samples:
            return [
                "not known: to which sizes pictures are brought; the image processor gives none"
            ]
        lines = []
        if self.unknown:
            known = self.samples - self.unknown
            lines.append(f"sizes of {known} of {self.samples} pictures measured, others not known")
        above = {
            "max_pixels": "above the pixel budget",
            "max_image_tiles": "above the largest layout of tiles",
        }
        if self.shrunk:
            cause = f" are {above[self.budget]} and" if self.budget in above else ""
            way_out = f"; raise {self.budget} to keep them" if self.budget else ""
            lines.append(
                f"{self.shrunk} of {self.samples} pictures{cause} shrink, one to "
                f"{self.smallest_scale:.0%} of its side{way_out}"
            )
        elif self.unknown == 0:
            lines.append(f"no picture is {above.get(self.budget, 'shrunk')}")
        if self.squashed:
            lines.append(
                f"WARNING: {self.squashed} of {self.samples} pictures are squashed out of their "
                f"proportions, the worst from {self.worst_squash} pixels; models misread that: cut "
                "long lines into parts, or take a model that keeps proportions"
            )
        if self.cropped:
            lines.append(
                f"WARNING: {self.cropped} of {self.samples} pictures lose what lies at their "
                "edges, which the image processor cuts off"
            )
        return lines

    def to_dict(self) -> dict[str, Any]:
        """The plan as a dict of its fields."""
        return asdict(self)


def plan(
    config: TrainConfig,
    data: "DatasetDict",
    model: "PreTrainedModel",
    processor: "ProcessorMixin",
    probe_steps: int = 3,
) -> Plan:
    """Count tokens without opening a picture, run a few probe steps, and print a run's cost.

    The probe steps run forward and backward on the longest batch and on ordinary ones, as the run
    will, and a batch of validation rows is read if the run evaluates; no weight changes. Peak
    memory is the GPU's where there is one and the process's elsewhere, without the optimizer's
    state, which does not exist yet. Of a stream the first rows are planned with.

    Raises:
        DataError: no training row, or none that fits the context.
        TrainingError: a batch does not fit the memory, or the model cannot compute it.
        ConfigError: the model computes no batch of several rows.
    """
    rows = epoch_samples(data, config)
    collator = Collator(processor, config.image_height)
    images, texts = token_lengths(rows, processor, config, collator.conversation)
    tokens = [image + text for image, text in zip(images, texts)]
    whole, usable = len(rows), [i for i, count in enumerate(tokens) if math.isfinite(count)]
    if len(usable) < whole:  # training leaves these rows out
        rows = rows.select(usable)
        images, texts, tokens = ([c[i] for i in usable] for c in (images, texts, tokens))
    fits = picture_fits(rows, processor, config)
    scales = [row_scale(row) for row in fits]
    heights = _shrunk_line_heights(rows, scales, config)
    context = context_length(model, config)
    fitting = [i for i, length in enumerate(tokens) if length <= context]
    if not fitting:
        raise DataError(
            f"No training row fits the context of {context} tokens (the shortest needs "
            f"{min(tokens, default=0)}); raise max_length or lower max_pixels."
        )
    lengths = [tokens[i] for i in fitting]
    config = resolve_batch(config, model, collator, rows.select(fitting), lengths)
    per_second, peak = _throughput(config, rows, fitting, tokens, model, collator, probe_steps)
    per_step = resolved_batch_size(config) * config.gradient_accumulation_steps * process_count()
    steps = config.max_steps
    if steps < 0:
        steps = round(-(-len(fitting) // per_step) * config.num_train_epochs)
    validation = validation_rows(data, config)
    evaluations, evaluation_seconds = 0, 0.0
    if validation is not None and config.eval_steps:
        evaluations = steps // config.eval_steps
    if validation is not None and evaluations:
        evaluation_seconds = _evaluation_seconds(config, validation, model, processor)
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
        seconds=steps * per_step / (per_second * process_count())
        + evaluations * evaluation_seconds,
        evaluations=evaluations,
        evaluation_seconds=evaluation_seconds,
        tiles=tiles,
        tile_tokens=tile_tokens,
        **count_sizes(fits, processor),
        template_variables=getattr(model, "ocrkit_template_variables", {}),
        counting=str(picture_counter(processor)),
    )
    show(result.table())
    return result


def _shrunk_line_heights(
    rows: "Dataset", scales: Sequence[float], config: TrainConfig
) -> list[float]:
    """Most pixels of a line of text in the first picture of each row, where it is shrunk."""
    if not config.image_height:
        # Only these are shrunk: other texts need not be read.
        shrunk = [row for row, scale in enumerate(scales) if scale < 1]
        rows, scales = rows.select(shrunk), [scales[row] for row in shrunk]
    texts = rows.select_columns(["completion", "sizes"])
    heights: list[float] = []
    # Some rows at a time: as Python's objects 100,000 of them take a hundred MB.
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        batch = texts.select(range(start, min(start + _ROWS_AT_ONCE, len(rows))))
        originals, sizes = picture_sizes(batch, None), picture_sizes(batch, config.image_height)
        heights += [
            line_height(size, text_of(completion)) * scale
            for before, row, completion, scale in zip(
                originals, sizes, batch["completion"], scales[start:]
            )
            for original, size in zip(before[:1], row)
            if scale < 1 or size[0] < original[0]
        ]
    return heights


def line_height(size: tuple[int, int], text: str) -> float:
    """Pixels that a line of `text` has at most in a picture of (height, width) that holds it all.

    Its lines share the height, and its characters, the narrowest half as wide as high, the area.
    """
    height, width = size
    lines = len(text.splitlines()) or 1
    return min(height / lines, math.sqrt(2 * height * width / (len(text) or 1)))


def _spread(counts: Sequence[float]) -> tuple[int, int, int]:
    median, p95, largest = np.percentile(counts, [50, 95, 100])
    return round(median), round(p95), round(largest)


def _throughput(
    config: TrainConfig,
    rows: "Dataset",
    fitting: list[int],
    tokens: list[float],
    model: "PreTrainedModel",
    collator: Collator,
    steps: int,
) -> tuple[float, float]:
    """Samples per second over evenly chosen batches, and peak memory in GiB over all of them."""
    by_length = sorted(fitting, key=lambda i: tokens[i])
    size = min(resolved_batch_size(config), len(by_length))
    starts = np.linspace(0, len(by_length) - size, steps + 2).astype(int)[1:-1]
    # The longest batch comes first, warms up, and sets the peak; it is no typical step.
    batches = [by_length[-size:], *(by_length[start : start + size] for start in starts)]
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds: list[float] = []
    collated = (collator(TrainRows(rows).__getitems__(batch)) for batch in batches)
    try:
        for waiting, working in timed_steps(model, collated, config):
            seconds.append(waiting + working)
    except torch.cuda.OutOfMemoryError as error:
        batch = batches[len(seconds)]
        ids = rows.select_columns("id")[batch]["id"]
        raise out_of_memory("in a trial", [tokens[i] for i in batch], ids) from error
    except Exception as error:  # models raise errors of any type
        # Says so where it is the model that takes no batch of several rows.
        check_training(model, collator.processor, size, config)
        ids = rows.select_columns("id")[batches[len(seconds)]]["id"]
        which = f"the pictures of rows {ids}" if size > 1 else f"the pictures of row {ids[0]!r}"
        raise cannot_compute(which, error, model, collator.processor) from error
    return size * steps / sum(seconds[1:]), peak_memory(model.device) / GIB


def _evaluation_seconds(
    config: TrainConfig, rows: "Dataset", model: "PreTrainedModel", processor: "ProcessorMixin"
) -> float:
    """Seconds that an evaluation over `rows` takes, estimated from a batch of them."""
    few = rows.select(range(min(len(rows), config.per_device_eval_batch_size)))
    started = time.perf_counter()
    for _ in predict_stream(model, processor, few, config, progress_bar=False):
        pass
    return (time.perf_counter() - started) * len(rows) / len(few) / process_count()


def measure(
    name: str,
    data: "DatasetDict",
    model: "PreTrainedModel",
    processor: "ProcessorMixin",
    config: TrainConfig,
    batches: int = 6,
    **settings: Any,
) -> dict[str, Any]:
    """Measure the throughput of a few probe steps, with some settings changed.

    The run's own workers prepare the batches, as in training; no weight changes.

    Args:
        name: of the step in the table.
        data: as `load_data` returns it; the first rows of its train split are taken.
        config: of the run.
        batches: number that is timed, after one that is not.
        settings: changed for this measurement.

    Returns:
        {step, batch, learning rate, workers, samples/s, waiting, memory GiB}: the learning rate as
        scaled for the batch where `learning_rate_batch_size` is set, `waiting` the share of the
        time spent waiting for pictures, memory the most that torch held on a GPU, and elsewhere
        what this process and its workers hold.
    """
    config = replace(config, **settings)
    rows = data["train"].take(STREAM_SAMPLE) if config.streaming else data["train"]
    collator = Collator(processor, config.image_height)
    lengths = row_lengths(rows, processor, config, collator.conversation)
    usable = [i for i, length in enumerate(lengths) if math.isfinite(length)]
    rows, lengths = rows.select(usable), [lengths[i] for i in usable]
    config = resolve_batch(config, model, collator, rows, lengths)
    size = resolved_batch_size(config)
    order = [n % len(rows) for n in range(size * (batches + _WARM_UP))]
    loader = torch.utils.data.DataLoader(
        torch.utils.data.Subset(TrainRows(rows), order),
        batch_size=size,
        num_workers=config.dataloader_num_workers,
        collate_fn=collator,
    )
    cuda = model.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    waited = worked = memory = 0.0
    for number, (waiting, working) in enumerate(timed_steps(model, loader, config)):
        if number >= _WARM_UP:
            waited, worked = waited + waiting, worked + working
        if number == _WARM_UP and not cuda:
            memory = resident_memory()
    return {
        "step": name,
        "batch": size,
        "learning rate": config.learning_rate,
        "workers": config.dataloader_num_workers,
        "samples/s": size * batches / (waited + worked),
        "waiting": f"{waited / (waited + worked):.0%}",
        "memory GiB": peak_memory(model.device) / GIB if cuda else memory,
    }


def fastest(steps: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Batch size and workers of the step of `measure` with the most samples a second."""
    best = max(steps, key=lambda step: step["samples/s"])
    return {
        "per_device_train_batch_size": best["batch"],
        "dataloader_num_workers": best["workers"],
    }
