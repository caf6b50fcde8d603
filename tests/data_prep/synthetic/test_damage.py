"""Scanned and photographed pages."""

import io
import random

import pytest
from PIL import Image, ImageStat

from data_prep.synthetic.damage import add_noise, photograph_page, scan_page
from data_prep.synthetic.invoices.draw import make_setup, page_of


@pytest.mark.parametrize("damage", [scan_page, photograph_page])
def test_damage_keeps_the_page_and_follows_the_seed(damage):
    _, page = page_of(5, 0, make_setup(["en"], ["invoice-modern"], "clean", 1000))
    image = page.draw()
    first = damage(image, random.Random(3))
    assert first == damage(image, random.Random(3)) != damage(image, random.Random(4))
    seen = Image.open(io.BytesIO(first))
    assert seen.format == "JPEG" and abs(seen.width - image.width) < 0.15 * image.width
    dark = sum(seen.convert("L").histogram()[:110])
    assert dark > 0.2 * sum(image.convert("L").histogram()[:110])


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_noise_has_the_deviation_that_is_asked_for(mode):
    grey = Image.new(mode, (3000, 900), "grey")
    noisy = ImageStat.Stat(add_noise(grey, 5, random.Random(0)))
    assert noisy.stddev[0] == pytest.approx(5, abs=0.4)
    assert noisy.mean[0] == pytest.approx(128, abs=0.5)
