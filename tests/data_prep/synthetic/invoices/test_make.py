"""Synthetic documents: sums that add up, pages without a flaw, the same bytes for the same seed."""

import json
import random
import re
import time
from datetime import date, datetime
from decimal import Decimal

import jsonschema
import pytest
from PIL import Image

from data_prep.dataset.arithmetic import invoice_problems
from data_prep.dataset.schema import DataError, UsageError
from data_prep.synthesize import main
from data_prep.synthetic.fonts import undrawn
from data_prep.synthetic.invoices import draw
from data_prep.synthetic.invoices.draw import make_setup, missing_fonts, page_of, plan_document
from data_prep.synthetic.invoices.layouts import LAYOUTS
from data_prep.synthetic.invoices.locale import LOCALES, Writer, leaves, rounded, truth
from data_prep.synthetic.invoices.make import SCHEMA, invoices
from data_prep.synthetic.invoices.parts import table_cells, table_html
from data_prep.synthetic.invoices.words import LABELS, LANGUAGES, WORDS
from data_prep.validate import validate
from ocrkit.metrics import field_accuracy, nted, numeric_accuracy, schema_pass_rate, teds
from ocrkit.metrics.text import ascii_digits, parse_amount
from tests.helpers.sources_common import read_rows, snapshot, texts

HERE = [language for language in LANGUAGES if not missing_fonts(language)]
LATIN = ["en", "de", "fr", "es"]


def documents(count, languages=None, layouts=None, seed=5):
    """(document, page) of the first documents of a seed."""
    setup = make_setup(languages, layouts, "clean", 1000)
    for index in range(count):
        yield page_of(seed, index, setup)


def contents(count, seed=5):
    """Documents that nobody lays out."""
    setup = make_setup(None, None, "clean", 1000)
    for index in range(count):
        yield plan_document(seed, index, setup)[0]


def squeezed(text):
    return "".join(text.split()).casefold()


@pytest.fixture(scope="module")
def forty(tmp_path_factory):
    out = tmp_path_factory.mktemp("invoices") / "forty"
    invoices(out, 40, 3, progress=False)
    return out


# --- what the documents say


def test_latin_needs_no_installed_font(monkeypatch):
    monkeypatch.setattr(draw, "installed_fonts", dict)
    draw.faces.cache_clear()
    try:
        assert set(LATIN) <= {one for one in LANGUAGES if not missing_fonts(one)}
        assert "fonts-noto-cjk" in missing_fonts("ko") and "Korean" in missing_fonts("ko")
        with pytest.raises(DataError, match=r"No font for documents in Bangla.*fonts-noto-core"):
            make_setup(["en", "bn"], None, "clean", 1000)
        names = make_setup(None, None, "clean", 1000).locales
        assert {LOCALES[name].language for name in names} == set(LATIN)
    finally:
        draw.faces.cache_clear()


def test_every_language_says_everything():
    for language in LANGUAGES:
        assert LABELS[language].keys() == LABELS["en"].keys()
        assert WORDS[language].keys() == WORDS["en"].keys()
        assert all(LABELS[language].values())
        assert all(all(words) for words in WORDS[language].values())


