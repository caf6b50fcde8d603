"""Page damage: simulate a flat-bed scan or a phone photo of a page, as JPEG bytes.

The text stays readable. The same `random.Random` state gives the same bytes. Pictures stay 8-bit in
every step, because a page has millions of pixels.
"""

import random
from functools import lru_cache

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from data_prep.dataset.crops import perspective
from data_prep.synthetic.scenes import to_jpeg

_TILE = 2048
_GAIN = 16  # standard deviation of the noise tile, in grey values


def scan_page(image: Image.Image, rng: random.Random) -> bytes:
    """JPEG bytes of a flat-bed scan: slight skew and blur, grey paper, dust, noise."""
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
    """JPEG bytes of a phone photo: the page at an angle on a desk, in uneven light."""
    wide, high = image.size
    edge = round(0.06 * wide)
    size = wide + 2 * edge, high + 2 * edge
    jitter = 0.75 * edge
    corners = [
        (x + edge + rng.uniform(-jitter, jitter), y + edge + rng.uniform(-jitter, jitter))
        for x, y in ((0, 0), (wide, 0), (wide, high), (0, high))
    ]
    page = [(0, 0), (wide, 0), (wide, high), (0, high)]
    data = perspective(corners, page).tolist()
    method = Image.Transform.PERSPECTIVE, data, Image.Resampling.BILINEAR
    warped = image.transform(size, *method, fillcolor="white")
    if rng.random() < 0.5:
        warped = warped.filter(ImageFilter.BoxBlur(rng.uniform(0.1, 0.4)))
    mask = Image.new("L", size, 0)
    ImageDraw.Draw(mask).polygon(corners, fill=255)
    desk = Image.new("RGB", size, _desk_colour(rng))
    desk.paste(warped.convert("RGB"), mask=mask)
    # Uneven light: 3 x 3 random weights, resized smoothly to the whole picture.
    weights = np.random.default_rng(rng.getrandbits(32)).uniform(168, 255, size=(3, 3))
    light = Image.fromarray(weights.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    green, blue = rng.uniform(0.96, 1.0), rng.uniform(0.89, 1.0)
    warm = Image.merge("RGB", (light, light.point(_scaled(green)), light.point(_scaled(blue))))
    lit = ImageChops.multiply(desk, warm)
    return to_jpeg(add_noise(lit, rng.uniform(1, 6), rng), rng.randint(60, 90))


def add_noise(image: Image.Image, deviation: float, rng: random.Random) -> Image.Image:
    """Picture ("L" or "RGB") with Gaussian noise; `deviation` is in grey values."""
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
    """Gaussian noise around 128, drawn once and tiled over every page, because drawing is slow."""
    values = np.random.default_rng(0).normal(128, _GAIN, size=(_TILE, _TILE))
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def _scaled(factor: float) -> list[int]:
    """Lookup table for `Image.point`: grey values times a factor of at most 1."""
    return [round(value * factor) for value in range(256)]


def _desk_colour(rng: random.Random) -> tuple[int, int, int]:
    base = rng.choice(((120, 86, 58), (70, 72, 78), (168, 150, 126), (44, 50, 60), (150, 156, 160)))
    red, green, blue = (value + rng.randint(-12, 12) for value in base)
    return red, green, blue
