"""Backgrounds and camera effects: paper, signboards, perspective, uneven light, blur and noise.

Pictures are float32 arrays of shape (height, width, 3) with values 0 to 255; masks have shape
(height, width) with values 0 to 1, where 1 is ink. `body` is the letter height in pixels, which all
lengths are multiples of.
"""

import colorsys
import io
import random

import numpy as np
from PIL import Image, ImageFilter

from data_prep.dataset.crops import perspective

Colour = tuple[float, float, float]


def smooth_noise(
    shape: tuple[int, int], cell: float, rng: random.Random, spread: float = 1.0
) -> np.ndarray:
    """Smooth random field of shape (height, width), mean 0, with waves of about `cell` pixels."""
    height, width = shape
    coarse = (max(2, round(width / cell) + 1), max(2, round(height / cell) + 1))
    values = np.random.default_rng(rng.getrandbits(32)).normal(0, spread, coarse[::-1])
    field = Image.fromarray(values.astype(np.float32))
    return np.array(field.resize((width, height), Image.Resampling.BICUBIC))


def paper(
    shape: tuple[int, int], body: float, baseline: float, kind: str, look: random.Random
) -> np.ndarray:
    """Paper background of a `kind`: "white", "tinted", "aged", "ruled" or "squared".

    `baseline` is the row that ruled lines are aligned with.
    """
    height, width = shape
    level = look.uniform(225, 255)
    tint = np.array([level, level - look.uniform(0, 6), level - look.uniform(0, 14)])
    if kind == "tinted":
        tint = np.array(_hsv(look.random(), look.uniform(0.03, 0.13), look.uniform(0.85, 1.0)))
    if kind == "aged":
        tint = np.array([look.uniform(205, 235), look.uniform(185, 210), look.uniform(140, 175)])
    sheet = np.broadcast_to(tint, (height, width, 3)).astype(np.float32).copy()
    sheet += smooth_noise(shape, 1.2, look, look.uniform(0.5, 2.5))[..., None]
    if kind == "aged":
        sheet += smooth_noise(shape, 2.5 * body, look, 9)[..., None]
    if kind in ("ruled", "squared"):
        step = body * (look.uniform(1.5, 1.9) if kind == "ruled" else look.uniform(0.45, 0.8))
        colour = np.array(_hsv(look.choice((0.58, 0.6, 0.55, 0.0)), look.uniform(0.2, 0.5), 0.8))
        strength = look.uniform(0.35, 0.8)
        first = baseline + body * look.uniform(0.0, 0.25)
        for at in np.arange(first % step, height, step):
            row = min(int(at), height - 1)
            sheet[row] += (colour - sheet[row]) * strength
        for at in np.arange(look.uniform(0, step), width, step) if kind == "squared" else ():
            column = min(int(at), width - 1)
            sheet[:, column] += (colour - sheet[:, column]) * strength
    return sheet


