"""Blank pictures: measure what a processor makes of a picture of a given size.

A blank picture is a tensor on torch's "meta" device, which knows its shape and holds no pixels, so
that a photograph costs no more than a line of text. A processor that looks at pixels gets a white
picture instead.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest.mock import patch

import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from transformers import ProcessorMixin

# Pixels of the largest white picture that is drawn where a meta tensor does not do.
_LARGEST_WHITE = 1 << 24

# Resizes of pictures: ((height, width) before, (height, width) after).
Resizes = list[tuple[tuple[int, int], tuple[int, int]]]


class BlankSize(NamedTuple):
    """What a picture becomes before its model sees it.

    Attributes:
        size: (height, width) in pixels to which the picture is resized, before it is cut into tiles
            or padded; of several versions (tiles and a thumbnail) the largest. None: not known.
        is_cropped: whether parts of the resized picture are cut off.
        numbers: floating-point numbers that the processor makes of it.
    """

    size: tuple[int, int] | None
    is_cropped: bool
    numbers: int


def blank_size(
    process: Callable[[Any], Mapping[str, Any]], size: tuple[int, int]
) -> tuple[BlankSize, Mapping[str, Any]]:
    """Measure what `process` makes of a blank picture of (height, width) pixels.

    Args:
        process: processes a picture to a batch: an image processor, or a processor with a prompt.
        size: (height, width) of the picture in pixels.

    Returns:
        The measured size, and the batch.

    Raises:
        ValueError: the processor refuses the picture, or it is too large to be drawn.
    """
    height, width = size
    with record_resizes() as resizes:
        try:
            batch = process(torch.zeros(3, height, width, dtype=torch.uint8, device="meta"))
        except Exception as error:  # processors refuse such a picture with errors of any type
            if height * width > _LARGEST_WHITE:
                raise ValueError(str(error)) from error
            resizes.clear()
            batch = process(Image.new("RGB", (width, height), "white"))
    numbers = max((_count(value) for value in batch.values()), default=0)
    if not resizes and numbers < 3 * height * width:
        # Resized by other means than torch and PIL.
        return BlankSize(None, False, numbers), batch
    high, wide = _final_size(size, resizes)
    return BlankSize((high, wide), numbers < 3 * high * wide, numbers), batch


def blank_tokens(
    processor: "ProcessorMixin", prompt: str, prompt_tokens: int, size: tuple[int, int]
) -> int:
    """Count the tokens of a picture of (height, width) pixels, as `processor` writes them.

    Args:
        prompt: rendered by the chat template, with the placeholder of one picture.
        prompt_tokens: tokens of the prompt, of which the placeholder is one.
        size: (height, width) of the picture in pixels.

    Raises:
        ValueError: the processor refuses the picture, or it is too large to be drawn.
    """

    def process(blank: object) -> Mapping[str, Any]:
        options = {"text": [prompt], "padding": False, "add_special_tokens": False}
        try:
            return processor(images=[[blank]], **options)
        except Exception:  # of any type, by processors of another signature
            # Some processors take a flat list of pictures.
            return processor(images=[blank], **options)

    _, batch = blank_size(process, size)
    return len(batch["input_ids"][0]) - prompt_tokens + 1


def _count(value: object) -> int:
    """Count the numbers in the floating-point tensors of a value."""
    if isinstance(value, torch.Tensor):
        return value.numel() if value.is_floating_point() else 0
    return sum(map(_count, value)) if isinstance(value, list | tuple) else 0


class _RecordResizes(TorchDispatchMode):
    """Record the sizes before and after every interpolation that torch computes."""

    def __init__(self, resizes: Resizes) -> None:
        super().__init__()
        self.resizes = resizes

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if "upsample" in func.name():
            before, after = next(iter(args)).shape[-2:], result.shape[-2:]
            self.resizes.append(((before[0], before[1]), (after[0], after[1])))
        return result


@contextmanager
def record_resizes() -> Iterator[Resizes]:
    """Record how torch and PIL resize pictures inside the block."""
    resizes: Resizes = []
    resize = Image.Image.resize

    def recorded(
        image: Image.Image,
        size: tuple[int, int],
        resample: int | None = None,
        box: tuple[float, float, float, float] | None = None,
        reducing_gap: float | None = None,
    ) -> Image.Image:
        resizes.append(((image.height, image.width), (size[1], size[0])))
        return resize(image, size, resample, box, reducing_gap)

    with patch.object(Image.Image, "resize", recorded), _RecordResizes(resizes):
        yield resizes


def _final_size(size: tuple[int, int], resizes: Resizes) -> tuple[int, int]:
    """(height, width) that a picture of `size` has after `resizes`, the largest of its versions."""
    scales: dict[tuple[int, int], tuple[float, float]] = {size: (1.0, 1.0)}
    versions = []
    for before, after in resizes:
        # A picture of another size was padded, or is a tile, which is no version of the whole.
        if before not in scales and versions:
            continue
        high, wide = scales.get(before, (1.0, 1.0))
        high, wide = high * after[0] / before[0], wide * after[1] / before[1]
        scales[after] = high, wide
        versions.append((max(1, round(size[0] * high)), max(1, round(size[1] * wide))))
    return max(versions, key=math.prod, default=size)
