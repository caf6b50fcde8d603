"""Files of read pages: text, hOCR, ALTO and searchable PDF, of what `LineReader` predicted."""

import ctypes
import io
import json
import math
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from tqdm.auto import tqdm

from data_prep.dataset.manifest import write_folder
from data_prep.dataset.pictures import plain
from data_prep.dataset.schema import printable
from ocrkit.models.read_files import PDF_DPI, Picture

if TYPE_CHECKING:
    from pypdfium2 import PdfDocument, PdfPage

_ALTO = "http://www.loc.gov/standards/alto/ns-v4#"


def write_pages(
    pictures: Sequence[Picture],
    predictions: Path,
    formats: Sequence[str],
    overwrite: bool = False,
) -> list[Path]:
    """Write documents from predictions, a file a format and input file, beside the predictions.

    Text has a form feed between pages; hOCR and PDF hold all pages; ALTO is a file a page.

    Args:
        pictures: pages that were read.
        predictions: the .jsonl file with their predictions; documents go into its folder.
        formats: of `ocrkit.models.base.PAGE_FORMATS`.
        overwrite: replace files that the kit did not write, too.

    Returns:
        The files that were written. A page that failed is left out of its document.

    Raises:
        FileExistsError: a file to write was not written by the kit.
    """
    with predictions.open(encoding="utf-8") as file:
        read = {page["id"]: page for page in map(json.loads, file)}
    written = []
    groups = groupby(pictures, key=lambda picture: (picture.path, picture.name))
    documents = [(name, [p for p in group if p.id in read]) for (_, name), group in groups]
    for name, pages in tqdm(documents, desc="documents", delay=2):
        usable = [(p, read[p.id]) for p in pages if read[p.id].get("size", [0])[0]]
        if not usable:
            continue
        contents: dict[str, str | bytes] = {}
        for format in formats:
            contents |= _WRITERS[format](printable(name), usable)
        write_folder(predictions.parent, contents, overwrite)
        written += [predictions.parent / file for file in contents]
    return written


Page = tuple[Picture, Mapping[str, Any]]


def _text(name: str, pages: Sequence[Page]) -> dict[str, str]:
    return {f"{name}.txt": "\f".join(page["prediction"] + "\n" for _, page in pages)}


def _box(line: Mapping[str, Any]) -> tuple[int, int, int, int]:
    xs, ys = zip(*line["corners"])
    return math.floor(min(xs)), math.floor(min(ys)), math.ceil(max(xs)), math.ceil(max(ys))


def _xml_text(text: str) -> str:
    """A text without the control characters that XML cannot hold."""
    return "".join(c for c in text if c in "\t\n" or unicodedata.category(c) not in ("Cc", "Cs"))


# --- hOCR 1.2 (http://kba.github.io/hocr-spec/1.2/)


def _hocr(name: str, pages: Sequence[Page]) -> dict[str, bytes]:
    html = ElementTree.Element("html", xmlns="http://www.w3.org/1999/xhtml")
    head = ElementTree.SubElement(html, "head")
    ElementTree.SubElement(head, "title").text = _xml_text(name)
    ElementTree.SubElement(head, "meta", name="ocr-system", content="ocrkit")
    classes = "ocr_page ocr_line ocrx_word"
    ElementTree.SubElement(head, "meta", name="ocr-capabilities", content=classes)
    body = ElementTree.SubElement(html, "body")
    for number, (picture, page) in enumerate(pages):
        width, height = page["size"]
        quoted = _xml_text(printable(str(picture.path))).replace('"', "%22")
        title = f'image "{quoted}"; bbox 0 0 {width} {height}; ppageno {(picture.page or 1) - 1}'
        attributes = {"class": "ocr_page", "id": f"page_{number + 1}", "title": title}
        shown = ElementTree.SubElement(body, "div", attributes)
        for place, line in enumerate(page["lines"]):
            box = "bbox {} {} {} {}".format(*_box(line))
            id = f"{number + 1}_{place + 1}"
            attributes = {"class": "ocr_line", "id": f"line_{id}", "title": box}
            element = ElementTree.SubElement(shown, "span", attributes)
            # One word a line: where the words of a line stand is not known.
            sure = "" if line["confidence"] is None else f"; x_wconf {line['confidence']:.0%}"[:-1]
            attributes = {"class": "ocrx_word", "id": f"word_{id}", "title": box + sure}
            ElementTree.SubElement(element, "span", attributes).text = _xml_text(line["text"])
    return {f"{name}.hocr": _serialized(html)}


