"""Form drawing: draw any JSON object as a business form, for records that have no picture.

Scalars are drawn beside their names, objects as blocks, lists of objects as tables, and objects of
amounts as sums below the tables. Floats get two decimals and a thousands separator, underscores in
names become spaces, and null and empty values are left out.
"""

import random
from collections.abc import Iterator
from typing import cast

from PIL import Image

from data_prep.dataset.schema import parse_json
from data_prep.synthetic.fonts import missing_glyphs
from data_prep.synthetic.invoices.parts import pairs, table
from data_prep.synthetic.page import GREY, PALE, Page
from data_prep.synthetic.render import SHIPPED_FACES, shipped_fonts

MOST_LEAVES, MOST_CHARACTERS, DEEPEST = 400, 8000, 6
LEFT, RIGHT = 60.0, 940.0


def form_problem(value: object) -> str:
    """Reason why a JSON value cannot be drawn as a form; "" if it can."""
    if not isinstance(value, dict):
        return "the fields are no JSON object"
    texts = []
    for text in _texts(value):
        texts.append(text)
        if len(texts) > MOST_LEAVES:
            return f"more than {MOST_LEAVES} fields"
    if not texts:
        return "there is no field"
    if any(len(path) > DEEPEST for path in _paths(value)):
        return f"fields lie more than {DEEPEST} deep"
    if sum(len(text) + 40 * text.count("\n") for text in texts) > MOST_CHARACTERS:
        return f"more than {MOST_CHARACTERS} characters"
    if not _faces("".join([*texts, *_names(value)])):
        return "characters that no font of the kit draws"
    return ""


def draw_form(text: str) -> Image.Image:
    """Picture of a JSON object for which `form_problem` returns ""."""
    value = cast(dict, parse_json(text))
    faces = _faces("".join([*_texts(value), *_names(value)]))
    return form_page(value, random.Random(text).choice(faces)).draw()


def form_page(value: dict, face: tuple[str, str]) -> Page:
    """Lay out a JSON object on a page."""
    page = Page(face, scale=1.0)
    value = dict(value)
    title = shown(value.pop("document_type", None)) or "Document"
    y = page.text(LEFT, 56, title, size=30, bold=True, upper=True, width=RIGHT - LEFT) + 6
    page.rule(LEFT, y, RIGHT, 2)
    y += 16
    plain, blocks, tables, sums = [], [], [], []
    for key, field in value.items():
        if isinstance(field, list) and field and all(isinstance(item, dict) for item in field):
            tables.append((key, [dict(_flat(item)) for item in field]))
        elif isinstance(field, dict | list):
            entries = [(name, text) for name, text in _flat(field) if text]
            numbers = bool(entries) and all(isinstance(v, int | float) for v in _plain(field))
            (sums if numbers and tables else blocks).append((key, entries))
        elif shown(field):
            plain.append((label(key), shown(field)))
    if plain:
        y = _entries(page, LEFT, y, RIGHT, plain) + 14
    y = _blocks(page, y, [block for block in blocks if block[1]])
    for key, rows in tables:
        y = _table(page, y, key, rows)
    for key, entries in sums:
        y = page.text(520, y + 12, label(key), size=13, colour=GREY, bold=True, width=420) + 4
        y = _sums(page, y, entries)
    page.end(y)
    return page


def label(key: str) -> str:
    """Label of a field name: `unit_price` becomes "Unit price"."""
    words = " ".join(key.replace("_", " ").split())
    return words[:1].upper() + words[1:]


def shown(value: object) -> str:
    """Text of a scalar on the page; "" for null."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.2f}" if abs(value) < 1e12 and round(value, 2) == value else repr(value)
    lines = str(value).splitlines()
    return "\n".join(line for line in (" ".join(line.split()) for line in lines) if line)


def _flat(value: dict | list, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(name, text) of every leaf; nested names are joined by a space."""
    for key, field in value.items() if isinstance(value, dict) else enumerate(value, start=1):
        name = f"{prefix} {label(str(key))}".strip()
        if isinstance(field, dict | list):
            yield from _flat(field, name)
        else:
            yield name, shown(field)


