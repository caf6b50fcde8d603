"""Augmentation of training pictures, as cameras, scanners, printers and paper change them.

An augmentation depends only on the seed, the row's id and how often the row was seen before, not
on workers, batches, processes or a resume. A picture keeps its width and height, so its token count
stays, and nothing of it leaves the frame.
"""

import hashlib
import io
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from kornia.enhance import jpeg_codec_differentiable
from kornia.filters import gaussian_blur2d
from kornia.geometry.transform import get_perspective_transform, warp_perspective
from kornia.morphology import dilation
from PIL import Image, ImageDraw

from ocrkit.config import TrainConfig
from ocrkit.config.augmentation import AUGMENTATIONS, augmentation_ranges
from ocrkit.data.collate import scaled_pictures
from ocrkit.data.rows import Row
from ocrkit.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

    from ocrkit.data.load import Splits

# Lowest scale of a rotated picture, which shrinks to stay in its frame.
_SMALLEST_SCALE = 0.8


def augmenter(config: TrainConfig) -> Callable[[Sequence[Row], list], list] | None:
    """Make the collator's augmentation function; None where the config names no augmentation.

    The function takes rows and their pictures (a list of PIL pictures in RGB for each row) and
    returns the pictures. It augments rows that carry `epoch`, how often they were seen before:
    training rows.
    """
    ranges = augmentation_ranges(config.augmentation)
    if not ranges:
        return None
    return partial(
        _augment_rows,
        ranges=ranges,
        probability=config.augmentation.get("probability", 0.5),
        device=config.augmentation.get("device", "cpu"),
        seed=config.seed,
    )


def _augment_rows(
    rows: Sequence[Row],
    pictures: list[list[Image.Image]],
    ranges: dict[str, tuple[float, float]],
    probability: float,
    device: str,
    seed: int,
) -> list[list[Image.Image]]:
    places, drawn = [], []
    for i, row in enumerate(rows):
        for j, picture in enumerate(pictures[i] if "epoch" in row else []):
            key = hashlib.sha256(f"{seed}/{row['id']}/{row['epoch']}/{j}".encode()).digest()
            rng = np.random.default_rng(int.from_bytes(key[:16], "little"))
            places.append((i, j))
            drawn.append(draw(np.asarray(picture), ranges, probability, rng))
    # One by one on a CPU: in a batch, rounding would depend on the other pictures.
    batch_size = len(places) if device != "cpu" else 1
    pictures = [list(row) for row in pictures]
    for start in range(0, len(places), max(1, batch_size)):
        chosen = places[start : start + batch_size]
        augmented = apply(
            [pictures[i][j] for i, j in chosen], drawn[start : start + batch_size], device
        )
        for (i, j), picture in zip(chosen, augmented):
            pictures[i][j] = picture
    return pictures


def draw(
    pixels: np.ndarray,
    ranges: dict[str, tuple[float, float]],
    probability: float,
    rng: np.random.Generator,
) -> dict[str, tuple]:
    """Draw the augmentations of a picture: {operation: its arguments, as plain numbers}.

    Args:
        pixels: the picture, uint8 of shape (height, width, 3).
        ranges: lowest and highest value of each augmentation (`AUGMENTATIONS`).
        probability: that an augmentation is applied, independently of the others.
    """
    height, width = pixels.shape[:2]
    # Numbers are drawn for every augmentation, so that leaving one out changes no other.
    is_applied = dict(zip(AUGMENTATIONS, rng.random(len(AUGMENTATIONS)) < probability))
    shares = dict(zip(AUGMENTATIONS, rng.random(len(AUGMENTATIONS)).tolist()))
    corners, slopes, noise_seed = rng.random((4, 2)), rng.random(3), rng.integers(1 << 62)
    values = {
        name: low + (high - low) * shares[name]
        for name, (low, high) in ranges.items()
        if is_applied[name]
    }
    border = [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
    paper = np.median(np.concatenate(border), axis=0) / 255
    mean = pixels.mean(dtype=np.float64) / 255
    drawn: dict[str, tuple] = {}
    # Erosion and dilation are netted: one after the other would erase thin strokes.
    ink = values.get("dilation", 0.0) - values.get("erosion", 0.0)
    if ink:
        drawn["ink"] = (ink if paper.mean() > mean else -ink,)
    if min(height, width) >= 8 and ("rotation" in values or "perspective" in values):
        target = _corners(
            height, width, values.get("rotation", 0), values.get("perspective", 0) * corners
        )
        drawn["warp"] = (_frame(height, width), target, paper)
    if "shadow" in values:
        drawn["shadow"] = (values["shadow"], *slopes, float(height), float(width))
    if "brightness" in values:
        drawn["brightness"] = (values["brightness"],)
    if "contrast" in values:
        drawn["contrast"] = (values["contrast"], mean)
    if "blur" in values:
        drawn["blur"] = (values["blur"], math.ceil(3 * ranges["blur"][1]))
    if "noise" in values:
        drawn["noise"] = (values["noise"], noise_seed, height, width)
    if "jpeg" in values:
        drawn["jpeg"] = (round(values["jpeg"]),)
    return drawn


def apply(
    pictures: list[Image.Image], drawn: list[dict[str, tuple]], device: str = "cpu"
) -> list[Image.Image]:
    """Apply the drawn augmentations to pictures in one batch; sizes stay.

    Smaller pictures are padded, and padding never shows in a picture: alone or in a batch it comes
    out the same but for the last bit of a float.

    Args:
        pictures: in RGB.
        drawn: of `draw`, for each picture.
        device: of torch.
    """
    sizes = [(picture.height, picture.width) for picture in pictures]
    tall, wide = map(max, zip(*sizes))
    batch = torch.zeros(len(pictures), 3, tall, wide, device=device)
    for image, picture in zip(batch, pictures):
        pixels = torch.from_numpy(np.array(picture)).to(device)
        image[:, : picture.height, : picture.width] = pixels.permute(2, 0, 1) / 255
    for name, operation in _OPERATIONS.items():
        chosen = [i for i, operations in enumerate(drawn) if name in operations]
        if not chosen:
            continue
        arguments = [
            torch.as_tensor(np.stack(column), dtype=torch.float32, device=device)
            if name != "noise"
            else column
            for column in zip(*(drawn[i][name] for i in chosen))
        ]
        every = len(chosen) == len(batch)
        padded = _pad(batch if every else batch[chosen], [sizes[i] for i in chosen])
        augmented = operation(padded, *arguments).clamp_(0, 1)
        if every:
            batch = augmented
        else:
            batch[chosen] = augmented
    pixels = (batch * 255).round_().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(p[:h, :w].copy()) for p, (h, w) in zip(pixels, sizes)]