def test_all_sums_add_up_exactly():
    """Recomputed here from the lines alone, not by the code under test or by validate's."""
    kinds = set()
    for document in contents(300):
        value = truth(document.content)
        kinds.add(value["document_type"])
        unit = Decimal(1).scaleb(-document.locale.places)
        if value["document_type"] == "bank_statement":
            balance = Decimal(value["opening_balance"])
            for one in value["transactions"]:
                balance += Decimal(one.get("credit", 0)) - Decimal(one.get("debit", 0))
                assert Decimal(one["balance"]) == balance >= 0
            assert Decimal(value["closing_balance"]) == balance
            continue
        lines = value["line_items"]
        if value["document_type"] == "delivery_note":
            assert sum(Decimal(one["qty"]) for one in lines) == Decimal(value["total_qty"])
            continue
        summary = {k: v for k, v in value["financial_summary"].items() if isinstance(v, str)}
        summary = {key: Decimal(one) for key, one in summary.items()}
        bases = {}
        for one in lines:
            exact = Decimal(one["qty"]) * Decimal(one["unit_price"])
            exact -= exact * Decimal(one.get("discount_rate", 0)) / 100
            total = Decimal(one["line_total"])
            assert abs(total - exact) * 2 <= unit and total == total.quantize(unit)
            rate = one.get("tax_rate", "one")
            bases[rate] = bases.get(rate, 0) + total
        subtotal = sum(bases.values())
        assert summary.get("subtotal", subtotal) == subtotal
        less = summary.get("discount", Decimal(0))
        assert abs(less - subtotal * summary.get("discount_rate", 0) / 100) * 2 <= unit
        taxes = value["financial_summary"].get("taxes", ())
        whole = sum(Decimal(one["amount"]) for one in taxes) or summary["tax_amount"]
        assert whole == summary["tax_amount"]
        if "tax_included" in value["financial_summary"]:
            assert summary["grand_total"] == subtotal
            net = sum(Decimal(one["base"]) for one in taxes) or summary["tax_base"]
            assert net + whole == subtotal
        else:
            added = summary.get("shipping", 0) + whole
            assert summary["grand_total"] == subtotal - less + added
            for one in taxes:
                assert Decimal(one["base"]) == bases[one["rate"]]
                exact = bases[one["rate"]] * Decimal(one["rate"]) / 100
                assert abs(Decimal(one["amount"]) - exact) * 2 <= unit
            if not taxes:
                exact = (subtotal - less) * summary["tax_rate"] / 100
                assert abs(whole - exact) * 2 <= unit
        assert invoice_problems(value) == []
    assert kinds == {kind for _, kind in LAYOUTS.values()}


@pytest.mark.parametrize("name", LOCALES)
def test_amounts_and_dates_read_back_in_their_locale(name):
    locale = LOCALES[name]
    known = {"en-US": "en", "en-IE": "en-gb", "en-JP": "en-gb"}.get(name, name)
    for seed in range(30):
        rng = random.Random(seed)
        writer = Writer(locale, rng, rng.choice((locale.sign, locale.currency)))
        amount = rounded(Decimal(rng.randrange(-(10**9), 10**9)) / 100, locale.places)
        shown = writer.money(amount)
        assert parse_amount(shown, known) == amount == Decimal(shown.value), shown
        assert parse_amount(shown.value, "en") == amount
        day = date(2024, rng.randint(1, 12), rng.randint(1, 28))
        assert datetime.strptime(ascii_digits(writer.date(day)), writer.date_format).date() == day


def test_grouping_is_each_countrys_own():
    shown = {
        name: Writer(LOCALES[name], random.Random(0), "").money(Decimal("1234567.50"), signed=False)
        for name in ("en-US", "de-DE", "fr-FR", "de-CH", "en-IN", "bn-BD")
    }
    for name, text in shown.items():
        shown[name] = text.replace("\u00a0", " ").strip(" ")
    assert shown == {
        "en-US": "1,234,567.50",
        "de-DE": "1.234.567,50",
        "fr-FR": "1 234 567,50",
        "de-CH": "1'234'567.50",
        "en-IN": "12,34,567.50",
        "bn-BD": "১২,৩৪,৫৬৭.৫০",
    }


# --- what the pages show


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
        for index, one in enumerate(boxes):
            for other, box in enumerate(boxes[:index]):
                apart = one[0] >= box[2] or one[2] <= box[0] or one[1] >= box[3] or one[3] <= box[1]
                assert apart, f"{place}: {page.texts[index].text!r} on {page.texts[other].text!r}"


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


def test_no_glyph_is_missing():
    for document, page in documents(50):
        for text in page.texts:
            shown = "".join(sorted(set(text.text)))
            assert not any(undrawn(path, shown) for path in page.face), (
                document.locale.name,
                shown,
            )


