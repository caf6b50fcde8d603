"""Synthetic documents: sums that add up, pages without a flaw, the same bytes for the same seed."""

import json

import jsonschema
import pytest
from PIL import Image

from data_prep.dataset.schema import UsageError
from data_prep.synthesize import main
from data_prep.synthetic.invoices.layouts import LAYOUTS
from data_prep.synthetic.invoices.locale import truth
from data_prep.synthetic.invoices.make import SCHEMA, invoices
from data_prep.validate import validate
from ocrkit.metrics import field_accuracy, nted, numeric_accuracy, schema_pass_rate, teds
from tests.helpers.invoices import HERE, documents
from tests.helpers.sources_common import read_rows, snapshot, texts


@pytest.fixture(scope="module")
def forty(tmp_path_factory):
    out = tmp_path_factory.mktemp("invoices") / "forty"
    invoices(out, 40, 3, progress=False)
    return out


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


def test_invoice_schema_rejects_wrong_values():
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
    files = {name: data for name, data in snapshot(forty).items() if name not in checked}
    assert snapshot(tmp_path / "two") == files
    invoices(tmp_path / "few", 12, 3, progress=False)
    more = {row.id: row for row in read_rows(forty)}
    for row in read_rows(tmp_path / "few"):
        assert row.completion == more[row.id].completion and row.meta == more[row.id].meta
    other = invoices(tmp_path / "other", 12, 4, progress=False)
    assert other["found"] == 12
    assert texts(read_rows(tmp_path / "other")) != texts(read_rows(tmp_path / "few"))


def test_invoice_tables_task_gives_valid_html_tables(tmp_path):
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
    summary = convert(
        "pdf", tmp_path / "out" / "pdf", tmp_path / "back", task="fields", progress=False
    )
    assert sum(summary["rows"].values()) == 3
    back = {json.dumps(json.loads(text)) for text in texts(read_rows(tmp_path / "back"))}
    assert back == {json.dumps(json.loads(text)) for text in texts(read_rows(tmp_path / "out"))}
    width = {row.width for row in read_rows(tmp_path / "back")}
    assert max(width) == pytest.approx(210 / 25.4 * 150, abs=2)


def command(*words):
    return main(["invoices", *words])


def test_invoices_command_writes_a_dataset(tmp_path, capsys):
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
        (("--count", "0"), "--count is 0, but takes 1 or more."),
        (("--split", "source"), "--split is 'source', but drawn data has no splits"),
        (("--split", "a,b"), "--split"),
    ):
        assert command("--out", str(tmp_path / "never"), *wrong) == 2
        assert message in capsys.readouterr().err
    assert command() == 2 and "No output: name --out DIR" in capsys.readouterr().err
    assert not (tmp_path / "never").exists()
    with pytest.raises(UsageError):
        invoices(tmp_path / "never", task="poem")
