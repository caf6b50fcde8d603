import re

from data_prep.synthetic.invoices.draw import make_setup, plan_document
from data_prep.synthetic.invoices.layouts import LAYOUTS
from data_prep.synthetic.invoices.parts import table_cells, table_html
from ocrkit.metrics import teds
from tests.helpers.invoices import documents


def test_amounts_are_right_aligned():
    for document, page in documents(40):
        if document.kind == "receipt":
            continue
        _, rows, numeric = table_cells(document, "any")
        ends = {id(text.of): text.at[0] + text.font.getlength(text.text) for text in page.texts}
        for column, is_number in enumerate(numeric):
            edges = [ends[id(row[column])] for row in rows if row[column]]
            if is_number and edges:
                assert max(edges) - min(edges) <= 1.5


def test_the_table_as_html():
    for layout in LAYOUTS:
        document, _ = next(documents(1, ["en"], [layout]))
        html = table_html(document, layout)
        assert teds(html, html) == 1.0
        header, rows, _ = table_cells(document, layout)
        assert html.count("<tr>") == len(rows) + bool(header)
        for row in rows:
            assert all(cell.replace("&", "&amp;") in html for cell in row)


def test_html_table_has_plain_spaces_for_no_break_spaces():
    setup = make_setup(["fr"], ["invoice-grid"], "clean", 1000)
    seen = [table_html(plan_document(5, index, setup)[0], "invoice-grid") for index in range(8)]
    assert any(re.search(r"<td>\d+ \d{3},\d\d<", html) for html in seen)
    assert not any("\u00a0" in html for html in seen)