# --- ALTO 4 (https://www.loc.gov/standards/alto/)


def _alto(name: str, pages: Sequence[Page]) -> dict[str, bytes]:
    return {
        f"{name}{f'-{picture.page:04d}' if picture.page else ''}.xml": _alto_page(picture, page)
        for picture, page in pages
    }


def _alto_page(picture: Picture, page: Mapping[str, Any]) -> bytes:
    width, height = map(str, page["size"])
    alto = ElementTree.Element("alto", xmlns=_ALTO)
    description = ElementTree.SubElement(alto, "Description")
    ElementTree.SubElement(description, "MeasurementUnit").text = "pixel"
    source = ElementTree.SubElement(description, "sourceImageInformation")
    file_name = ElementTree.SubElement(source, "fileName")
    file_name.text = _xml_text(printable(picture.path.name))
    layout = ElementTree.SubElement(alto, "Layout")
    number = str(picture.page or 1)
    attributes = {"ID": "page", "PHYSICAL_IMG_NR": number, "WIDTH": width, "HEIGHT": height}
    shown = ElementTree.SubElement(layout, "Page", attributes)
    whole = {"HPOS": "0", "VPOS": "0", "WIDTH": width, "HEIGHT": height}
    space = ElementTree.SubElement(shown, "PrintSpace", whole)
    block = ElementTree.SubElement(space, "TextBlock", {"ID": "block", **whole})
    for place, line in enumerate(page["lines"]):
        left, top, right, bottom = _box(line)
        where = {"HPOS": left, "VPOS": top, "WIDTH": right - left, "HEIGHT": bottom - top}
        box = {key: str(value) for key, value in where.items()}
        element = ElementTree.SubElement(block, "TextLine", {"ID": f"line_{place + 1}", **box})
        shape = ElementTree.SubElement(element, "Shape")
        points = " ".join(f"{x:g},{y:g}" for x, y in line["corners"])
        ElementTree.SubElement(shape, "Polygon", POINTS=points)
        attributes = {"ID": f"string_{place + 1}", "CONTENT": _xml_text(line["text"]), **box}
        if line["confidence"] is not None:
            attributes["WC"] = f"{line['confidence']:.4f}"
        ElementTree.SubElement(element, "String", attributes)
    return _serialized(alto)


def _serialized(root: ElementTree.Element) -> bytes:
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"


# --- searchable PDF


def _pdf(name: str, pages: Sequence[Page]) -> dict[str, bytes]:
    """A PDF with the pages' pictures and their texts, invisible, over them.

    Written by pypdfium2, which reads PDFs anyway: pages of a PDF stay as they are, with their
    drawings and fonts, where other libraries would put a picture in their place. Of characters
    beyond U+FFFF (rare ideographs) pdfium writes none: they are not found by a search.
    """
    import pypdfium2

    texts = [line["text"] for _, page in pages for line in page["lines"]]
    with pypdfium2.PdfDocument.new() as document:
        font = _load_font(document, glyphless_font("".join(map(_pdf_text, texts))))
        for picture, page in pages:
            _add_text(document, _add_page(document, picture, page), font, page)
        file = io.BytesIO()
        document.save(file)
    return {f"{name.removesuffix('.pdf')}.pdf": file.getvalue()}


