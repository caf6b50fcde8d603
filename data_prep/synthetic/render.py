"""Draw lines of text: fonts, layout on a baseline, and the damage that printers and scanners do.

Every function that varies its result takes a `random.Random`, so the same seed draws the same
pixels. Pictures are 8-bit grey ("L"), dark ink on white paper.
"""

import math
import random
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from data_prep.dataset.pictures import fit_height

# Letters that reach the highest and the lowest point of a Latin line: centring their box
# instead of the text's own keeps the baseline where it is from one line to the next.
_LATIN_EXTENT = "bdfhklgjpqyQ|0"


@lru_cache(maxsize=512)
def load_font(path: str | Path, size: int) -> ImageFont.FreeTypeFont:
    """The font file `path` at `size` pixels per em; a suffix `#2` names a face of a collection."""
    name, _, index = str(path).partition("#")
    return ImageFont.truetype(name, size, index=int(index or 0))


def shipped_fonts(*stems: str) -> list[Path]:
    """Paths of fonts that matplotlib brings along, by file name without ending.

    They are there wherever the kit is installed, so what is drawn with them needs no download.
    """
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return [folder / f"{stem}.ttf" for stem in stems]


def draw_line(
    text: str,
    font: ImageFont.FreeTypeFont,
    height: int = 32,
    *,
    left: int = 2,
    right: int = 2,
    shift: int = 0,
    ink: int = 0,
    extent: str = _LATIN_EXTENT,
) -> Image.Image:
    """`text` on one line, `height` pixels high, as wide as it needs to be.

    The baseline depends on the font alone (moved down by `shift` pixels), so letters with and
    without descenders stand as they do in print. `ink` is the grey value of the letters.
    """
    _, top, _, bottom = font.getbbox(_LATIN_EXTENT, anchor="ls")
    x0, _, x1, _ = font.getbbox(text, anchor="ls")
    image = Image.new("L", (max(1, math.ceil(x1 - x0)) + left + right, height), 255)
    baseline = round((height - (top + bottom)) / 2) + shift
    ImageDraw.Draw(image).text((left - x0, baseline), text, font=font, anchor="ls", fill=ink)
    return image


def crop_to_ink(image: Image.Image, margins: tuple[int, int, int, int]) -> Image.Image:
    """The picture cut to its ink plus (left, top, right, bottom) pixels, as boxes are drawn."""
    box = Image.eval(image, lambda value: 255 - value).getbbox()
    if box is None:
        return image
    left, top, right, bottom = margins
    area = (box[0] - left, box[1] - top, box[2] + right, box[3] + bottom)
    # Past the edge, crop() fills with black, which would be ink; paste onto paper instead.
    paper = Image.new("L", (area[2] - area[0], area[3] - area[1]), 255)
    paper.paste(image, (-area[0], -area[1]))
    return paper


def soften(image: Image.Image, rng: random.Random) -> Image.Image:
    """What a scanner does to a line: a little blur, lost resolution, less contrast, noise."""
    if rng.random() < 0.4:
        small = fit_height(image, rng.randint(14, 26))
        image = small.resize(image.size, Image.Resampling.BILINEAR)
    elif rng.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.8)))
    if rng.random() < 0.4:
        image = image.rotate(
            rng.uniform(-0.7, 0.7), resample=Image.Resampling.BILINEAR, fillcolor=255
        )
    pixels = np.asarray(image, dtype=np.float32)
    black, white = rng.uniform(0, 70), rng.uniform(215, 255)
    pixels = black + pixels * ((white - black) / 255)
    noise = np.random.default_rng(rng.getrandbits(32))
    pixels = pixels + noise.normal(0, rng.uniform(0, 6), size=pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def degrade_thermal(image: Image.Image, rng: random.Random) -> Image.Image:
    """What a pocket and a cheap printer do to a thermal receipt.

    The line is tilted and blurred; heads that no longer heat leave white columns; the print fades
    in blotches, the paper greys, and the sensor adds noise.
    """
    image = image.rotate(rng.uniform(-1.2, 1.2), resample=Image.Resampling.BILINEAR, fillcolor=255)
    ink = 255 - np.asarray(image, dtype=np.float32)
    noise = np.random.default_rng(rng.getrandbits(32))
    dead = noise.random(image.width) < rng.uniform(0.0, 0.08)
    ink[:, dead] *= rng.uniform(0.1, 0.5)
    # Fading in blotches: a few random weights stretched over the whole line.
    blotches = Image.fromarray(noise.uniform(0.35, 1.0, size=(2, 8)).astype(np.float32))
    ink *= np.asarray(blotches.resize(image.size, Image.Resampling.BICUBIC))
    blurred = Image.fromarray(np.clip(255 - ink, 0, 255).astype(np.uint8)).filter(
        ImageFilter.GaussianBlur(rng.uniform(0.7, 1.3))
    )
    paper, contrast = rng.uniform(185, 235), rng.uniform(0.45, 0.8)
    pixels = paper - (255 - np.asarray(blurred, dtype=np.float32)) * contrast
    pixels += noise.normal(0, rng.uniform(5, 12), size=pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
