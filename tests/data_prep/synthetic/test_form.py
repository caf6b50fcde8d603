"""Any JSON object as a form: all of it on the page, nothing on top of another."""

import json

from data_prep.synthetic.form import draw_form, form_page, form_problem, shown
from data_prep.synthetic.render import shipped_fonts

FIELDS = {
    "document_type": "invoice",
    "vendor": {"name": "Müller & Söhne", "address": {"street": "Kirchgasse 4", "city": "Ulm"}},
    "client": {"name": "Ann O’Neil", "tax_id": None},
    "line_items": [
        {"desc": "Office chair with armrests " * 4, "qty": 2, "unit_price": 1150.5},
        {"desc": "Desk", "qty": 1, "unit_price": 90.0, "line_total": 90.0},
    ],
    "notes": ["paid", "by card"],
    "financial_summary": {"subtotal": 2391.0, "tax_rate": 0.1, "grand_total": 2630.1},
    "paid": True,
}


def squeezed(text):
    return "".join(text.split()).casefold()


def test_a_form_shows_every_field_and_nothing_overlaps():
    face = tuple(map(str, shipped_fonts("DejaVuSerif", "DejaVuSerif-Bold")))
    wide = {f"column {index}": "word " * 9 for index in range(12)}
    for value in (FIELDS, {"rows": [wide, wide]}, {"a" * 90: "b" * 900, "c": [{"d": "e\nf"}]}):
        assert form_problem(value) == ""
        page = form_page(value, face)
        drawn = squeezed("".join(text.text for text in page.texts))
        for text in ("1,150.50", "Office chair with armrests " * 4, "2,630.10", "yes", "by card"):
            assert squeezed(text) in drawn or value is not FIELDS
        for text in ("word " * 9, "b" * 900):
            assert squeezed(text) in drawn or text not in str(value)
        boxes = [text.box for text in page.texts]
        for number, ink in enumerate(boxes):
            assert ink[0] >= 0 and ink[2] <= 1000 and ink[3] <= page.height
            for box in boxes[:number]:
                assert (
                    ink[0] >= box[2] or ink[2] <= box[0] or ink[1] >= box[3] or ink[3] <= box[1]
                ), (page.texts[number], box)


def test_the_same_fields_are_drawn_alike():
    text = json.dumps(FIELDS)
    assert draw_form(text).tobytes() == draw_form(text).tobytes()
    assert draw_form(text).size == (1000, 1414)


def test_form_values_show_numbers_in_document_style():
    values = (3, 1150.5, 0.1, 0.125, True, None, " a \t b\r\n\nc ", float("inf"))
    assert [shown(value) for value in values] == [
        *("3", "1,150.50", "0.10", "0.125", "yes", "", "a b\nc", "inf")
    ]
