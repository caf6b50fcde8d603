"""Token counts of rows, from their texts and the sizes of their pictures; no picture is opened.

A processor's own formula counts the tokens of pictures, if it does so for twenty drawn sizes what
the processor does with blank pictures of them. Without such a formula each size is measured.
"""

import math
import random
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from ocrkit.config import TrainConfig
from ocrkit.data.blank import blank_tokens
from ocrkit.data.conversation import QUESTION, ConversationTokenizer, RowRefused
from ocrkit.data.rows import Row
from ocrkit.environment import remembered

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import ProcessorMixin

# Drawn sizes on which a formula has to be right.
_CHECKED_SIZES = 20
# Seconds in which sizes of pictures are measured; those after it count as the nearest measured.
_MEASURING = 10.0

# 64 rows a call: larger lists trigger slow full garbage collections.
_ROWS_A_CALL = 64


def token_lengths(
    data: "Dataset | Sequence[Row]",
    processor: "ProcessorMixin",
    config: TrainConfig,
    conversation: ConversationTokenizer | None = None,
) -> tuple[list[float], list[float]]:
    """Count tokens of each row: (of its pictures, of its text with prompt and end of turn).

    Pictures are counted by the processor from their sizes, as the model will see them. A row that
    the model cannot take has infinitely many, and `refusal` says why.

    Args:
        data: a Dataset, or a list of rows.
        conversation: a tokenizer with cached prompts, where rows come one by one; None: a new one.
    """
    conversation = conversation or ConversationTokenizer(processor)
    listed = isinstance(data, Sequence)
    source: Any = data if listed else data.select_columns(["prompt", "completion", "sizes"])
    images: list[float] = []
    texts: list[float] = []
    for start in range(0, len(data), _ROWS_A_CALL):
        batch = source[start : start + _ROWS_A_CALL]
        rows: list[Any] = []
        if listed:
            rows += batch
        else:
            rows += [dict(zip(batch, values)) for values in zip(*batch.values())]
        images += picture_tokens(rows, processor, config)
        texts += conversation.text_tokens(rows)
    return images, texts


def row_lengths(
    data: "Dataset | Sequence[Row]",
    processor: "ProcessorMixin",
    config: TrainConfig,
    conversation: ConversationTokenizer | None = None,
) -> list[float]:
    """Count all tokens of each row, of its pictures and its text; arguments of `token_lengths`."""
    images, texts = token_lengths(data, processor, config, conversation)
    return [image + text for image, text in zip(images, texts)]


def refusal(
    row: Row, processor: "ProcessorMixin", config: TrainConfig, conversation: ConversationTokenizer
) -> dict[str, str]:
    """Explain, as `reason` and `detail`, why a row's token count is infinite."""
    try:
        conversation.check_text({**row, "images": [None] * len(row["sizes"])})
        picture_counter(processor).counts(picture_sizes([row], config.image_height)[0])
    except RowRefused as error:
        return {"reason": error.reason, "detail": error.detail}
    except ValueError as error:
        sizes = ", ".join(f"{width}x{height}" for width, height in row["sizes"])
        detail = f"{sizes} pixels: {error}; cut it into parts"
        return {"reason": "picture refused by the model's processor", "detail": detail}
    raise AssertionError(f"row {row['id']!r} is not refused")


def picture_sizes(
    data: "Dataset | Sequence[Row]", image_height: int | None = None
) -> list[list[tuple[int, int]]]:
    """List (height, width) in pixels of every picture of each row, scaled to `image_height` if set.

    Read from the rows' `sizes`, without opening a picture.

    Args:
        data: a Dataset, or a list of rows.
    """
    # A Dataset's column is read at once: row by row costs many times as much.
    rows = [row["sizes"] for row in data] if isinstance(data, Sequence) else data["sizes"][:]
    sizes = [[(height, width) for width, height in row] for row in rows]
    if image_height:
        sizes = [[(image_height, max(1, round(w * image_height / h))) for h, w in s] for s in sizes]
    return sizes


def picture_tokens(
    data: "Dataset | Sequence[Row]", processor: "ProcessorMixin", config: TrainConfig
) -> list[float]:
    """Count tokens of each row's pictures, from their sizes.

    Infinite where the processor refuses a picture (Qwen's: one more than 200 times as long as it is
    wide). A picture in tiles (Mllama) takes one token of the text, which attends to its tiles.
    """
    sizes, counter = picture_sizes(data, config.image_height), picture_counter(processor)
    try:
        counts = iter(counter.counts([size for row in sizes for size in row]))
        return [sum(next(counts) for _ in row) for row in sizes]
    except ValueError:
        return [_count_or_infinite(row, counter) for row in sizes]


def _count_or_infinite(sizes: list[tuple[int, int]], counter: "PictureCounter") -> float:
    try:
        return sum(counter.counts(sizes))
    except ValueError:
        return math.inf


