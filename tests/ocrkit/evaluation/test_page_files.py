"""Documents of read pages: text, hOCR, ALTO and searchable PDF, read back by other programs."""

import json
from xml.etree import ElementTree

import pypdfium2
import pytest
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw

from data_prep.convert import convert
from ocrkit.__main__ import main
from ocrkit.evaluation.page_files import glyphless_font, write_pages
from ocrkit.models.read_files import list_pictures

TEXTS = ["TOTAL 9.00 <&>", "আমার সোনার বাংলা", "서울특별시 강남구", "今天天气很好，𠮷", "a\x0bb\x00c"]
CLEAN = [*TEXTS[:4], "abc"]
NAMESPACE = {"a": "http://www.loc.gov/standards/alto/ns-v4#", "h": "http://www.w3.org/1999/xhtml"}


def page(id, texts=TEXTS):
    lines = [
        {
            "corners": [[20, 40 * n], [320, 40 * n], [320, 40 * n + 30], [20, 40 * n + 30]],
            "text": text,
            "confidence": None if n == 1 else 0.875,
            "error": None,
        }
        for n, text in enumerate(texts)
    ]
    return {"id": id, "prediction": "\n".join(texts), "size": [400, 300], "lines": lines}


@pytest.fixture
def read(tmp_path):
    """A picture and a PDF of two pages with a drawing, and the file of their predictions."""
    scans, out = tmp_path / "scans", tmp_path / "out"
    scans.mkdir()
    out.mkdir()
    picture = Image.new("RGB", (400, 300), "white")
    ImageDraw.Draw(picture).rectangle((0, 0, 50, 50), fill="black")
    picture.save(scans / "a.png")
    picture.save(scans / "b.pdf", save_all=True, append_images=[picture], resolution=200)
    pictures = list_pictures([str(scans)])
    pages = [page(listed.id) for listed in pictures]
    (out / "predictions.jsonl").write_text("".join(json.dumps(p) + "\n" for p in pages))
    return pictures, out


def written(read, *formats):
    pictures, out = read
    return {p.name for p in write_pages(pictures, out / "predictions.jsonl", formats)}


def test_text_has_a_form_feed_between_pages(read):
    assert written(read, "text") == {"a.png.txt", "b.pdf.txt"}
    first, second = (read[1] / "b.pdf.txt").read_text().split("\f")
    assert first == second == "\n".join(TEXTS) + "\n"


def test_hocr_holds_places_texts_and_confidences(read):
    assert written(read, "hocr") == {"a.png.hocr", "b.pdf.hocr"}
    root = ElementTree.parse(read[1] / "b.pdf.hocr").getroot()
    pages = root.findall("h:body/h:div", NAMESPACE)
    assert len(pages) == 2 and "bbox 0 0 400 300; ppageno 1" in pages[1].get("title")
    words = pages[0].findall("h:span/h:span", NAMESPACE)
    assert [word.text for word in words] == CLEAN
    assert words[0].get("title") == "bbox 20 0 320 30; x_wconf 88"
    assert words[1].get("title") == "bbox 20 40 320 70"


def test_alto_is_read_by_convert(read, tmp_path):
    assert written(read, "alto") == {"a.png.xml", "b.pdf-0001.xml", "b.pdf-0002.xml"}
    (tmp_path / "alto").mkdir()
    (read[1] / "a.png.xml").rename(tmp_path / "alto" / "a.xml")
    (tmp_path / "scans" / "a.png").rename(tmp_path / "alto" / "a.png")
    convert("page-xml", tmp_path / "alto", tmp_path / "data", split="1,0,0")
    rows = (tmp_path / "data/train/metadata.jsonl").read_text().splitlines()
    texts = {json.loads(row)["completion"][0]["content"] for row in rows}
    assert {CLEAN[0], CLEAN[1], CLEAN[2], CLEAN[4]} <= texts
    root = ElementTree.parse(read[1] / "b.pdf-0002.xml").getroot()
    strings = root.findall(".//a:String", NAMESPACE)
    assert [string.get("WC") for string in strings] == ["0.8750", None] + ["0.8750"] * 3


def test_pdf_is_searchable_in_every_script_and_looks_as_before(read):
    assert written(read, "pdf") == {"a.png.pdf", "b.pdf"}
    for name, count in (("a.png.pdf", 1), ("b.pdf", 2)):
        with pypdfium2.PdfDocument(read[1] / name) as document:
            assert len(document) == count
            for sheet in document:
                assert sheet.get_size() == pytest.approx((144, 108), abs=1)
                words = sheet.get_textpage()
                # Pdfium leaves out characters beyond U+FFFF.
                searchable = [text.replace("𠮷", "") for text in CLEAN]
                assert words.get_text_range().split("\r\n") == searchable
                # A search lands where the text stands: the second line, 40 to 70 pixels from above.
                box = words.get_charbox(len(CLEAN[0]) + 2, loose=True)
                assert 108 - 72 * 0.36 <= box[1] < box[3] <= 108 - 38 * 0.36
                shown = sheet.render(scale=200 / 72).to_pil().convert("L")
                assert shown.getpixel((10, 10)) < 20 and shown.getpixel((200, 100)) > 240


def test_foreign_page_files_are_kept(read):
    (read[1] / "a.png.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="was not written by ocrkit"):
        written(read, "text")
    assert (read[1] / "a.png.txt").read_text() == "mine"


def test_glyphless_font_maps_every_character_to_a_glyph_of_its_own(tmp_path):
    (tmp_path / "font.ttf").write_bytes(glyphless_font("".join(CLEAN)))
    cmap = TTFont(tmp_path / "font.ttf").getBestCmap()
    assert set(cmap) == {ord(c) for c in "".join(CLEAN)} | {32}
    assert len(set(cmap.values())) == len(cmap)


def test_predict_lines_writes_documents_and_resumes(read, tmp_path, monkeypatch, capsys):
    from ocrkit.evaluation import page_lines
    from tests.ocrkit.evaluation.test_page_lines import Lengths, quad

    monkeypatch.setattr(page_lines, "detect_lines", lambda picture: [quad(0, 0, 150)])
    monkeypatch.setattr("ocrkit.models.load.load_model", lambda config: ())
    monkeypatch.setattr("ocrkit.models.read.Reader", lambda *_: Lengths())
    out = tmp_path / "book"
    command = ["predict", str(tmp_path / "scans"), "--lines", "--out", str(out)]
    assert main([*command, "--format", "text", "pdf"]) == 0
    assert "3 read, 0 failed" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir() if path.name[0] != ".") == [
        *("a.png.pdf", "a.png.txt", "b.pdf", "b.pdf.txt", "predictions.jsonl")
    ]
    assert main(command) == 0
    assert "0 read, 0 failed, 3 were there already" in capsys.readouterr().out
    assert main(command[:3]) == 0
    assert "a.png\t150" in capsys.readouterr().out
    for options in (["--format", "pdf"], ["--lines", "--format", "pdf", "--out", "x.jsonl"]):
        assert main([*command[:2], *options]) == 2
        assert "--format" in capsys.readouterr().err
