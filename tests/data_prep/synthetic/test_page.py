"""Pages: where text is put, how it is wrapped, what is remembered."""

import pytest

from data_prep.synthetic.page import Page
from data_prep.synthetic.render import shipped_fonts

FACE = tuple(map(str, shipped_fonts("DejaVuSans", "DejaVuSans-Bold")))


@pytest.mark.parametrize("scale", [0.7, 1.0, 2.0])
def test_text_is_wrapped_to_its_width(scale):
    page = Page(FACE, scale)
    text = "a long line that needs several of them\nand a second one " + "x" * 80
    below = page.text(100, 50, text, width=200)
    assert "".join(piece.text for piece in page.texts).replace(" ", "") == "".join(text.split())
    assert all(piece.box[2] <= 302 * scale for piece in page.texts)
    assert below == 50 + len(page.texts) * page.leading()
    assert {piece.of for piece in page.texts} == {text}


def test_chinese_is_wrapped_anywhere_but_before_its_marks():
    page = Page(FACE, 1.0)
    lines = page.wrap("日本語中文。日本，語中文日本", 36, 16, False)
    assert len(lines) > 2 and not any(line[0] in "，。" for line in lines)


def test_text_is_aligned():
    page = Page(FACE, 1.0)
    for align in ("left", "right", "middle"):
        page.text(500, 50, "HHH", align=align)
    left, right, middle = (piece.box for piece in page.texts)
    assert left[0] == pytest.approx(500, abs=3) and right[2] == pytest.approx(500, abs=3)
    assert (middle[0] + middle[2]) / 2 == pytest.approx(500, abs=2)


def test_page_text_boxes_enclose_the_drawn_ink():
    page = Page(FACE, 1.5)
    page.text(100, 60, "Quay")
    page.end(100)
    box = page.draw().point(lambda value: 255 * (value < 200)).getbbox()
    assert all(abs(a - b) <= 2 for a, b in zip(box, page.texts[0].box))
    assert page.draw().size == (1500, round(1414.29 * 1.5))


def test_a_page_is_grey_unless_it_has_colour_and_grows_with_its_text():
    page = Page(FACE, 1.0)
    page.text(10, 10, "x")
    page.end(3000)
    assert page.draw().mode == "L" and page.draw().height == 3040
    page.box(0, 0, 10, 10, fill=(1, 2, 3))
    assert page.draw().mode == "RGB"
