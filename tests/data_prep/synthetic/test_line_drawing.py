import io

import numpy as np
import pytest
from PIL import Image

from data_prep.dataset.schema import DataError
from data_prep.synthetic import line_drawing as module
from data_prep.synthetic.fonts import FACES, KINDS, find_fonts
from data_prep.synthetic.line_drawing import Line, draw, hand_mask, plan_lines, text_mask
from data_prep.synthetic.render import load_font
from data_prep.synthetic.texts import Vocabulary, load_vocabulary
from tests.helpers.drawn_lines import DEJAVU, SERIF, opened, shipped

SAMPLES = {"bn": "আমি ক্ষুদ্র", "ko": "한국어 간판", "zh": "中文手写", "en": "Going slowly"}


@pytest.mark.parametrize("face", KINDS)
def test_drawn_line_depends_on_its_seeds_only(face):
    line = Line("Going slowly", "en", face, DEJAVU, "p", "s")
    assert draw(line) == draw(line)
    assert draw(line) != draw(Line("Going slowly", "en", face, DEJAVU, "p", "t"))
    assert draw(line) != draw(Line("Going slowly", "en", face, DEJAVU, "q", "s"))
    assert Image.open(io.BytesIO(draw(line, 48))).height == 48


@pytest.mark.parametrize("face", KINDS)
def test_drawn_letters_contrast_with_their_paper(face):
    for seed in range(30):
        pixels = opened(draw(Line("Hamburg", "en", face, DEJAVU, f"p{seed}", "s")))
        assert 20 < pixels.shape[0] < 160 and pixels.shape[1] > 60
        low, high = np.percentile(pixels, (3, 97))
        assert high - low > 35, seed


def test_a_long_thermal_line_keeps_its_ends(monkeypatch):
    def tilted(image, rng):
        return image.rotate(1.2, Image.Resampling.BILINEAR, fillcolor=255)

    monkeypatch.setattr(module, "degrade_thermal", tilted)
    monkeypatch.setattr(module.scenes, "paper", None)  # only thermal lines are drawn here
    text, drawn = "jÅgfy " * 30, 0
    for seed in range(60):
        try:
            pixels = opened(draw(Line(text.strip(), "en", "print", SERIF, f"p{seed}", "s")))
        except TypeError:
            continue
        border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        assert border.min() > 90, seed
        drawn += 1
    assert drawn > 3


@pytest.mark.parametrize("face", KINDS)
@pytest.mark.parametrize("language", FACES)
def test_every_script_is_drawn_in_every_face(language, face):
    try:
        families = find_fonts(language, face)
    except DataError as error:
        pytest.skip(str(error))
    font = next(iter(families.values()))[0]
    line = Line(SAMPLES[language], language, face, font, "p", "s")
    pixels = opened(draw(line))
    other = opened(draw(Line(SAMPLES[language][::-1], language, face, font, "p", "s")))
    assert pixels.std() > 8 and (pixels.shape != other.shape or (pixels != other).any())


def test_bangla_is_shaped_before_it_is_drawn():
    try:
        font = next(iter(find_fonts("bn", "print").values()))[0]
    except DataError as error:
        pytest.skip(str(error))
    # A conjunct is narrower than its letters, and ি stands before the letter it follows.
    wide = load_font(font, 40).getlength
    assert wide("ক্ষ") < wide("ক") + wide("ষ") - 5
    mask, _ = text_mask("কি", load_font(font, 40), 4)
    alone, _ = text_mask("ক", load_font(font, 40), 4)
    assert np.abs(mask[:, -20:].sum() - alone[:, -20:].sum()) < np.abs(
        mask[:, :20].sum() - alone[:, :20].sum()
    )


def test_hands_set_joined_scripts_by_word_and_others_by_character():
    import random

    line = Line("to be", "en", "handwriting", DEJAVU, "p", "s")
    mask, baseline = hand_mask(line, 30, 0.03, random.Random(0))
    assert 0 < baseline < mask.shape[0]
    # Two words: exactly one wide gap; the letters inside them touch or nearly so.
    ink = np.flatnonzero(mask.max(axis=0) > 0.3)
    gaps = np.diff(ink)
    assert sum(gaps > 9) == 1
    assert mask[0].max() == mask[-1].max() == mask[:, 0].max() == mask[:, -1].max() == 0


def test_lines_alternate_between_pages_that_keep_their_font():
    vocabulary = load_vocabulary("en")
    plan = list(plan_lines([vocabulary], shipped("print", "sign"), 60, 7))
    assert [line.face for line in plan[::10]] == ["print", "sign"] * 3
    for start in range(0, 60, 10):
        page = plan[start : start + 10]
        assert len({(line.font, line.page) for line in page}) == 1
        assert len({line.seed for line in page}) == 10
    assert plan[:25] == list(plan_lines([vocabulary], shipped("print", "sign"), 25, 7))
    assert plan != list(plan_lines([vocabulary], shipped("print", "sign"), 60, 8))


def test_the_lines_of_a_text_follow_one_another_through_pages_and_faces():
    numbers = tuple(f"line {i}" for i in range(40))
    vocabulary = Vocabulary("en", ("word",), ("a",), numbers)
    plan = list(plan_lines([vocabulary], shipped(), 50, 0))
    assert [line.text for line in plan] == [*numbers, *numbers[:10]]


def test_a_font_without_small_letters_writes_capitals(monkeypatch):
    monkeypatch.setattr(module, "has_capitals_only", lambda font: True)
    plan = list(plan_lines([load_vocabulary("en")], shipped("print"), 10, 0))
    assert all(line.text == line.text.upper() for line in plan)
