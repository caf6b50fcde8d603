"""Picture sizes: to which size an image processor brings the pictures of a dataset."""

import functools
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from ocrkit.config import TrainConfig
from ocrkit.data.lengths import picture_canvases, picture_sizes
from ocrkit.data.rows import Row
from ocrkit.models.budget import (
    area_bounds,
    area_factor,
    bounding_settings,
    call_defaults,
    measure,
    settings_of,
)

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import ProcessorMixin

# Seconds that measuring the sizes of a dataset's pictures may take.
_MEASURING = 5.0
# Scales of height and width that differ by this factor squash a picture out of its proportions.
# Rounding a line of 40 pixels to whole patches of 32 takes 1.25.
SQUASHED = 1.5
# A side that keeps this share of its pixels was rounded to whole patches, not shrunk.
_ROUNDED = 0.9


class Fit(NamedTuple):
    """How a picture is resized for its model.

    Attributes:
        before: (height, width) in pixels.
        after: (height, width) in pixels, as far as the picture covers what the model sees.
        is_cropped: whether parts of it are cut off after that.
    """

    before: tuple[int, int]
    after: tuple[float, float]
    is_cropped: bool = False

    def __str__(self) -> str:
        """Both sizes, width first: "1500x64 to 896x896"."""
        (high, wide), (after_high, after_wide) = self.before, self.after
        return f"{wide}x{high} to {after_wide:.0f}x{after_high:.0f}"

    @property
    def scale(self) -> float:
        """Share of its height or width, the smaller of both, that the picture keeps; at most 1."""
        return min(1.0, self.after[0] / self.before[0], self.after[1] / self.before[1])

    @property
    def squash(self) -> float:
        """How many times more one side is scaled than the other; 1: proportions are kept."""
        ratio = self.after[0] * self.before[1] / (self.after[1] * self.before[0])
        return max(ratio, 1 / ratio)


def picture_fits(
    data: "Dataset | Sequence[Row]", processor: "ProcessorMixin", config: TrainConfig
) -> list[list[Fit | None]]:
    """List how each picture of each row is resized, from its size; no picture is opened.

    Where the processor bounds an area or lays out tiles, that is a formula. Else it is measured on
    a blank picture of each size, the most common first, for five seconds. None: not known.
    """
    sizes = picture_sizes(data, config.image_height)
    if hasattr(processor.image_processor, "max_image_tiles"):
        canvases = picture_canvases(data, processor, config)
        return [
            [Fit(size, (size[0] * scale, size[1] * scale)) for size, (_, scale) in zip(*row)]
            for row in zip(sizes, canvases)
        ]
    if counted := area_factor(processor.image_processor):
        _, highest = area_bounds(processor.image_processor)
        most = settings_of(processor.image_processor)[highest] / counted
        # One object a size: in large datasets most pictures share theirs.
        fit_of = functools.cache(lambda size: Fit(size, _within(size, most)))
        return [[fit_of(size) for size in row] for row in sizes]
    options = call_defaults(processor)
    fits: dict[tuple[int, int], Fit | None] = {}
    started = time.perf_counter()
    for size, _ in Counter(size for row in sizes for size in row).most_common():
        if time.perf_counter() - started > _MEASURING:
            break
        after, is_cropped, _ = measure(processor.image_processor, size, **options)
        if after and all(a >= _ROUNDED * b for a, b in zip(after, size)):
            after = max(after[0], size[0]), max(after[1], size[1])
        fits[size] = Fit(size, after, is_cropped) if after else None
    return [[fits.get(size) for size in row] for row in sizes]


def row_scale(fits: Sequence[Fit | None]) -> float:
    """Share of its side that the most shrunk of a row's pictures keeps; 1.0: all, or not known."""
    return min((fit.scale for fit in fits if fit), default=1.0)


class SizeCounts(TypedDict):
    """What a Plan says of its rows' pictures; see there."""

    budget: str
    squashed: int
    worst_squash: str
    cropped: int
    unknown: int


def count_sizes(fits: Sequence[Sequence[Fit | None]], processor: "ProcessorMixin") -> SizeCounts:
    """Count, for a Plan, the rows whose pictures are squashed, cropped or of unknown size."""
    squashed = [[fit for fit in row if fit and fit.squash >= SQUASHED] for row in fits]
    worst = max((fit for row in squashed for fit in row), key=lambda fit: fit.squash, default=None)
    return {
        "budget": budget_setting(processor),
        "squashed": sum(map(bool, squashed)),
        "worst_squash": str(worst) if worst else "",
        "cropped": sum(any(fit and fit.is_cropped for fit in row) for row in fits),
        "unknown": sum(None in row for row in fits),
    }


def budget_setting(processor: "ProcessorMixin") -> str:
    """Name of the setting that bounds this processor's pictures; "" where none does."""
    if hasattr(processor.image_processor, "max_image_tiles"):
        return "max_image_tiles"
    if area_factor(processor.image_processor):
        return "max_pixels"
    names = " and ".join(bounding_settings(processor))
    return f"{names} in processor_kwargs" if names else ""


def _within(size: tuple[int, int], most: float) -> tuple[float, float]:
    """(height, width) of a picture that is shrunk to an area of `most`, its proportions kept."""
    scale = min(1.0, (most / (size[0] * size[1])) ** 0.5)
    return size[0] * scale, size[1] * scale