def board(
    shape: tuple[int, int], body: float, colour: Colour, edge: Colour, rng: random.Random
) -> np.ndarray:
    """Signboard: plain, gradient, backlit, planks, tiles or stains, with or without a frame."""
    height, width = shape
    picture = np.broadcast_to(np.array(colour), (height, width, 3)).astype(np.float32).copy()
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    kind = rng.choice(("plain", "plain", "graded", "lit", "boards", "tiles", "worn"))
    if kind == "graded":
        slope = rng.uniform(-1, 1) * (x / width - 0.5) + rng.uniform(-1, 1) * (y / height - 0.5)
        picture *= (1 + 0.35 * slope)[..., None]
    elif kind == "lit":
        glow = np.exp(-(((y - height / 2) / (0.9 * body)) ** 2))
        picture += (40 * glow - 15)[..., None]
    elif kind == "boards":
        step = body * rng.uniform(0.5, 1.1)
        seam = (y + rng.uniform(0, step)) % step < 1.5
        grain = smooth_noise((height, max(2, width // 8)), 2, rng, 6)
        stretched = Image.fromarray(grain).resize((width, height), Image.Resampling.BILINEAR)
        picture += np.asarray(stretched)[..., None] - 25 * seam[..., None]
    elif kind == "tiles":
        step = body * rng.uniform(0.9, 1.6)
        seam = ((y + rng.uniform(0, step)) % step < 1.5) | ((x + rng.uniform(0, step)) % step < 1.5)
        picture += 18 * seam[..., None]
    elif kind == "worn":
        stains = smooth_noise(shape, 0.6 * body, rng, 1)
        picture += (np.clip(stains - 0.6, 0, 2) * rng.uniform(-25, 25))[..., None]
    if rng.random() < 0.3:
        inset, thick = int(body * rng.uniform(0.2, 0.5)), max(1, int(body * 0.05))
        for top in (inset, height - inset - thick):
            picture[top : top + thick] = edge
    return picture


def sign_colours(rng: random.Random) -> tuple[Colour, Colour]:
    """Random colours of (board, letters), with enough contrast to be read."""
    while True:
        pair = []
        for pale in (rng.random() < 0.45, rng.random() < 0.45):
            saturation = rng.uniform(0, 0.15) if pale else rng.uniform(0.45, 1.0)
            value = rng.uniform(0.85, 1.0) if pale else rng.uniform(0.15, 1.0)
            pair.append(_hsv(rng.random(), saturation, value))
        if abs(brightness(pair[0]) - brightness(pair[1])) > 90:
            return pair[0], pair[1]


def pen_colour(look: random.Random) -> Colour:
    """Random ink colour: black, blue, pencil grey, rarely red or green."""
    kind = look.random()
    if kind < 0.4:
        grey = look.uniform(5, 60)
        return grey, grey, grey
    if kind < 0.8:
        return _hsv(look.uniform(0.58, 0.68), look.uniform(0.5, 0.95), look.uniform(0.35, 0.75))
    if kind < 0.92:
        grey = look.uniform(70, 115)
        return grey, grey, grey
    return _hsv(look.choice((0.0, 0.97, 0.38)), look.uniform(0.6, 0.9), look.uniform(0.4, 0.75))


def brightness(colour: Colour) -> float:
    """Luma of a colour, 0 to 255 (ITU-R BT.601)."""
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def paint(picture: np.ndarray, mask: np.ndarray, colour: Colour) -> np.ndarray:
    """Blend `colour` into a picture, with the mask as opacity."""
    return picture + (np.asarray(colour, dtype=np.float32) - picture) * mask[..., None]


def shaken(mask: np.ndarray, body: float, slant: float, rng: random.Random) -> np.ndarray:
    """Distort a mask like handwriting: slant, wavering strokes and an uneven baseline.

    The margins of the mask must be at least half a `body` wide.
    """
    shape = mask.shape
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32)
    stroke = rng.uniform(0.012, 0.03) * body
    dx = smooth_noise(shape, 0.35 * body, rng, stroke) + slant * (y - shape[0] / 2)
    dy = smooth_noise(shape, 0.35 * body, rng, stroke)
    dx += smooth_noise((2, shape[1]), 1.5 * body, rng, 0.05 * body)[:1]
    dy += smooth_noise((2, shape[1]), 2.5 * body, rng, 0.05 * body)[:1]
    return _sampled(mask, x + dx, y + dy)


def _sampled(mask: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Sample a mask at fractional coordinates by bilinear interpolation; 0 outside."""
    padded = np.pad(mask, 1)
    x = np.clip(x + 1, 0, mask.shape[1])
    y = np.clip(y + 1, 0, mask.shape[0])
    left, top = x.astype(np.int32), y.astype(np.int32)
    right, down = x - left, y - top
    upper = padded[top, left] * (1 - right) + padded[top, left + 1] * right
    lower = padded[top + 1, left] * (1 - right) + padded[top + 1, left + 1] * right
    return upper * (1 - down) + lower * down


def tilted(
    picture: np.ndarray,
    box: tuple[float, float, float, float],
    amount: float,
    margins: tuple[float, float, float, float],
    rng: random.Random,
) -> Image.Image:
    """Random perspective of a picture, cropped to `box` (left, top, right, bottom) plus `margins`.

    Each corner moves by up to `amount` pixels in x and y. The picture must extend that far beyond
    the box and its margins, because pixels outside the picture are black.
    """
    height, width = picture.shape[:2]
    corners = [(0, 0), (width, 0), (width, height), (0, height)]
    moved = [
        (x + rng.uniform(-amount, amount), y + rng.uniform(-amount, amount)) for x, y in corners
    ]
    image = _to_image(picture)
    warped = np.array([[x, y, 1] for x, y in _corners(box)]) @ _homography(corners, moved).T
    warped = warped[:, :2] / warped[:, 2:]
    # The crop contains the warped corners of the text's box, whatever the angle.
    left, top = np.floor(warped.min(axis=0) - margins[:2])
    right, bottom = np.ceil(warped.max(axis=0) + margins[2:])
    shift = np.array([[1, 0, left], [0, 1, top], [0, 0, 1]])
    back = _homography(moved, corners) @ shift
    size = (int(right - left), int(bottom - top))
    data = tuple((back / back[2, 2]).ravel()[:8])
    return image.transform(size, Image.Transform.PERSPECTIVE, data, Image.Resampling.BICUBIC)


def _corners(box: tuple[float, float, float, float]) -> list[tuple[float, float]]:
    left, top, right, bottom = box
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _homography(old: list[tuple[float, float]], new: list[tuple[float, float]]) -> np.ndarray:
    """3x3 homography that maps four points to four others."""
    return np.append(perspective(old, new), 1).reshape(3, 3)


def photographed(image: Image.Image, body: float, harsh: bool, rng: random.Random) -> Image.Image:
    """Simulate a photo or scan: uneven light, blur, lower resolution, noise, lower contrast.

    Letters keep enough pixels to be read. `harsh` means outdoor light, otherwise indoor light.
    """
    if rng.random() < 0.35:
        least = min(1.0, 24 / body)
        factor = rng.uniform(least, 1.0)
        small = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
        image = image.resize(small, Image.Resampling.BILINEAR).resize(
            image.size, Image.Resampling.BICUBIC
        )
    elif rng.random() < 0.6:
        radius = rng.uniform(0.2, 0.028 * body)
        image = image.filter(ImageFilter.GaussianBlur(radius))
    pixels = np.asarray(image, dtype=np.float32)
    shape = pixels.shape[:2]
    light = smooth_noise(shape, max(shape) / 2, rng, 0.12 if harsh else 0.05)
    pixels = pixels * np.clip(1 + light, 0.6, 1.25)[..., None]
    if harsh and rng.random() < 0.15:  # a lamp's reflection
        y, x = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32)
        cx, cy = rng.uniform(0, shape[1]), rng.uniform(0, shape[0])
        far = ((x - cx) ** 2 + (y - cy) ** 2) / (body * rng.uniform(0.4, 1.0)) ** 2
        pixels += 70 * np.exp(-far)[..., None]
    low, high = rng.uniform(0, 45 if harsh else 30), rng.uniform(215, 255)
    pixels = low + np.clip(pixels, 0, 255) * ((high - low) / 255)
    noise = np.random.default_rng(rng.getrandbits(32))
    pixels += noise.normal(0, rng.uniform(0, 9 if harsh else 5), shape)[..., None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def to_jpeg(image: Image.Image, quality: int) -> bytes:
    """JPEG bytes of a picture."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _hsv(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return 255 * red, 255 * green, 255 * blue


def _to_image(picture: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
