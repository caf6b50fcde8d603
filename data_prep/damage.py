"""What happens to a whole page before it is read: a scanner, or a phone held over a desk.

The text stays readable. Both give a JPEG's bytes, and the same `random.Random` the same bytes.
"""

import io
import random
from functools import lru_cache

import numpy as np
from PIL import Image, ImageFilter


@lru_cache(maxsize=1)
def _noise_tile() -> np.ndarray:
    """Normal noise of unit deviation; pages take theirs from it, for drawing it anew is slow."""
    return np.random.default_rng(0).normal(size=(2048, 2048)).astype(np.float32)


def add_noise(pixels: np.ndarray, deviation: float, rng: random.Random) -> Image.Image:
    """Float grey values (height, width[, 3]) with noise, clipped to a picture."""
    high, wide = pixels.shape[:2]
    tile = _noise_tile()
    y, x = rng.randrange(512), rng.randrange(512)
    noise = tile[y : y + high, x : x + wide]
    if noise.shape != (high, wide):
        noise = np.resize(tile, (high, wide))
    noise = noise * deviation
    pixels = pixels + (noise[..., None] if pixels.ndim == 3 else noise)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def scan_page(image: Image.Image, rng: random.Random) -> bytes:
    """A flat-bed scan: a little skew and blur, grey paper, dust, noise, JPEG."""
    if rng.random() < 0.5:
        image = image.convert("L")
    angle = rng.uniform(-0.9, 0.9)
    image = image.rotate(angle, Image.Resampling.BILINEAR, fillcolor="white")
    if rng.random() < 0.6:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.6)))
    pixels = np.asarray(image, dtype=np.float32)
    black, white = rng.uniform(0, 60), rng.uniform(222, 255)
    pixels = black + pixels * ((white - black) / 255)
    for _ in range(rng.randrange(12)):
        y, x = rng.randrange(image.height), rng.randrange(image.width)
        pixels[y : y + rng.choice((1, 2)), x : x + rng.choice((1, 2))] *= rng.uniform(0.2, 0.7)
    return to_jpeg(add_noise(pixels, rng.uniform(1, 6), rng), rng.randint(55, 90))


def photograph_page(image: Image.Image, rng: random.Random) -> bytes:
    """A phone's photo: the page askew on a desk, in uneven light, JPEG."""
    page = image.convert("RGB")
    wide, high = page.size
    edge = round(0.06 * wide)
    size = wide + 2 * edge, high + 2 * edge
    jitter = 0.75 * edge
    corners = [
        (x + edge + rng.uniform(-jitter, jitter), y + edge + rng.uniform(-jitter, jitter))
        for x, y in ((0, 0), (wide, 0), (wide, high), (0, high))
    ]
    how = Image.Transform.PERSPECTIVE, _perspective(corners, (wide, high))
    shown = page.transform(size, *how, Image.Resampling.BICUBIC)
    mask = Image.new("L", page.size, 255).transform(size, *how, Image.Resampling.BILINEAR)
    desk = Image.new("RGB", size, _desk_colour(rng))
    desk.paste(shown, mask=mask)
    if rng.random() < 0.7:
        desk = desk.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.7)))
    # Light falls off smoothly: a few random weights stretched over the whole picture.
    weights = np.random.default_rng(rng.getrandbits(32)).uniform(0.66, 1.02, size=(3, 3))
    light = Image.fromarray(weights.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    warmth = np.array([1.0, rng.uniform(0.95, 1.0), rng.uniform(0.86, 1.0)], dtype=np.float32)
    pixels = np.asarray(desk, dtype=np.float32) * np.asarray(light)[..., None]
    pixels *= warmth
    return to_jpeg(add_noise(pixels, rng.uniform(1, 6), rng), rng.randint(60, 90))


def _desk_colour(rng: random.Random) -> tuple[int, int, int]:
    base = rng.choice(((120, 86, 58), (70, 72, 78), (168, 150, 126), (44, 50, 60), (150, 156, 160)))
    red, green, blue = (value + rng.randint(-12, 12) for value in base)
    return red, green, blue


def _perspective(corners: list[tuple[float, float]], size: tuple[int, int]) -> list[float]:
    """Pillow's eight coefficients, from four places in the result to the page's own corners."""
    wide, high = size
    rows, targets = [], []
    for (x, y), (u, v) in zip(corners, ((0, 0), (wide, 0), (wide, high), (0, high))):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        targets += [u, v]
    return np.linalg.solve(np.array(rows), np.array(targets, dtype=float)).tolist()


def to_jpeg(image: Image.Image, quality: int) -> bytes:
    """A picture as a JPEG's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
