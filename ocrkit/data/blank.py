"""Blank pictures: measure what a processor makes of a picture of a given size.

A blank picture is a tensor on torch's "meta" device, which knows its shape and holds no pixels, so
that a photograph costs no more than a line of text. A processor that looks at pixels gets a white
picture instead.
"""

import math
from collections.abc import Iterator
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


class BlankResult(NamedTuple):
    """What a processor makes of a blank picture.

    Attributes:
        tokens: of the picture in the text.
        size: (height, width) in pixels to which the picture is resized, before it is cut into tiles
            or padded; of several versions (tiles and a thumbnail) the largest. None: not known.
        is_cropped: whether parts of the resized picture are cut off.
    """

    tokens: int
    size: tuple[int, int] | None
    is_cropped: bool


def process_blank(
    processor: "ProcessorMixin", prompt: str, prompt_tokens: int, size: tuple[int, int]
) -> BlankResult:
    """Process a blank picture of (height, width) pixels with a rendered prompt.

    Args:
        processor: of a vision-language model.
        prompt: rendered by the chat template, with the placeholder of one picture.
        prompt_tokens: tokens of the prompt, of which the placeholder is one.
        size: (height, width) of the picture in pixels.

    Raises:
        ValueError: the processor refuses the picture, or it is too large to be drawn.
    """
    height, width = size
    blank: Any = torch.zeros(3, height, width, dtype=torch.uint8, device="meta")
    try:
        batch, resizes = _process(processor, prompt, blank)
    except Exception as error:
        if height * width > _LARGEST_WHITE:
            raise ValueError(f"{width}x{height} pixels are too many for a blank picture") from error
        batch, resizes = _process(processor, prompt, Image.new("RGB", (width, height), "white"))
    tokens = len(batch["input_ids"][0]) - prompt_tokens + 1
    numbers = max((_count(value) for value in batch.values()), default=0)
    seen = _final_size(size, resizes)
    if not resizes and numbers < 3 * height * width:
        # Resized by other means than torch and PIL.
        return BlankResult(tokens, None, False)
    return BlankResult(tokens, seen, numbers < 3 * seen[0] * seen[1])


def _process(
    processor: "ProcessorMixin", prompt: str, blank: object
) -> tuple[dict[str, Any], Resizes]:
    """Process the prompt with the picture; the batch, and how pictures were resized."""
    options = {"text": [prompt], "padding": False, "add_special_tokens": False}
    with record_resizes() as resizes:
        try:
            return dict(processor(images=[[blank]], **options)), resizes
        except Exception:
            # Some processors take a flat list of pictures.
            resizes.clear()
            return dict(processor(images=[blank], **options)), resizes


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
