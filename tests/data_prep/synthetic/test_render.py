import random

import numpy as np
from PIL import Image

from data_prep.dataset.pictures import fit_height
from data_prep.synthetic.render import degrade_thermal, draw_line, load_font, shipped_fonts

FONT = shipped_fonts("DejaVuSans")[0]


def _ink_rows(image):
    return np.flatnonzero((np.asarray(image) < 128).any(axis=1))


def test_the_baseline_does_not_depend_on_the_text():
    font = load_font(FONT, 21)
    bottoms = {_ink_rows(draw_line(text, font))[-1] for text in ("H", "HIT", "nmxz", "L1")}
    assert len(bottoms) == 1
    assert _ink_rows(draw_line("gy", font))[-1] > bottoms.pop()


def test_rendered_text_is_not_clipped():
    font = load_font(FONT, 21)
    pixels = np.asarray(draw_line("|Agjpq|", font, 32, left=3, right=4))
    assert pixels[:, :2].min() == 255 and pixels[:, -2:].min() == 255
    assert pixels[0].min() == 255 and pixels[-1].min() == 255


def test_fit_height_keeps_proportions():
    assert fit_height(Image.new("L", (300, 60)), 32).size == (160, 32)
    assert fit_height(Image.new("L", (1, 900)), 32).size == (1, 32)


def test_damage_follows_the_seed_and_keeps_the_size():
    line = draw_line("TOTAL 9.00", load_font(FONT, 21))
    first, again = (np.asarray(degrade_thermal(line, random.Random(1))) for _ in range(2))
    other = np.asarray(degrade_thermal(line, random.Random(2)))
    assert (first == again).all() and (first != other).any()
    assert first.shape == np.asarray(line).shape
