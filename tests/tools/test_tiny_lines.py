import random

import numpy as np
import pytest
from PIL import Image

from data_prep.dataset.schema import DataError
from data_prep.synthetic.fonts import missing_glyphs
from data_prep.synthetic.render import draw_line, load_font, shipped_fonts
from tests.tools.tiny_model.lines import (
    FONTS,
    HEIGHT,
    HELD_OUT,
    SCRIPTS,
    body_of,
    characters,
    crop_to_ink,
    draw_sample,
    fitting_text,
    fonts,
    frequent,
    held_out_lines,
    soften,
    text_of_script,
    widened,
)

LATIN = shipped_fonts("DejaVuSans")[0]


def test_frequent_characters_are_the_standards_own():
    assert len(set(frequent("ko"))) == 2350 and len(set(frequent("zh"))) == 3755
    assert all("가" <= c <= "힣" for c in frequent("ko"))
    assert frequent("zh")[0] == "的" and "이" in frequent("ko")[:5]


@pytest.mark.parametrize("script", SCRIPTS)
def test_texts_are_spelled_in_characters_that_have_tokens(script):
    rng = random.Random(0)
    known = set("".join(characters().values()))
    texts = [text_of_script(script, rng, rng.randint(1, 20), 10_000) for _ in range(400)]
    others = set("".join(texts)) - known
    assert all(c in "£ñü" for c in others)  # which are spelled in bytes
    assert all(texts)


@pytest.mark.parametrize("script", SCRIPTS)
def test_no_font_is_both_trained_on_and_held_out(script):
    try:
        known, unseen = fonts(script, FONTS[script]), fonts(script, HELD_OUT[script])
    except DataError as error:
        pytest.skip(str(error))
    assert not set(known) & set(unseen)


@pytest.mark.parametrize("script", SCRIPTS)
def test_tiny_texts_fit_and_pictures_depend_on_the_seed(script):
    try:
        font = fonts(script, HELD_OUT[script])[0]
    except DataError as error:
        pytest.skip(str(error))
    body = body_of(script, random.Random(0), 0.0)
    for seed in range(20):
        text = fitting_text(script, font, body, 200, random.Random(seed), 500)
        assert text and not missing_glyphs(font, text)
        clean = draw_sample(text, script, font, body, random.Random(seed), 0.0)
        assert clean.height == HEIGHT and clean.width <= 210
        varied = [draw_sample(text, script, font, body, random.Random(seed), 1.0) for _ in "ab"]
        assert varied[0].height == HEIGHT
        assert (np.asarray(varied[0]) == np.asarray(varied[1])).all()


def test_held_out_lines_are_the_same_for_the_same_seed():
    first, again, other = (held_out_lines("en", HELD_OUT["en"], 5, seed) for seed in (1, 1, 2))
    assert first[1] == again[1] != other[1]
    assert all(a.tobytes() == b.tobytes() for a, b in zip(first[0], again[0]))


def test_padding_has_the_grey_of_the_papers_edge():
    picture = Image.new("L", (3, 2), 40)
    assert set(widened(picture, 9).tobytes()) == {40}


def test_missing_fonts_are_named_with_their_package():
    with pytest.raises(DataError, match="apt-get install fontconfig fonts-none"):
        fonts("ko", {"No Such Family": "fonts-none"})


def test_crop_to_ink_keeps_margins_of_paper():
    line = draw_line("Hx", load_font(LATIN, 21), 40)
    tight = crop_to_ink(line, (0, 0, 0, 0))
    wide = crop_to_ink(line, (2, 30, 1, 4))
    assert (wide.width, wide.height) == (tight.width + 3, tight.height + 34)
    assert np.asarray(wide)[:30].min() == 255
    assert crop_to_ink(Image.new("L", (9, 9), 255), (1, 1, 1, 1)).size == (9, 9)


def test_scan_noise_follows_the_seed_and_keeps_the_size():
    line = draw_line("TOTAL 9.00", load_font(LATIN, 21))
    first, again = (np.asarray(soften(line, random.Random(1))) for _ in range(2))
    other = np.asarray(soften(line, random.Random(2)))
    assert (first == again).all() and (first != other).any()
    assert first.shape == np.asarray(line).shape
