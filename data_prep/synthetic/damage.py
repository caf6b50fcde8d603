"""What happens to a whole page before it is read: a scanner, or a phone held over a desk.

The text stays readable. Both give a JPEG's bytes, and the same `random.Random` the same bytes.
Pictures stay 8-bit all the way, for a page has millions of pixels.
"""

import random
from functools import lru_cache

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from data_prep.synthetic.scenes import to_jpeg

_TILE = 2048
_GAIN = 16  # grey values a deviation of the noise tile


def scan_page(image: Image.Image, rng: random.Random) -> bytes:
    """A flat-bed scan: a little skew and blur, grey paper, dust, noise, JPEG."""
    if rng.random() < 0.5:
        image = image.convert("L")
    angle = rng.uniform(-0.9, 0.9)
    image = image.rotate(angle, Image.Resampling.BILINEAR, fillcolor="white")
    if rng.random() < 0.5:
        image = image.filter(ImageFilter.BoxBlur(rng.uniform(0.1, 0.45)))
    black, white = rng.uniform(0, 60), rng.uniform(222, 255)
    levels = [round(black + value * (white - black) / 255) for value in range(256)]
    image = image.point(levels * len(image.getbands()))
    canvas = ImageDraw.Draw(image)
    for _ in range(rng.randrange(12)):
        x, y = rng.randrange(image.width), rng.randrange(image.height)
        grey = rng.randrange(60, 180)
        corner = (x + rng.choice((0, 1)), y + rng.choice((0, 1)))
        canvas.rectangle((x, y, *corner), fill=grey if image.mode == "L" else (grey,) * 3)
    return to_jpeg(add_noise(image, rng.uniform(1, 6), rng), rng.randint(55, 90))


def photograph_page(image: Image.Image, rng: random.Random) -> bytes:
    """A phone's photo: the page askew on a desk, in uneven light, JPEG."""
    wide, high = image.size
    edge = round(0.06 * wide)
    size = wide + 2 * edge, high + 2 * edge
    jitter = 0.75 * edge
    corners = [
        (x + edge + rng.uniform(-jitter, jitter), y + edge + rng.uniform(-jitter, jitter))
        for x, y in ((0, 0), (wide, 0), (wide, high), (0, high))
    ]
    coefficients = _perspective(corners, (wide, high))
    how = Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BILINEAR
    shown = image.transform(size, *how, fillcolor="white")
    if rng.random() < 0.5:
        shown = shown.filter(ImageFilter.BoxBlur(rng.uniform(0.1, 0.4)))
    mask = Image.new("L", size, 0)
    ImageDraw.Draw(mask).polygon(corners, fill=255)
    desk = Image.new("RGB", size, _desk_colour(rng))
    desk.paste(shown.convert("RGB"), mask=mask)
    # Light falls off smoothly: a few random weights stretched over the whole picture.
    weights = np.random.default_rng(rng.getrandbits(32)).uniform(168, 255, size=(3, 3))
    light = Image.fromarray(weights.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    green, blue = rng.uniform(0.96, 1.0), rng.uniform(0.89, 1.0)
    warm = Image.merge("RGB", (light, light.point(_scaled(green)), light.point(_scaled(blue))))
    lit = ImageChops.multiply(desk, warm)
    return to_jpeg(add_noise(lit, rng.uniform(1, 6), rng), rng.randint(60, 90))


def add_noise(image: Image.Image, deviation: float, rng: random.Random) -> Image.Image:
    """The picture ("L" or "RGB") with normal noise of a deviation in grey values."""
    tile = _noise_tile()
    wide, high = image.size
    noise = Image.new("L", image.size)
    left, top = -rng.randrange(_TILE // 2), -rng.randrange(_TILE // 2)
    for y in range(top, high, _TILE):
        for x in range(left, wide, _TILE):
            noise.paste(tile, (x, y))
    factor = deviation / _GAIN
    noise = noise.point([round(128 + (value - 128) * factor) for value in range(256)])
    if image.mode == "RGB":
        noise = Image.merge("RGB", (noise, noise, noise))
    return ImageChops.add(image, noise, 1, -128)


@lru_cache(maxsize=1)
def _noise_tile() -> Image.Image:
    """Noise around 128; pages take theirs from it, for drawing it anew is slow."""
    values = np.random.default_rng(0).normal(128, _GAIN, size=(_TILE, _TILE))
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def _scaled(factor: float) -> list[int]:
    """A table of grey values times a factor of at most 1."""
    return [round(value * factor) for value in range(256)]


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