def test_long_descriptions_are_wrapped():
    lines = [
        [text for text in page.texts if text.of is line["desc"]]
        for document, page in documents(60, LATIN)
        for line in document.content.get("line_items", ())
    ]
    assert sum(len(pieces) > 1 for pieces in lines) > 10


def test_the_table_as_html():
    for layout in LAYOUTS:
        document, _ = next(documents(1, ["en"], [layout]))
        html = table_html(document, layout)
        assert teds(html, html) == 1.0
        header, rows, _ = table_cells(document, layout)
        assert html.count("<tr>") == len(rows) + bool(header)
        for row in rows:
            assert all(cell.replace("&", "&amp;") in html for cell in row)


def test_hard_spaces_are_plain_in_tables():
    setup = make_setup(["fr"], ["invoice-grid"], "clean", 1000)
    seen = [table_html(plan_document(5, index, setup)[0], "invoice-grid") for index in range(8)]
    assert any(re.search(r"<td>\d+ \d{3},\d\d<", html) for html in seen)
    assert not any("\u00a0" in html for html in seen)


def test_pages_differ_in_looks_by_layout():
    sizes = {}
    for layout in LAYOUTS:
        _, page = next(documents(1, ["en"], [layout]))
        image = page.draw()
        sizes[layout] = image.size
        assert image.convert("L").getextrema() == (0, 255) or image.mode == "RGB"
    assert sizes["receipt"][0] < 600 and sizes["quotation"] == (1000, 1414)


# --- the dataset


def test_a_dataset_is_valid_by_the_published_schema(forty):
    result = validate(forty, schema=SCHEMA, plot=False)
    assert result["ok"] and "arithmetic" not in result["warnings"], result["examples"]
    rows = read_rows(forty)
    assert len(rows) == 40 and {row.task for row in rows} == {"extraction"}
    assert {json.loads(row.meta)["layout"] for row in rows} == set(LAYOUTS)
    assert {json.loads(row.meta)["damage"] for row in rows} == {"clean", "scan", "photo"}
    assert {row.language for row in rows} == set(HERE)
    values = [json.loads(text) for text in texts(rows)]
    assert field_accuracy(values, values) == nted(values, values) == 1.0
    assert numeric_accuracy(values, values) == 1.0
    assert schema_pass_rate(texts(rows), json.loads(SCHEMA.read_text())) == 1.0
    assert all(json.loads(row.meta)["table"].startswith("<table>") for row in rows)


def test_the_schema_refuses_what_is_wrong():
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    checker = jsonschema.Draft202012Validator(schema)
    document, _ = next(documents(1, ["de"], ["invoice-grid"]))
    value = truth(document.content)
    assert checker.is_valid(value)
    for change in (
        {"date": "21.03.2024"},
        {"currency": "€"},
        {"document_type": "letter"},
        {"line_items": []},
        {"more": "1"},
        {"financial_summary": {**value["financial_summary"], "grand_total": "1.234,50"}},
        {"line_items": [{"desc": "x", "qty": 1}]},
    ):
        assert not checker.is_valid(value | change), change
    assert not checker.is_valid({k: v for k, v in value.items() if k != "vendor"})


@pytest.mark.slow
def test_a_thousand_documents_are_valid(tmp_path):
    invoices(tmp_path / "out", 1000, 11, workers=2, progress=False)
    result = validate(tmp_path / "out", schema=SCHEMA, plot=False, workers=2)
    assert result["ok"] and not result["errors"] and "arithmetic" not in result["warnings"]
    assert sum(result["rows"].values()) == 1000


