import pytest

from data_prep.synthetic.invoices.layouts import LAYOUTS
from data_prep.synthetic.invoices.locale import leaves
from tests.helpers.invoices import LATIN, documents, squeezed


@pytest.mark.parametrize("count", [60, pytest.param(600, marks=pytest.mark.slow)])
def test_every_value_is_drawn_and_nothing_overlaps(count):
    for number, (document, page) in enumerate(documents(count)):
        place = f"{document.kind} {document.locale.name} {number}"
        drawn = {}
        for text in page.texts:
            drawn.setdefault(id(text.of), []).append(text.text)
        together = squeezed("".join(text.text for text in page.texts))
        for leaf in leaves(document.content):
            if leaf is document.content.get("currency"):
                assert squeezed(leaf) in together, f"{place}: {leaf}"
                continue
            pieces = squeezed("".join(drawn.get(id(leaf), [])))
            # Drawn twice (the amount due), it stands there twice.
            assert pieces and not pieces.replace(squeezed(leaf), ""), f"{place}: {leaf!r}, {pieces}"
        wide, high = page.width * page.scale, page.height * page.scale
        boxes = [text.box for text in page.texts]
        for text in page.texts:
            left, top, right, bottom = text.box
            assert min(left, top) >= 8 and right <= wide - 8 and bottom <= high - 8, (
                f"{place}: {text.text!r} at {text.box} leaves the page"
            )
        for index, ink in enumerate(boxes):
            for other, box in enumerate(boxes[:index]):
                apart = ink[0] >= box[2] or ink[2] <= box[0] or ink[1] >= box[3] or ink[3] <= box[1]
                assert apart, f"{place}: {page.texts[index].text!r} on {page.texts[other].text!r}"


def test_long_descriptions_are_wrapped():
    lines = [
        [text for text in page.texts if text.of is line["desc"]]
        for document, page in documents(60, LATIN)
        for line in document.content.get("line_items", ())
    ]
    assert sum(len(pieces) > 1 for pieces in lines) > 10


def test_pages_differ_in_looks_by_layout():
    sizes = {}
    for layout in LAYOUTS:
        _, page = next(documents(1, ["en"], [layout]))
        image = page.draw()
        sizes[layout] = image.size
        assert image.convert("L").getextrema() == (0, 255) or image.mode == "RGB"
    assert sizes["receipt"][0] < 600 and sizes["quotation"] == (1000, 1414)
