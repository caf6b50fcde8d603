"""Lines of pages: reading order, cutting, and pages read line by line."""

import math

import pytest
from PIL import Image, ImageDraw

from data_prep.synthetic.render import load_font, shipped_fonts
from ocrkit.config import TrainConfig
from ocrkit.evaluation import page_lines
from ocrkit.evaluation.page_lines import LineReader, cut_line, detect_lines, reading_order


def quad(left, top, width, height=20):
    right, bottom = left + width, top + height
    return ((left, top), (right, top), (right, bottom), (left, bottom))


HEADING = quad(100, 0, 400)
COLUMNS = [quad(x, 40 + 30 * row + x / 200, 240) for x in (0, 300) for row in range(4)]
RECEIPT = [box for row in range(4) for box in (quad(0, 30 * row, 200), quad(400, 30 * row + 3, 60))]


@pytest.mark.parametrize(
    "page",
    [
        [HEADING, *COLUMNS],
        [HEADING, *COLUMNS, quad(0, 200, 540)],
        RECEIPT,
        [quad(0, 0, 100), quad(120, 2, 90), quad(0, 30, 150)],
        # A slanted row, whose boxes overlap the heights of the rows above and below.
        [quad(0, 0, 200), quad(210, 12, 200), quad(0, 30, 200), quad(210, 42, 200)],
        [],
        [quad(5, 5, 50)],
    ],
    ids=["columns", "columns and foot", "receipt", "words", "slanted", "empty", "single"],
)
def test_page_lines_are_in_reading_order(page):
    shuffled = sorted(page, key=lambda box: math.sin(box[0][0] * 7 + box[0][1]))
    assert [shuffled[number] for number in reading_order(shuffled)] == page


def test_a_slanted_line_is_cut_upright_with_a_margin():
    picture = Image.new("L", (200, 200), 255)
    ImageDraw.Draw(picture).line((20, 100, 180, 60), fill=0, width=4)
    cut = cut_line(picture, ((20, 90), (180, 50), (180, 70), (20, 110)))
    assert abs(cut.width - 165) <= 2 and abs(cut.height - 24) <= 3
    dark = [y for y in range(cut.height) if cut.getpixel((cut.width // 2, y)) < 128]
    assert dark and abs(sum(dark) / len(dark) - cut.height / 2) < 2.5


class Lengths:
    """Reader that reads the width of each picture, last one first, and fails above 300 pixels."""

    config = TrainConfig(model_name_or_path="m", dataset="d", image_height=32)

    def fingerprint(self, rows):
        return "f"

    def read_stream(self, rows):
        for row in list(rows)[::-1]:
            wide = row["images"][0].width
            failed = wide > 300
            yield {
                "id": row["id"],
                "prediction": "" if failed else str(wide),
                "confidence": None if wide == 100 else 0.5,
                "finish_reason": "error" if failed else "stop",
                "error": "too wide" if failed else None,
            }


def test_pages_hold_their_lines_in_order(monkeypatch):
    boxes = {90: [quad(0, 0, 100), quad(0, 30, 200)], 91: [], 92: [quad(0, 0, 400)]}
    monkeypatch.setattr(page_lines, "detect_lines", lambda picture: boxes[picture.width % 100])
    rows = [
        {"id": f"page {n}", "prompt": [], "images": [Image.new("L", (500 + n, 300), 255)]}
        for n in (90, 91, 92)
    ]
    rows.append({"id": "broken", "prompt": [], "images": ["no file"]})
    reader = LineReader(Lengths())
    pages = {page["id"]: page for page in reader.read_stream(rows)}
    assert pages["page 90"]["prediction"] == "100\n200"
    assert pages["page 90"]["confidence"] == 0.5 and pages["page 90"]["size"] == [590, 300]
    assert pages["page 90"]["lines"][1]["corners"] == [[0, 30], [200, 30], [200, 50], [0, 50]]
    assert pages["page 91"]["prediction"] == "" and pages["page 91"]["error"] is None
    assert pages["page 92"]["error"] == "1 of 1 lines failed: too wide"
    assert "no such file" in pages["broken"]["error"]
    # A page is no line, so the reader's height is no reason for a warning.
    assert reader.config.image_height is None and reader.fingerprint([]) != "f"


def test_rapidocr_finds_the_lines_of_a_page_of_two_columns():
    pytest.importorskip("rapidocr")
    picture = Image.new("L", (900, 260), 255)
    draw, font = ImageDraw.Draw(picture), load_font(shipped_fonts("DejaVuSans")[0], 24)
    for column in (40, 500):
        for row in range(3):
            draw.text((column, 30 + 70 * row), "The river was wide", font=font, fill=0)
    places = [(round(quad[0][0]) // 400, round(quad[0][1]) // 70) for quad in detect_lines(picture)]
    assert places == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert detect_lines(Image.new("L", (300, 200), 255)) == []
