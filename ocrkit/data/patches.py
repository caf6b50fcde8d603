"""Patches of pictures, equal to those of Qwen-VL's and PaddleOCR-VL's image processors, but faster.

The processors convert pixels to floats first and copy the floats several times. Here bytes are
copied, a row of a patch at a time, and converted to floats last. The order of patches and of the
numbers in a patch is that of `patchify` in
`transformers.models.qwen2_vl.image_processing_qwen2_vl` and `...paddleocr_vl`.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch
from PIL import Image

# Whether the patches that are merged into a token are neighbours in the sequence of patches.
_MERGED_ARE_NEIGHBOURS = {"Qwen2VLImageProcessor": True, "PaddleOCRVLImageProcessor": False}
# Numbers converted to floats at once, so that they fit a core's cache.
_BLOCK = 1 << 17


def supports_cut_patches(processor: Any) -> bool:
    """Whether `cut_patches` returns what this image processor does."""
    kind = type(processor)
    return (
        kind.__name__ in _MERGED_ARE_NEIGHBOURS
        and kind.__module__.startswith("transformers.models.")
        and processor.do_resize
        and processor.do_rescale
        and processor.do_normalize
        and processor.resample == Image.Resampling.BICUBIC
    )


def cut_patches(pictures: Sequence[Image.Image], processor: Any) -> dict[str, torch.Tensor]:
    """Compute `pixel_values` and `image_grid_thw` of pictures, equal to `processor(pictures)`.

    Args:
        pictures: in mode L or RGB.
        processor: an image processor that `supports_cut_patches` accepts.

    Raises:
        ValueError: a picture more than 200 times as long as it is wide.
    """
    patch, merge, frames = processor.patch_size, processor.merge_size, processor.temporal_patch_size
    planes, grids = [], []
    for picture in pictures:
        height, width = _fit(picture, processor)
        planes.append(_pixels(picture, height, width))
        grids.append((1, height // patch, width // patch))
    grid = np.array(grids)
    counts = grid.prod(axis=1)
    # Grey pictures keep one channel, unless the batch also holds pictures in colour.
    channels = max(len(plane) for plane in planes)
    patches = np.empty((counts.sum(), channels, patch, patch), np.uint8)
    neighbours = _MERGED_ARE_NEIGHBOURS[type(processor).__name__]
    for plane, (_, high, wide), end in zip(planes, grids, counts.cumsum()):
        own = patches[end - high * wide : end]
        plane = np.broadcast_to(plane, (channels, *plane.shape[1:]))
        _cut(plane, own, merge if neighbours else 1)
    values = _floats(patches, processor, frames)
    shape = (3 * frames * patch * patch,) if neighbours else (3 * frames, patch, patch)
    return {
        "pixel_values": values.view(len(values), *shape),
        "image_grid_thw": torch.from_numpy(grid),
    }


def fitted(picture: Image.Image, processor: Any) -> Image.Image:
    """Resize a picture to the size in which the processor passes it to its model.

    Args:
        picture: in mode L or RGB; the mode stays.
        processor: an image processor that `supports_cut_patches` accepts.

    Raises:
        ValueError: the picture is more than 200 times as long as it is wide.
    """
    planes = _pixels(picture, *_fit(picture, processor))
    return Image.fromarray(np.moveaxis(planes, 0, -1) if len(planes) > 1 else planes[0])


def _fit(picture: Image.Image, processor: Any) -> tuple[int, int]:
    """Return (height, width) within the processor's pixel budget, multiples of a token's side."""
    size = dict(processor.size)
    return import_module(type(processor).__module__).smart_resize(
        picture.height,
        picture.width,
        factor=processor.patch_size * processor.merge_size,
        min_pixels=size["shortest_edge"],
        max_pixels=size["longest_edge"],
    )


def _pixels(picture: Image.Image, height: int, width: int) -> np.ndarray:
    """Resize a picture to bytes of shape (1 or 3, height, width)."""
    if (picture.height, picture.width) == (height, width):
        return np.stack([np.asarray(band) for band in picture.split()])
    pixels = torch.from_numpy(np.array(picture)).view(1, picture.height, picture.width, -1)
    # Resized as bytes, as torchvision does for these processors: Pillow rounds differently.
    scaled = torch.nn.functional.interpolate(
        pixels.permute(0, 3, 1, 2), size=(height, width), mode="bicubic", antialias=True
    )
    return scaled[0].contiguous().numpy()


def _cut(planes: np.ndarray, patches: np.ndarray, merge: int) -> None:
    """Copy bytes of shape (channels, height, width) to patches (patches, channels, side, side).

    Patches go from left to right and down, in squares of `merge` times `merge` of them.
    """
    side = patches.shape[-1]
    row = np.dtype((np.void, side))
    channels, height, width = planes.shape
    squares = height // side // merge, width // side // merge
    rows = planes.view(row).reshape(channels, squares[0], merge, side, squares[1], merge)
    places = patches.view(row).reshape(*squares, merge, merge, channels, side)
    places[:] = rows.transpose(1, 4, 2, 5, 0, 3)


def _floats(patches: np.ndarray, processor: Any, frames: int) -> torch.Tensor:
    """Normalize patches to (patches, 3, frames, side, side), in the processor's arithmetic.

    Args:
        patches: bytes of shape (patches, 1 or 3, side, side).
    """
    scale = 1.0 / processor.rescale_factor
    mean, std = (
        (torch.tensor(numbers) * scale)[:, None, None]
        for numbers in (processor.image_mean, processor.image_std)
    )
    if patches.shape[1] == 1 and len(mean.unique()) == len(std.unique()) == 1:
        mean, std = mean[:1], std[:1]
    count, _, side, _ = patches.shape
    # Numpy allocates in huge pages; page faults on torch's small pages cost more than the sums.
    values = torch.from_numpy(np.empty((count, 3, frames, side, side), np.float32))
    step = max(1, _BLOCK // (3 * side * side))
    for start in range(0, count, step):
        block = torch.from_numpy(patches[start : start + step]).float()
        values[start : start + step] = block.sub(mean).div_(std)[:, :, None]
    return values
