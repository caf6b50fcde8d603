"""FinScribe invoices (JSONL of OCR text and JSON): text or fields drawn as a page, or a picture.

Records have `instruction`, `input` and `output`, or `prompt` and `completion`. They carry text, not
pictures: unless one names `image` or `images`, its text is drawn in a plain fixed-width font, or
with `--render fields` the output's fields as a form (`data_prep.synthetic.form`), whatever the
text was.
"""

import functools
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace

from PIL import Image, ImageDraw, ImageFont

from data_prep.dataset.archive import Tree, picture_tree
from data_prep.dataset.pictures import PictureError
from data_prep.dataset.schema import (
    Item,
    Picture,
    Reject,
    UsageError,
    dump_json,
    is_unicode,
    parse_json,
)
from data_prep.sources import folder_of, slug, stem
from data_prep.sources._chat import image_loader

EXAMPLE = "finscribe/train.jsonl --out data/finscribe"
TASKS = ("fields",)
OPTIONS = {"images": None, "render": "text"}
RENDERS = ("text", "fields")
PROMPT = "Extract the fields of this invoice as JSON."
TEXT_KEYS = ("ocr_text", "text", "raw_text", "ocr", "content", "document")
MARGIN, LINE_HEIGHT, FONT_SIZE = 24, 22, 16
MAX_LINES, MAX_COLUMNS = 400, 200


def rows(path: str, options: SimpleNamespace) -> Iterator[Item | Reject]:
    """One item per record; an output of ERROR, and a text too long for a page, are rejects."""
    if options.render not in RENDERS:
        raise UsageError(f"--render is {options.render!r}, but takes one of text, fields.")
    tree = Tree(path, options)
    images = picture_tree(tree, options)
    files = list(tree.files("*.jsonl"))
    for name in files:
        key = "" if len(files) == 1 else slug(stem(name)) + "-"
        for number, line in tree.lines(name):
            folder, where = folder_of(name) if images is tree else "", f"{name}:{number}"
            item = read_record(line, images, folder, where, options.render)
            if isinstance(item, Item):
                item.key, item.group = f"{key}{number:06d}", where
                item.split = tree.label_split(name)
            yield item


def read_record(
    line: str, images: Tree, folder: str, where: str, render: str = "text"
) -> Item | Reject:
    """A record as an item; `render` names what is drawn of a record without a picture."""
    try:
        record = parse_json(line)
        output = record["output"] if "output" in record else record["completion"]
        text = record["input"] if "input" in record else record["prompt"]
        reference = record.get("images") or record.get("image")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return Reject(where, "malformed line", f"{type(error).__name__}: {error}")
    if isinstance(output, str) and output.strip().upper() == "ERROR":
        return Reject(where, "output is ERROR")
    try:
        fields = parse_json(output) if isinstance(output, str) else output
        answer = dump_json(fields)
    except ValueError as error:
        return Reject(where, "malformed JSON", str(error))
    if isinstance(reference, list):
        reference = reference[0] if reference else None
    if reference:
        try:
            load = image_loader(images, folder, reference)
        except PictureError as error:
            return Reject(where, error.reason, error.detail)
    elif render == "fields":
        if not is_unicode(answer):
            return Reject(where, "text is not UTF-8", answer[:200])
        # numpy and fonts, which a list of the sources does not wait for.
        from data_prep.synthetic.form import draw_form, form_problem

        if problem := form_problem(fields):
            return Reject(where, "fields cannot be drawn", problem)
        load = partial(draw_form, answer)
    else:
        page = page_text(text)
        if not page.strip():
            detail = "the record has neither text nor picture; --render fields draws its fields"
            return Reject(where, "missing image", detail)
        if not is_unicode(page):
            return Reject(where, "text is not UTF-8", page[:200])
        lines = page.split("\n")
        if len(lines) > MAX_LINES or max(map(len, lines)) > MAX_COLUMNS:
            return Reject(where, "text too long for a page", f"{len(lines)} lines")
        load = partial(draw_page, page)
    meta = {} if reference else {"drawn": True}
    return Item(
        "", where, answer, [Picture(load)], "", "en", task="extraction", prompt=PROMPT, meta=meta
    )


def page_text(value: object) -> str:
    """The OCR text of an `input`: a text, or JSON that holds one under a usual key.

    Fields of other names are laid out as `name: value`, one per line.
    """
    if isinstance(value, str):
        try:
            parsed = parse_json(value)
        except ValueError:
            return value.expandtabs(4).replace("\r\n", "\n")
        return page_text(parsed) if isinstance(parsed, dict | list) else value
    if isinstance(value, list):
        return "\n".join(map(page_text, value))
    if isinstance(value, dict):
        for key in TEXT_KEYS:
            if isinstance(value.get(key), str):
                return value[key].expandtabs(4).replace("\r\n", "\n")
        return "\n".join(
            f"{key}:\n{page_text(field)}" if isinstance(field, dict | list) else f"{key}: {field}"
            for key, field in value.items()
        )
    return "" if value is None else str(value)


@functools.cache
def page_font() -> ImageFont.FreeTypeFont:
    """The font of drawn pages, which matplotlib ships."""
    from data_prep.synthetic.render import load_font, shipped_fonts

    return load_font(shipped_fonts("DejaVuSansMono")[0], FONT_SIZE)


def draw_page(text: str) -> Image.Image:
    """A text as a white page, one line of print per line of text."""
    lines, font = text.split("\n"), page_font()
    width = max(round(font.getlength(line)) for line in lines) + 2 * MARGIN
    page = Image.new("L", (width, len(lines) * LINE_HEIGHT + 2 * MARGIN), 255)
    draw = ImageDraw.Draw(page)
    for index, line in enumerate(lines):
        draw.text((MARGIN, MARGIN + index * LINE_HEIGHT), line, font=font, fill=0)
    return page