def preview_augmentations(
    data: "Splits | Dataset", config: TrainConfig, n: int = 4, epochs: int = 3, width: int = 420
) -> Image.Image:
    """Draw a grid of `n` training pictures, each beside its augmentations in the first epochs.

    Args:
        data: of `load_data`, or one split of it.
        config: its `augmentation`, `seed` and `image_height` are used as in training.
        n: rows of the grid, taken evenly from the data.
        epochs: columns beside the original.
        width: of a column in pixels; wider pictures are shown smaller.

    Raises:
        DataError: the config names no augmentation.
    """
    augment = augmenter(config)
    if augment is None:
        raise DataError(
            "augmentation names nothing to do; give e.g. augmentation={'rotation': 1, 'blur': 0.6}."
        )
    rows: Any = data["train"] if hasattr(data, "keys") else data
    rows = rows.take(n) if rows.num_rows is None else rows  # a stream
    lines = []
    for i in np.linspace(0, len(rows) - 1, min(n, len(rows))).round().astype(int).tolist():
        picture = scaled_pictures(rows[i], config.image_height)[:1]
        seen: list[Row] = [{"id": rows[i]["id"], "epoch": epoch} for epoch in range(epochs)]
        versions = [picture, *augment(seen, [picture] * epochs)]
        lines.append([shown for (shown,) in versions])
    for line in lines:
        for picture in line:
            picture.thumbnail((width, width), Image.Resampling.BICUBIC)
    gap, head = 8, 20
    heights = [max(picture.height for picture in line) + gap for line in lines]
    columns = max(picture.width for line in lines for picture in line) + gap
    grid = Image.new("RGB", (columns * (1 + epochs) + gap, sum(heights) + head + gap), "#808080")
    pen = ImageDraw.Draw(grid)
    for column in range(1 + epochs):
        title = "original" if column == 0 else f"epoch {column}"
        pen.text((gap + column * columns, 4), title, fill="white")
    for number, line in enumerate(lines):
        for column, picture in enumerate(line):
            grid.paste(picture, (gap + column * columns, head + sum(heights[:number])))
    return grid


def _frame(height: int, width: int) -> np.ndarray:
    """Return a picture's corners, (4, 2) of x and y in pixels, clockwise from the upper left."""
    return np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], float)


def _corners(height: int, width: int, degrees: float, inward: np.ndarray) -> np.ndarray:
    """Move a picture's corners: rotate, scale until all are inside the frame, then move inward.

    Args:
        degrees: of the rotation; reduced where the scale would fall below four fifths.
        inward: (4, 2), distance of each corner as a share of width and height.
    """
    short, long = sorted((height - 1, width - 1))
    most = math.asin((1 / _SMALLEST_SCALE - 1) * short / long)
    angle = float(np.clip(math.radians(degrees), -most, most))
    cos, sin = math.cos(angle), abs(math.sin(angle))
    frame = _frame(height, width)
    across, down = frame[2]
    scale = min(across / (across * cos + down * sin), down / (down * cos + across * sin))
    middle = frame.mean(axis=0)
    turn = scale * np.array([[cos, math.sin(angle)], [-math.sin(angle), cos]])
    turned = (frame - middle) @ turn + middle
    return turned + np.sign(middle - frame) * inward * (width, height)