def _add_page(document: "PdfDocument", picture: Picture, page: Mapping[str, Any]) -> "PdfPage":
    """Append the page of a PDF, or a page with the picture, at `PDF_DPI`."""
    import pypdfium2

    if picture.path.suffix.lower() == ".pdf":
        with pypdfium2.PdfDocument(picture.path) as source:
            document.import_pages(source, [(picture.page or 1) - 1])
        return document[len(document) - 1]
    width, height = (side * 72 / PDF_DPI for side in page["size"])
    added = document.new_page(width, height)
    image = pypdfium2.PdfImage.new(document)
    jpeg = io.BytesIO()
    plain(picture.open().image).save(jpeg, "JPEG", quality=90)
    jpeg.seek(0)
    image.load_jpeg(jpeg, pages=[added], inline=True)
    image.set_matrix(pypdfium2.PdfMatrix().scale(width, height))
    added.insert_obj(image)
    return added


def _pdf_text(text: str) -> str:
    """A text without control characters, spaces for line breaks and tabs."""
    return _xml_text(text).replace("\n", " ").replace("\t", " ")


def _load_font(document: "PdfDocument", data: bytes) -> object:
    import pypdfium2.raw as pdfium

    buffer = (ctypes.c_uint8 * len(data)).from_buffer_copy(data)
    return pdfium.FPDFText_LoadFont(document, buffer, len(data), pdfium.FPDF_FONT_TRUETYPE, True)


def _add_text(
    document: "PdfDocument", added: "PdfPage", font: object, page: Mapping[str, Any]
) -> None:
    """Put each line's text, invisible, over its place."""
    import pypdfium2
    import pypdfium2.raw as pdfium

    scale = added.get_width() / page["size"][0], added.get_height() / page["size"][1]
    for line in page["lines"]:
        text = _pdf_text(line["text"])
        if not text:
            continue
        item = pdfium.FPDFPageObj_CreateTextObj(document, font, 1.0)
        encoded = (text + "\0").encode("utf-16-le")
        wide = ctypes.cast(ctypes.create_string_buffer(encoded), pdfium.FPDF_WIDESTRING)
        pdfium.FPDFText_SetText(item, wide)
        pdfium.FPDFTextObj_SetTextRenderMode(item, pdfium.FPDF_TEXTRENDERMODE_INVISIBLE)
        # From the text's bottom left along its lower edge; PDF counts from the page's bottom.
        corners = [(x * scale[0], added.get_height() - y * scale[1]) for x, y in line["corners"]]
        top, _, end, start = corners
        length, height = math.dist(start, end), max(math.dist(start, top), 0.1)
        cosine, sine = (end[0] - start[0]) / (length or 1), (end[1] - start[1]) / (length or 1)
        wide_by = length / (len(text) * GLYPH_WIDTH)
        matrix = pypdfium2.PdfMatrix(
            wide_by * cosine, wide_by * sine, -height * sine, height * cosine, *start
        )
        pdfium.FPDFPageObj_TransformF(item, matrix.to_raw())
        pdfium.FPDFPage_InsertObject(added, item)
    added.gen_content()


GLYPH_WIDTH = 0.5  # of an em, of every glyph of `glyphless_font`


def glyphless_font(text: str) -> bytes:
    """A TrueType font with an empty glyph for every character of the text.

    Invisible text needs no shapes, only codes that programs can turn back into characters; a real
    font for every script would have to be found and embedded. Each character has a glyph of its
    own, by which PDF tells it from others.
    """
    from fontTools.fontBuilder import FontBuilder
    from fontTools.ttLib.tables._g_l_y_f import Glyph

    codes = sorted({ord(character) for character in text} | {32})
    names = {code: f"u{code:04X}" for code in codes}
    order = [".notdef", *names.values()]
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder(order)
    font.setupCharacterMap(names)
    font.setupGlyf({name: Glyph() for name in order})
    font.setupHorizontalMetrics(dict.fromkeys(order, (int(1000 * GLYPH_WIDTH), 0)))
    font.setupHorizontalHeader(ascent=1000, descent=0)
    font.setupNameTable({"familyName": "Glyphless", "styleName": "Regular"})
    font.setupOS2(sTypoAscender=1000, sTypoDescender=0, usWinAscent=1000, usWinDescent=0)
    font.setupPost()
    file = io.BytesIO()
    font.save(file)
    return file.getvalue()


_WRITERS = {"text": _text, "hocr": _hocr, "alto": _alto, "pdf": _pdf}
