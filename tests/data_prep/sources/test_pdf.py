import json

import pytest

from tests.helpers.sources_common import draw, pictures, reasons, run, texts
from tests.tools.fuzz import assert_survives, json_mutations


def write_pdf(path, pages: int, size=(144, 72), resolution=72):
    path.parent.mkdir(parents=True, exist_ok=True)
    sheets = [draw(size, mark=20 * index) for index in range(pages)]
    sheets[0].save(path, "PDF", save_all=True, append_images=sheets[1:], resolution=resolution)


def test_pdf_pages_and_files(tmp_path):
    source = tmp_path / "in"
    for name, pages in (("one", 1), ("two", 2), ("whole", 3), ("lost", 1)):
        write_pdf(source / f"{name}.pdf", pages)
    (source / "one.txt").write_text("single\n")
    (source / "two.txt").write_text("first\fsecond\f")
    (source / "whole.txt").write_text("all of it")
    (source / "broken.pdf").write_bytes(b"%PDF-1.4 broken")
    (source / "broken.txt").write_text("x")
    out = tmp_path / "out"
    _, rows, rejects = run("pdf", source, out, dpi=144, split="1,0,0")
    assert texts(rows) == ["single", "first", "second", "all of it"]
    assert [len(row.images_file_names) for row in rows] == [1, 1, 1, 3]
    assert (rows[0].width, rows[0].height) == (288, 144)
    assert reasons(rejects) == ["unreadable image", "missing annotation"]
    dark = [
        image.convert("L").resize((144, 72)).getpixel((24, 36)) for image in pictures(out, rows[3])
    ]
    assert dark[0] > 200 and dark[1] < 60 and dark[2] > 200


def test_pdf_fields_are_read_from_json_files(tmp_path):
    source = tmp_path / "in"
    write_pdf(source / "a.pdf", 2)
    write_pdf(source / "b.pdf", 2)
    write_pdf(source / "huge.pdf", 1, resolution=0.5)
    (source / "a.json").write_text('{"total": 5}')
    (source / "b.json").write_text('[{"page": 1}, {"page": 2}]')
    (source / "huge.json").write_text('{"total": 5}')
    _, rows, rejects = run("pdf", source, tmp_path / "out", task="fields", split="1,0,0")
    assert texts(rows) == ['{"total": 5}', '{"page": 1}', '{"page": 2}']
    assert [len(row.images_file_names) for row in rows] == [2, 1, 1]
    assert reasons(rejects) == ["image too large"]


@pytest.mark.parametrize("count", [100, pytest.param(2_000, marks=pytest.mark.slow)])
def test_mutated_pdf_gives_only_rows_and_rejects(tmp_path, count):
    (tmp_path / "in").mkdir()
    draw((60, 40)).save(tmp_path / "in" / "a.pdf")
    damaged = json_mutations(json.dumps([{"total": "9.00", "items": [{"n": 1}]}]), count)
    assert assert_survives("pdf", damaged, tmp_path, "a.json", task="fields")
