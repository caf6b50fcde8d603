"""Text rendering: load fonts, draw a line of text on a baseline, add thermal-print damage.

Functions with random results take a `random.Random`: the same seed draws the same pixels. Pictures
are 8-bit grey ("L"), dark ink on white paper.
"""

import math
import random
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

# (regular, bold) fonts of matplotlib, which need no download, by family.
SHIPPED_FACES = {
    "DejaVu Sans": ("DejaVuSans", "DejaVuSans-Bold"),
    "DejaVu Serif": ("DejaVuSerif", "DejaVuSerif-Bold"),
    "DejaVu Sans Mono": ("DejaVuSansMono", "DejaVuSansMono-Bold"),
    "STIX": ("STIXGeneral", "STIXGeneralBol"),
}
# Latin letters with the highest and the lowest ink: centring their box instead of the text's own
# box keeps the baseline at the same height in every line.
_LATIN_EXTENT = "bdfhklgjpqyQ|0"


@lru_cache(maxsize=512)
def load_font(path: str | Path, size: int) -> ImageFont.FreeTypeFont:
    """Font file `path` at `size` pixels per em; the suffix `#2` selects face 2 of a collection."""
    name, _, index = str(path).partition("#")
    return ImageFont.truetype(name, size, index=int(index or 0))


def shipped_fonts(*stems: str) -> list[Path]:
    """Paths of fonts that matplotlib ships, by file name without suffix; they need no download."""
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
    ink: int = 0,
) -> Image.Image:
    """Draw `text` on one line, `height` pixels high and as wide as the text.

    The baseline depends on the font alone, so letters with and without descenders share it.

    Args:
        left: white pixels before the text; `right`: after it.
        ink: grey value of the letters.
    """
    _, top, _, bottom = font.getbbox(_LATIN_EXTENT, anchor="ls")
    x0, _, x1, _ = font.getbbox(text, anchor="ls")
    image = Image.new("L", (max(1, math.ceil(x1 - x0)) + left + right, height), 255)
    baseline = round((height - (top + bottom)) / 2)
    ImageDraw.Draw(image).text((left - x0, baseline), text, font=font, anchor="ls", fill=ink)
    return image


def degrade_thermal(image: Image.Image, rng: random.Random) -> Image.Image:
    """Simulate a worn thermal print: tilt, blur, white columns of dead print heads, fading, noise.

    Returns the picture in "L", of the same size.
    """
    image = image.rotate(rng.uniform(-1.2, 1.2), resample=Image.Resampling.BILINEAR, fillcolor=255)
    ink = 255 - np.asarray(image, dtype=np.float32)
    noise = np.random.default_rng(rng.getrandbits(32))
    dead = noise.random(image.width) < rng.uniform(0.0, 0.08)
    ink[:, dead] *= rng.uniform(0.1, 0.5)
    # Uneven fading: 2 x 8 random weights, resized smoothly to the whole line.
    blotches = Image.fromarray(noise.uniform(0.35, 1.0, size=(2, 8)).astype(np.float32))
    ink *= np.asarray(blotches.resize(image.size, Image.Resampling.BICUBIC))
    blurred = Image.fromarray(np.clip(255 - ink, 0, 255).astype(np.uint8)).filter(
        ImageFilter.GaussianBlur(rng.uniform(0.7, 1.3))
    )
    paper, contrast = rng.uniform(185, 235), rng.uniform(0.45, 0.8)
    pixels = paper - (255 - np.asarray(blurred, dtype=np.float32)) * contrast
    pixels += noise.normal(0, rng.uniform(5, 12), size=pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
