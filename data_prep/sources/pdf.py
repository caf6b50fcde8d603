"""PDF files, and pictures, beside a `.txt` of their text or a `.json` of their fields.

A text with as many parts (divided by form feeds) as the file has pages gives one item per page, as
does a JSON list of as many objects. Otherwise one item shows all pages.
"""

from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING

from PIL import Image

from data_prep.dataset.archive import Tree
from data_prep.dataset.pictures import MAX_PIXELS, PictureError
from data_prep.dataset.schema import Item, Picture, Reject, clean_text, dump_json, parse_json
from data_prep.sources import IMAGES, slug, stem

if TYPE_CHECKING:
    from pypdfium2 import PdfDocument

EXAMPLE = "invoices/ --task fields --dpi 150 --out data/invoices"
TASKS = ("text", "fields")
OPTIONS = {"dpi": 150, "language": "und"}


def rows(path: str, options: SimpleNamespace) -> Iterator[Item | Reject]:
    """One item per page or file."""
    tree = Tree(path, options)
    ending = ".json" if options.task == "fields" else ".txt"
    for name in tree.files("*.pdf", *IMAGES):
        label = stem(name) + ending
        is_pdf = name.lower().endswith(".pdf")
        if label not in tree and not is_pdf:
            continue  # such as a logo among the documents
        if label not in tree:
            yield Reject(name, "missing annotation", f"no {label} beside it")
            continue
        load = tree.loader(name)
        try:
            count = count_pages(load) if is_pdf else 1
            texts = read_texts(tree, label, count, options.task)
        except PictureError as error:
            yield Reject(name, error.reason, error.detail)
            continue
        except ValueError as error:
            yield Reject(label, "malformed JSON", str(error))
            continue
        pages = [
            Picture(partial(render_page, load, index, options.dpi) if is_pdf else load)
            for index in range(count)
        ]
        shown = [[page] for page in pages] if len(texts) == count else [pages]
        for index, (text, pictures) in enumerate(zip(texts, shown)):
            yield Item(
                key=slug(stem(name)) + (f"-p{index + 1:03d}" if len(texts) > 1 else ""),
                where=f"{name} page {index + 1}" if len(texts) > 1 else name,
                text=text,
                pictures=pictures,
                group=stem(name),
                language=options.language,
                task="extraction" if options.task == "fields" else "transcription",
                split=tree.split(name),
            )


def read_texts(tree: Tree, label: str, pages: int, task: str) -> list[str]:
    """The text of every page, or one text of them all; ValueError if a .json is no JSON."""
    data = tree.read_text(label)
    if task == "fields":
        value = parse_json(data)
        if isinstance(value, list) and len(value) == pages > 1:
            return [dump_json(page) for page in value]
        return [dump_json(value) if value else ""]
    text = data.decode("utf-8", "surrogateescape").removesuffix("\f")
    parts = text.split("\f")
    return parts if len(parts) == pages else [clean_text(text.replace("\f", "\n"))]


def count_pages(load: partial) -> int:
    """The pages of a PDF; PictureError if it is none."""
    document = open_document(load)
    try:
        if not len(document):
            raise PictureError("unreadable image", "the PDF has no page")
        return len(document)
    finally:
        document.close()


def open_document(load: partial) -> "PdfDocument":
    """A pypdfium2 document; PictureError if the file is missing or no PDF."""
    import pypdfium2

    try:
        return pypdfium2.PdfDocument(load())
    except FileNotFoundError as error:
        raise PictureError("missing image", str(error.filename)) from None
    except pypdfium2.PdfiumError as error:
        raise PictureError("unreadable image", f"PDF: {error}") from None


def render_page(load: partial, index: int, dpi: int) -> Image.Image:
    """One page as a picture; PictureError where it is broken or would be too large."""
    document = open_document(load)
    try:
        page = document[index]
        width, height = (side * dpi / 72 for side in page.get_size())
        if not 1 <= width * height <= MAX_PIXELS:
            raise PictureError("image too large", f"{width:.0f}x{height:.0f} pixels")
        return page.render(scale=dpi / 72).to_pil().convert("RGB")
    except PictureError:
        raise
    except Exception as error:  # pypdfium2 and Pillow raise errors of several types
        raise PictureError("unreadable image", f"PDF page {index + 1}: {error}"[:200]) from None
    finally:
        document.close()