def test_the_same_bytes_with_two_workers_and_another_count(forty, tmp_path):
    invoices(tmp_path / "two", 40, 3, workers=2, progress=False)
    checked = ("validation.json", ".ocrkit.jsonl")  # of a test that validated it
    one = {name: data for name, data in snapshot(forty).items() if name not in checked}
    assert snapshot(tmp_path / "two") == one
    invoices(tmp_path / "few", 12, 3, progress=False)
    more = {row.id: row for row in read_rows(forty)}
    for row in read_rows(tmp_path / "few"):
        assert row.completion == more[row.id].completion and row.meta == more[row.id].meta
    other = invoices(tmp_path / "other", 12, 4, progress=False)
    assert other["found"] == 12
    assert texts(read_rows(tmp_path / "other")) != texts(read_rows(tmp_path / "few"))


def test_tables(tmp_path):
    invoices(tmp_path / "out", 10, 1, task="tables", damage="clean", progress=False)
    rows = read_rows(tmp_path / "out")
    assert {row.task for row in rows} == {"transcription"}
    assert all(teds(text, text) == 1.0 for text in texts(rows))
    assert validate(tmp_path / "out", schema=SCHEMA, plot=False)["ok"]


def test_pdfs_hold_the_page_and_are_read_by_convert(tmp_path):
    from data_prep.convert import convert

    options = {"languages": ["en"], "damage": "clean", "width": 700, "progress": False}
    invoices(tmp_path / "out", 3, 2, pdf=True, **options)
    before = snapshot(tmp_path / "out" / "pdf")
    assert len(before) == 6
    # A lost file is made again, byte by byte.
    (tmp_path / "out" / "pdf" / "synthetic-invoices-000001.pdf").unlink()
    invoices(tmp_path / "out", 3, 2, pdf=True, **options)
    assert snapshot(tmp_path / "out" / "pdf") == before
    found = convert(
        "pdf", tmp_path / "out" / "pdf", tmp_path / "back", task="fields", progress=False
    )
    assert sum(found["rows"].values()) == 3
    back = {json.dumps(json.loads(text)) for text in texts(read_rows(tmp_path / "back"))}
    assert back == {json.dumps(json.loads(text)) for text in texts(read_rows(tmp_path / "out"))}
    width = {row.width for row in read_rows(tmp_path / "back")}
    assert max(width) == pytest.approx(210 / 25.4 * 150, abs=2)


def command(*words):
    return main(["invoices", *words])


def test_the_command(tmp_path, capsys):
    out, sheet = tmp_path / "out", tmp_path / "sheet.png"
    small = ("--damage", "clean", "--languages", "en,de", "--layouts", "receipt,quotation")
    words = ("--out", str(out), "--count", "4", "--workers", "1", "--sheet", str(sheet), *small)
    assert command(*words) == 0
    assert "4 documents" in capsys.readouterr().out
    assert len(read_rows(out)) == 4
    with Image.open(sheet) as image:
        assert image.width > 1000
    assert command("--out", str(out), "--count", "5", "--workers", "1", *small) == 1
    assert "already holds" in capsys.readouterr().err
    for wrong, message in (
        (("--languages", "xx"), "--languages is 'xx', but takes one of en, de"),
        (("--layouts", "poem"), "--layouts is 'poem', but takes one of invoice-classic"),
        (("--width", "30"), "--width is 30, but takes 600 to 3000 pixels."),
        (("--count", "0"), "--count is 0, but takes a count of 1 or more."),
        (("--split", "source"), "--split is 'source', but takes shares"),
        (("--split", "a,b"), "--split"),
    ):
        assert command("--out", str(tmp_path / "never"), *wrong) == 2
        assert message in capsys.readouterr().err
    assert command() == 2 and "No output: name --out DIR" in capsys.readouterr().err
    assert not (tmp_path / "never").exists()
    with pytest.raises(UsageError):
        invoices(tmp_path / "never", task="poem")


@pytest.mark.slow
def test_drawing_is_fast():
    """Ten documents a second of processor time and more on a quiet machine; half on a busy one."""
    setup = make_setup(None, None, "mixed", 1000)
    draw.draw_document(0, 0, setup)
    start = time.process_time()
    for index in range(60):
        draw.draw_document(1, index, setup)
    assert 60 / (time.process_time() - start) > 5