def _pad(batch: torch.Tensor, sizes: list[tuple[int, int]]) -> torch.Tensor:
    """Pad a batch: repeat the last row and column of each smaller picture."""
    tall, wide = batch.shape[2:]
    if all(size == (tall, wide) for size in sizes):
        return batch
    rows = [torch.arange(tall).clamp(max=height - 1) for height, _ in sizes]
    columns = [torch.arange(wide).clamp(max=width - 1) for _, width in sizes]
    return torch.stack([image[:, r][:, :, c] for image, r, c in zip(batch, rows, columns)])


def _column(values: torch.Tensor) -> torch.Tensor:
    return values.view(-1, 1, 1, 1)


def _ink(x: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """Dilate (above 0) or erode dark strokes by so many pixels; light strokes the other way.

    Fractions of a pixel blend the neighbouring steps.
    """
    kernel = torch.ones(3, 3, device=x.device)
    sign = _column(-pixels.sign())
    for step in range(math.ceil(float(pixels.abs().max()))):
        weight = _column((pixels.abs() - step).clamp(0, 1))
        x = sign * torch.lerp(sign * x, dilation(sign * x, kernel), weight)
    return x


def _warp(
    x: torch.Tensor, frame: torch.Tensor, target: torch.Tensor, paper: torch.Tensor
) -> torch.Tensor:
    """Rotate and tilt in one resampling; new background has the border's colour."""
    matrix = get_perspective_transform(frame, target)
    paper = paper.view(-1, 3, 1, 1)
    inside = _inside(x, frame)
    x = torch.where(inside, x, paper)
    return warp_perspective(
        x, matrix, (x.shape[2], x.shape[3]), padding_mode="fill", fill_value=paper
    )


def _inside(x: torch.Tensor, frame: torch.Tensor) -> torch.Tensor:
    """Mask of shape (pictures, 1, height, width): whether a pixel is the picture's, not padding."""
    last = frame[:, 2]
    rows = torch.arange(x.shape[2], device=x.device).view(1, 1, -1, 1) <= _column(last[:, 1])
    columns = torch.arange(x.shape[3], device=x.device).view(1, 1, 1, -1) <= _column(last[:, 0])
    return rows & columns


def _shadow(
    x: torch.Tensor,
    darkness: torch.Tensor,
    direction: torch.Tensor,
    place: torch.Tensor,
    softness: torch.Tensor,
    height: torch.Tensor,
    width: torch.Tensor,
) -> torch.Tensor:
    """Darken one side of a soft line across the picture by a share."""
    angle = 2 * math.pi * direction
    rows = torch.arange(x.shape[2], device=x.device).view(1, 1, -1, 1) / _column(height) - 0.5
    columns = torch.arange(x.shape[3], device=x.device).view(1, 1, 1, -1) / _column(width) - 0.5
    across = columns * _column(angle.cos()) + rows * _column(angle.sin())
    edge = (across - _column(place - 0.5) * 0.8) / _column(0.03 + 0.15 * softness)
    return x * (1 - _column(darkness) * torch.sigmoid(edge))


def _blur(x: torch.Tensor, sigma: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    """Blur by a Gaussian of `sigma` pixels; one kernel size for all, alone or in a batch."""
    size = 2 * int(radius[0]) + 1
    sigmas = sigma.clamp(min=0.05)[:, None].expand(-1, 2)
    return gaussian_blur2d(x, (size, size), sigmas, border_type="replicate")


def _noise(x: torch.Tensor, *arguments: Sequence) -> torch.Tensor:
    """Add grey Gaussian noise, drawn by numpy so that it is the same on every device."""
    x = x.clone()
    for image, (strength, seed, height, width) in zip(x, zip(*arguments)):
        noise = np.random.default_rng(seed).standard_normal((height, width), dtype=np.float32)
        image[:, :height, :width] += float(strength) * torch.from_numpy(noise).to(x.device)
    return x


def _jpeg(x: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
    """Compress as JPEG: with libjpeg on a CPU, some ten times as fast, else with kornia."""
    if x.device.type != "cpu":
        return jpeg_codec_differentiable(x, quality)
    decoded = []
    for image, level in zip(x, quality.int().tolist()):
        pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=level)
        pixels = torch.from_numpy(np.array(Image.open(file)))
        decoded.append(pixels.permute(2, 0, 1) / 255)
    return torch.stack(decoded)


# In the order in which print, paper, light, lens, sensor and file change a picture.
_OPERATIONS: dict[str, Callable[..., torch.Tensor]] = {
    "ink": _ink,
    "warp": _warp,
    "shadow": _shadow,
    "brightness": lambda x, factor: x * _column(factor),
    "contrast": lambda x, factor, mean: torch.lerp(_column(mean), x, _column(factor)),
    "blur": _blur,
    "noise": _noise,
    "jpeg": _jpeg,
}