class PictureCounter:
    """Counts tokens of pictures of (height, width), with the settings that a processor has now."""

    def __init__(self, processor: "ProcessorMixin") -> None:
        self._processor = processor
        self._measured: dict[tuple[int, int], int | ValueError] = {}
        self._nearest: dict[tuple[int, int], int] = {}
        self._seconds = 0.0
        conversation = ConversationTokenizer(processor)
        row: Any = {"prompt": [QUESTION], "images": [None]}
        self._prompt = conversation.render(row).prompt
        self._prompt_tokens = len(conversation.prompt_ids(self._prompt))
        settings = f"{type(processor).__name__} {_settings(processor)} {self._prompt}"
        # Tokens that the processor writes around a picture and its formula leaves out; None: there
        # is no formula, or it is wrong.
        self._around: int | None = remembered("picture tokens", settings, self._check_formula)

    def counts(self, sizes: Sequence[tuple[int, int]]) -> list[int]:
        """Count tokens of pictures.

        Raises:
            ValueError: the processor refuses one of them.
        """
        if self._around is not None:
            return [count + self._around for count in self._formula(sizes)]
        return [self._measure(size) for size in sizes]

    def __str__(self) -> str:
        """Say how many sizes were measured, where that was not possible for all of them."""
        if not self._nearest:
            return ""
        known = len(self._measured)
        return (
            f"{known} of {known + len(self._nearest)} picture sizes measured in "
            f"{_MEASURING:.0f} s; the others count as many tokens as the nearest of these"
        )

    def _formula(self, sizes: Sequence[tuple[int, int]]) -> list[int]:
        """Count by the processor's own formula; LookupError where it has none."""
        pictures = self._processor.image_processor
        if count := getattr(self._processor, "_get_num_multimodal_tokens", None):
            return count(image_sizes=sizes).num_image_tokens
        if hasattr(pictures, "max_image_tiles"):
            return [1] * len(sizes)
        if patches := getattr(pictures, "get_number_of_image_patches", None):
            merged = getattr(pictures, "merge_size", 1) ** 2
            return [patches(high, wide) // merged for high, wide in sizes]
        raise LookupError

    def _check_formula(self) -> int | None:
        """Tokens that the formula leaves out around a picture; None where it is not right."""
        generator = random.Random(0)
        around = set()
        for _ in range(_CHECKED_SIZES):
            size = round(2 ** generator.uniform(4, 11)), round(2 ** generator.uniform(4, 11))
            try:
                around.add(self._blank(size) - self._formula([size])[0])
            except Exception:  # a formula may fail in any way: then sizes are measured
                return None
        return around.pop() if len(around) == 1 else None

    def _measure(self, size: tuple[int, int]) -> int:
        if size not in self._measured and self._seconds > _MEASURING:
            return self._nearest.setdefault(size, self._nearest_count(size))
        if size not in self._measured:
            started = time.perf_counter()
            try:
                self._measured[size] = self._blank(size)
            except Exception as error:  # a processor may refuse a picture in any way
                self._measured[size] = ValueError(str(error))
            self._seconds += time.perf_counter() - started
        count = self._measured[size]
        if isinstance(count, ValueError):
            raise count
        return count

    def _blank(self, size: tuple[int, int]) -> int:
        return blank_tokens(self._processor, self._prompt, self._prompt_tokens, size)

    def _nearest_count(self, size: tuple[int, int]) -> int:
        """Tokens of the measured size whose height and width are nearest, in ratios."""
        counts = {key: n for key, n in self._measured.items() if isinstance(n, int)}
        if not counts:
            raise ValueError("none of the first pictures could be measured")
        return counts[
            min(
                counts,
                key=lambda known: sum(abs(math.log(a / b)) for a, b in zip(known, size)),
            )
        ]


_counters: "WeakKeyDictionary[Any, tuple[str, PictureCounter]]" = WeakKeyDictionary()


def picture_counter(processor: "ProcessorMixin") -> PictureCounter:
    """The counter of a processor; a new one where its settings have changed."""
    settings, pictures = _settings(processor), processor.image_processor
    known = _counters.get(pictures)
    if known is None or known[0] != settings:
        known = _counters[pictures] = settings, PictureCounter(processor)
    return known[1]


def _settings(processor: "ProcessorMixin") -> str:
    """All settings of the processor and of its image processor that a count may depend on."""
    parts: Iterable[object] = (processor, processor.image_processor)
    plain = int | float | str | dict | list | tuple | None
    return str([{k: v for k, v in vars(part).items() if isinstance(v, plain)} for part in parts])


def picture_canvases(
    data: "Dataset | Sequence[Row]", processor: "ProcessorMixin", config: TrainConfig
) -> list[list[tuple[int, float]]]:
    """List (tiles, scale) of every picture of each row, for processors with tiles (Mllama).

    The scale is the share of its side that a picture keeps, above 1 where it is enlarged. Tiles
    are limited by the processor's `max_image_tiles`.
    """
    from transformers.models.mllama.image_processing_mllama import get_optimal_tiled_canvas

    pictures = processor.image_processor
    side, most = pictures.size["height"], pictures.max_image_tiles
    canvases = []
    for row in picture_sizes(data, config.image_height):
        canvases.append([])
        for height, width in row:
            high, wide = (int(n) for n in get_optimal_tiled_canvas(height, width, most, side))
            scale = min(high / height, wide / width)
            canvases[-1].append((high * wide // side**2, scale))
    return canvases
