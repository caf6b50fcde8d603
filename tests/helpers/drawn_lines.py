"""Fonts that the kit ships, and drawn lines as arrays."""

import io

import numpy as np
from PIL import Image

from data_prep.synthetic.fonts import KINDS
from data_prep.synthetic.lines import choose_fonts
from data_prep.synthetic.render import shipped_fonts

DEJAVU, SERIF = map(str, shipped_fonts("DejaVuSans", "DejaVuSerif"))


def shipped(*faces):
    """Fonts that are there everywhere, for faces of Latin."""
    return choose_fonts(["en"], faces or KINDS, [DEJAVU, SERIF])[0]


def opened(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("L"), dtype=np.float32)