def _plain(value: object) -> Iterator[object]:
    """Every leaf that is not null."""
    if isinstance(value, dict | list):
        for field in value.values() if isinstance(value, dict) else value:
            yield from _plain(field)
    elif value is not None:
        yield value


def _texts(value: object) -> Iterator[str]:
    return filter(None, map(shown, _plain(value)))


def _paths(value: object, path: tuple = ()) -> Iterator[tuple]:
    if isinstance(value, dict | list) and len(path) <= DEEPEST:
        for key, field in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _paths(field, (*path, key))
    else:
        yield path


def _names(value: object) -> Iterator[str]:
    if isinstance(value, dict | list):
        for key, field in value.items() if isinstance(value, dict) else enumerate(value):
            yield str(key)
            yield from _names(field)


def _faces(text: str) -> list[tuple[str, str]]:
    """(regular, bold) shipped fonts that draw every character of a text."""
    special = {c for c in text if not (c.isascii() and c.isprintable()) and not c.isspace()}
    needed = "".join(sorted(special))
    files = (map(str, shipped_fonts(*stems)) for stems in SHIPPED_FACES.values())
    faces = [(regular, bold) for regular, bold in files]
    return [face for face in faces if not any(missing_glyphs(font, needed) for font in face)]


def _entries(
    page: Page, left: float, y: float, right: float, entries: list[tuple[str, str]]
) -> float:
    """Draw names and values in two wrapped columns; returns the bottom."""
    room = right - left
    column = min(max(page.measure(name) for name, _ in entries) + 18, room * 0.45)
    for name, text in entries:
        low = page.text(left, y, name, colour=GREY, width=column - 12)
        y = max(low, page.text(left + column, y, text, width=room - column))
    return y


def _blocks(page: Page, y: float, blocks: list[tuple[str, list[tuple[str, str]]]]) -> float:
    """Draw blocks side by side in pairs, each under its name; returns the bottom."""
    for place in range(0, len(blocks), 2):
        low = y
        for x, (key, entries) in zip((LEFT, 510.0), blocks[place : place + 2]):
            below = page.text(x, y, label(key), bold=True, width=420) + 4
            page.rule(x, below, x + 430, 1, GREY)
            low = max(low, _entries(page, x, below + 8, x + 430, entries))
        y = low + 18
    return y


def _table(page: Page, y: float, key: str, rows: list[dict[str, str]]) -> float:
    """Draw rows as a table if it fits the width, otherwise a block each; returns the bottom."""
    names = list(dict.fromkeys(name for row in rows for name, text in row.items() if text))
    cells = [[row.get(name, "") for name in names] for row in rows]
    cells = [row for row in cells if any(row)]
    if not cells:
        return y
    y = page.text(LEFT, y, label(key), bold=True, width=RIGHT - LEFT) + 6
    longest = [max(len(row[i]) for row in cells) for i in range(len(names))]
    wide = max(range(len(names)), key=longest.__getitem__)
    others = [
        max(page.measure(text, 10) for text in (names[i], *(row[i] for row in cells))) + 12
        for i in range(len(names))
        if i != wide
    ]
    breaks = any("\n" in text for i, row in enumerate(zip(*cells)) if i != wide for text in row)
    if sum(others) > RIGHT - LEFT - 200 or breaks:
        for row in cells:
            entries = [(name, text) for name, text in zip(names, row) if text]
            y = _entries(page, LEFT + 20, y + 4, RIGHT, entries) + 6
            page.rule(LEFT, y, RIGHT, 1, PALE)
        return y + 8
    numeric = [all(_is_number(row[i]) for row in cells) for i in range(len(names))]
    return table(page, y, names, cells, numeric, wide, style="grid") + 8


def _is_number(text: str) -> bool:
    return not text.strip("0123456789.,-% ")


def _sums(page: Page, y: float, entries: list[tuple[str, str]]) -> float:
    widest = max(page.measure(name) + page.measure(text) for name, text in entries)
    if widest > 380:
        return _entries(page, 520, y, RIGHT, entries)
    return pairs(page, 520, y, entries, right=RIGHT)
