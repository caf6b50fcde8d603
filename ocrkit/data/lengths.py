"""Token counts of rows, from their texts and the sizes of their pictures; no picture is opened."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ocrkit.config import TrainConfig
from ocrkit.data.conversation import ConversationTokenizer, RowRefused
from ocrkit.data.rows import Row

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import ProcessorMixin

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
        _counts(picture_sizes([row], config.image_height)[0], processor)
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
    """Count tokens of each row's pictures by the processor's own formula, from their sizes.

    Infinite where the processor refuses a picture (Qwen's: one more than 200 times as long as it is
    wide). A picture in tiles (Mllama) takes one token of the text, which attends to its tiles.
    """
    sizes = picture_sizes(data, config.image_height)
    try:
        counts = iter(_counts([size for row in sizes for size in row], processor))
        return [sum(next(counts) for _ in row) for row in sizes]
    except ValueError:
        return [_count_or_infinite(row, processor) for row in sizes]


def _counts(sizes: list[tuple[int, int]], processor: "ProcessorMixin") -> list[int]:
    """Count tokens of pictures of (height, width).

    Raises:
        ValueError: the processor refuses one.
    """
    if count := getattr(processor, "_get_num_multimodal_tokens", None):
        return count(image_sizes=sizes).num_image_tokens
    if hasattr(processor.image_processor, "max_image_tiles"):
        return [1] * len(sizes)
    pictures = processor.image_processor
    merged = pictures.merge_size**2
    return [pictures.get_number_of_image_patches(h, w) // merged for h, w in sizes]


def _count_or_infinite(sizes: list[tuple[int, int]], processor: "ProcessorMixin") -> float:
    try:
        return sum(_counts(sizes, processor))
    except ValueError:
        return math.inf


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
