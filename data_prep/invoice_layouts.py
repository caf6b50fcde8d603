"""How synthetic documents look: ten layouts, drawn on a page that remembers what it drew.

A layout puts texts, rules and boxes on a `Page` in units of a thousandth of a page's width; only
then is the page's height known and its picture drawn. `Page.texts` holds every piece of text with
its box, by which the tests hold that nothing overlaps, leaves the page or is left out.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from PIL import Image, ImageDraw, ImageFont

from .invoice_content import Document, Shown
from .render import load_font

A4 = 297 / 210
BLACK, GREY, PALE, WHITE = (0, 0, 0), (95, 95, 95), (236, 236, 236), (255, 255, 255)
Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]
# Chinese may be broken after any character, but a line does not begin with its punctuation.
_PIECES = re.compile(r"[\u2e80-\u9fff][，。、）：]?|[^\s\u2e80-\u9fff]+[，。、）：]?")
TIMES = "×"
FACTS = (
    *("document_number", "date", "time", "due_date", "valid_until", "delivery_date", "reference"),
    *("customer_number", "period_start", "period_end"),
)


@dataclass(frozen=True)
class Text:
    """A piece of text on the page: its ink's box, and the whole text that it is (a part) of."""

    text: str
    of: str
    box: Box
    at: tuple[float, float]
    font: ImageFont.FreeTypeFont
    colour: Colour


class Page:
    """A page `width` units wide, `scale` pixels a unit, in one face of two weights."""

    def __init__(
        self, face: tuple[str, str], scale: float, width: float = 1000, size: float = 16
    ) -> None:
        self.face, self.scale, self.width, self.size = face, scale, width, size
        self.height = 0.0
        self.texts: list[Text] = []
        self.shapes: list[tuple[Box, Colour | None, Colour | None, float]] = []

    def font(self, size: float | None = None, bold: bool = False) -> ImageFont.FreeTypeFont:
        """The page's face at a size in units."""
        return load_font(self.face[bold], round((size or self.size) * self.scale))

    def leading(self, size: float | None = None) -> float:
        """Distance of two lines."""
        return round((size or self.size) * 1.42)

    def measure(self, text: str, size: float | None = None, bold: bool = False) -> float:
        """Width of the widest line of a text."""
        font = self.font(size, bold)
        return max(font.getlength(line) for line in text.split("\n")) / self.scale

    def wrap(self, text: str, width: float, size: float | None, bold: bool) -> list[str]:
        """A text's lines, none wider than `width` unless it is a single word."""
        lines = []
        for paragraph in text.split("\n"):
            line = ""
            for piece in _PIECES.finditer(paragraph):
                gap = " " if line and paragraph[piece.start() - 1].isspace() else ""
                longer = line + gap + piece[0]
                if line and self.measure(longer, size, bold) > width:
                    lines.append(line)
                    longer = piece[0]
                line = longer
            lines.append(line)
        return lines

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float | None = None,
        bold: bool = False,
        align: str = "left",
        width: float | None = None,
        colour: Colour = BLACK,
        upper: bool = False,
    ) -> float:
        """Put a text with its first line's top at `y`; returns where the next line begins.

        `x` is its left, right or middle, by `align`; with a `width` it is wrapped.
        """
        size = size or self.size
        shown = text.upper() if upper else str(text)
        lines = shown.split("\n") if width is None else self.wrap(shown, width, size, bold)
        font = self.font(size, bold)
        for line in lines:
            if not line.strip():
                continue
            left, top, right, bottom = font.getbbox(line, anchor="ls")
            length = font.getlength(line)
            start = x * self.scale - {"left": 0, "right": length, "middle": length / 2}[align]
            base = round((y + 1.06 * size) * self.scale)
            start = round(start)
            box = (start + left, base + top, start + right, base + bottom)
            self.texts.append(Text(line, text, box, (start, base), font, colour))
            y += self.leading(size)
        return y

    def rule(self, x0: float, y: float, x1: float, weight: float = 1.0, c: Colour = BLACK) -> None:
        """A horizontal rule."""
        self.box(x0, y, x1, y + weight, fill=c)

    def box(
        self,
        x0: float,
        y0: float,
        x1: float,
        y1: float,
        *,
        fill: Colour | None = None,
        line: Colour | None = None,
        weight: float = 1.2,
    ) -> None:
        """A rectangle, filled or outlined."""
        self.shapes.append(((x0, y0, x1, y1), fill, line, weight))

    def end(self, y: float, footer: str = "", paper: float | None = A4) -> None:
        """Fix the height: the paper's, or more where the text ends at `y` below it."""
        room = 90 if footer else 40
        self.height = max((paper or 0) * self.width, y + room)
        if footer:
            top = self.height - 70
            self.rule(60, top, self.width - 60, 1, GREY)
            self.text(
                self.width / 2, top + 12, footer, size=13, align="middle", colour=GREY,
                width=self.width - 140,
            )  # fmt: skip

    def draw(self) -> Image.Image:
        """The picture; grey ("L") where no colour was used."""
        colours = {text.colour for text in self.texts}
        colours |= {c for _, fill, line, _ in self.shapes for c in (fill, line) if c}
        mode = "L" if all(len(set(c)) == 1 for c in colours) else "RGB"

        def ink(colour: Colour | None) -> int | Colour | None:
            return colour if colour is None or mode == "RGB" else colour[0]

        size = round(self.width * self.scale), round(self.height * self.scale)
        image = Image.new(mode, size, "white")
        canvas = ImageDraw.Draw(image)
        for box, fill, line, weight in self.shapes:
            x0, y0, x1, y1 = (round(side * self.scale) for side in box)
            corners = x0, y0, max(x1 - 1, x0), max(y1 - 1, y0)
            canvas.rectangle(corners, ink(fill), ink(line), max(1, round(weight * self.scale)))
        for text in self.texts:
            canvas.text(text.at, text.text, ink(text.colour), text.font, anchor="ls")
        return image


# --- what several layouts share


def table_cells(document: Document, layout: str) -> tuple[list[str], list[list[str]], list[bool]]:
    """Header and body of a document's table, and which columns hold numbers.

    A receipt has no header, and a cell such as `2 × 1.50` between the goods and the amount.
    """
    labels = document.labels
    if document.kind == "bank_statement":
        keys = ["date", "desc", "debit", "credit", "balance"]
        names = ["date", "details", "debit", "credit", "balance"]
        rows = document.content["transactions"]
    elif document.kind == "receipt":
        cells = [
            [line["desc"], f"{line['qty']} {TIMES} {line['unit_price']}", line["line_total"]]
            for line in document.content["line_items"]
        ]
        return [], cells, [False, True, True]
    else:
        rows = document.content["line_items"]
        order = ("code", "desc", "qty", "unit", "unit_price", "discount_rate", "tax_rate")
        keys = [key for key in (*order, "line_total") if key in rows[0]]
        names = list(keys)
    header = [labels[name] for name in names]
    cells = [[row.get(key, "") for key in keys] for row in rows]
    if layout in ("invoice-grid", "purchase-order", "delivery-note"):
        header = [labels["pos"], *header]
        digits = document.writer.digits
        cells = [[digits(str(number)), *row] for number, row in enumerate(cells, 1)]
        keys = ["pos", *keys]
    return header, cells, [key not in ("code", "desc", "unit", "date") for key in keys]


def table_html(document: Document, layout: str) -> str:
    """A document's table as HTML, as TEDS reads it: every cell a `td`, wrapped lines joined."""
    header, rows, _ = table_cells(document, layout)

    def line(cells: list[str]) -> str:
        return "<tr>" + "".join(f"<td>{escape(c, quote=False)}</td>" for c in cells) + "</tr>"

    head = f"<thead>{line(header)}</thead>" if header else ""
    return f"<table>{head}<tbody>{''.join(map(line, rows))}</tbody></table>"


def table(
    page: Page,
    document: Document,
    layout: str,
    y: float,
    *,
    left: float = 60,
    right: float = 940,
    style: str = "ruled",
    colour: Colour = BLACK,
) -> float:
    """Draw the document's table between two edges; returns its bottom.

    The description takes what the other columns leave and is wrapped. Styles: `ruled` (rules
    around the header and below), `rows` (a rule below every row), `grid`, `zebra`.
    """
    header, rows, numeric = table_cells(document, layout)
    wide = next(i for i, label in enumerate(header) if label is _desc_label(document))
    size, pad = page.size, 8.0
    while True:
        widths = [
            max([page.measure(header[i], size, True), *(page.measure(r[i], size) for r in rows)])
            + 2 * pad
            for i in range(len(header))
        ]
        widths[wide] = right - left - (sum(widths) - widths[wide])
        if widths[wide] >= 190 or size < 10:
            break
        size, pad = size - 1, max(pad - 1, 4)
    edges = [left]
    for width in widths:
        edges.append(edges[-1] + width)

    def put(cells: list[str], y: float, bold: bool, ink: Colour) -> float:
        bottom = y + page.leading(size)
        for i, cell in enumerate(cells):
            if not cell:
                continue
            if i == wide:
                room = widths[i] - 2 * pad
                end = page.text(
                    edges[i] + pad, y, cell, size=size, bold=bold, width=room, colour=ink
                )
                bottom = max(bottom, end)
            else:
                x = edges[i + 1] - pad if numeric[i] else edges[i] + pad
                align = "right" if numeric[i] else "left"
                page.text(x, y, cell, size=size, bold=bold, align=align, colour=ink)
        return bottom

    gap = 7 if style != "ruled" else 5
    top = y
    head_fill = {"zebra": colour, "grid": PALE}.get(style)
    bottom = y + page.leading(size) + 2 * gap
    if head_fill:
        page.box(left, y, right, bottom, fill=head_fill)
    if style in ("ruled", "rows"):
        page.rule(left, y, right, 2, colour)
    put(header, y + gap, True, WHITE if style == "zebra" else BLACK)
    lines = [bottom]
    for number, row in enumerate(rows):
        y = bottom
        place = len(page.shapes)
        bottom = put(row, y + gap, False, BLACK) + gap
        if style == "zebra" and number % 2:
            page.box(left, y, right, bottom, fill=(244, 244, 244))
            page.shapes.insert(place, page.shapes.pop())
        lines.append(bottom)
    if style == "grid":
        for edge in lines[:-1]:
            page.rule(left, edge, right)
        for x in edges[1:-1]:
            page.box(x, top, x + 1, bottom, fill=BLACK)
        page.box(left, top, right, bottom + 1, line=BLACK)
    elif style == "rows":
        for edge in lines:
            page.rule(left, edge, right, 1, GREY)
    else:
        if style == "ruled":
            page.rule(left, lines[0], right, 1, colour)
        page.rule(left, bottom + 2, right, 2 if style == "ruled" else 1, colour)
    return bottom + 4


def _desc_label(document: Document) -> str:
    return document.labels["details" if document.kind == "bank_statement" else "desc"]


def facts(document: Document) -> list[tuple[str, str]]:
    """(label, value) of number, dates and references."""
    names = {"document_number": "number"}
    content, labels = document.content, document.labels
    return [(labels[names.get(key, key)], content[key]) for key in FACTS if key in content]


def pairs(
    page: Page,
    x: float,
    y: float,
    entries: list[tuple[str, str]],
    *,
    right: float | None = None,
    size: float | None = None,
    bold: bool = False,
) -> float:
    """Labels at `x`, values beside them in a column, or ending at `right`."""
    size = size or page.size
    column = x + max(page.measure(label, size) for label, _ in entries) + 18
    for label, value in entries:
        page.text(x, y, label, size=size, colour=GREY)
        if right is None:
            y = page.text(column, y, value, size=size, bold=bold)
        else:
            y = page.text(right, y, value, size=size, align="right", bold=bold)
    return y


def stacked(page: Page, x: float, y: float, width: float, entries: list[tuple[str, str]]) -> float:
    """Entries side by side over `width`, each label small above its value."""
    step = width / len(entries)
    for index, (label, value) in enumerate(entries):
        left = x + index * step
        below = page.text(left, y, label, size=12, colour=GREY, width=step - 12)
        page.text(left, max(below, y + 18), value, bold=True)
    return y + 62


def party(
    page: Page,
    document: Document,
    x: float,
    y: float,
    one: dict,
    *,
    title: str = "",
    align: str = "left",
    size: float | None = None,
    named: bool = True,
) -> float:
    """A firm or person: title, name, address, and the numbers that it has."""
    size = size or page.size
    if title:
        y = page.text(x, y, title, size=size - 3, colour=GREY, align=align, bold=True) + 2
    if named:
        y = page.text(x, y, one["name"], size=size, bold=True, align=align)
    y = page.text(x, y, one["address"], size=size, align=align)
    numbers = [(document.labels[key], one[key]) for key in ("phone", "tax_id") if key in one]
    if not numbers:
        return y
    if align == "left":
        return pairs(page, x, y + 3, numbers, size=size - 2)
    for label, value in numbers:
        y = labelled(page, x, y, label, value, size - 2, align)
    return y


def labelled(
    page: Page, x: float, y: float, label: str, value: str, size: float, align: str
) -> float:
    """`Label: value` as one line, around or before `x`."""
    label = f"{label}:"
    first = page.measure(label, size) + 6
    whole = first + page.measure(value, size)
    start = x - (whole if align == "right" else whole / 2)
    page.text(start, y, label, size=size, colour=GREY)
    return page.text(start + first, y, value, size=size)


def total_lines(document: Document) -> Iterator[tuple[list[str], str, bool]]:
    """(pieces of the label, amount, whether it is the grand total) of the sums, in their order."""
    labels, summary = document.labels, document.content["financial_summary"]
    if "subtotal" in summary:
        yield [labels["subtotal"]], summary["subtotal"], False
    if "discount" in summary:
        yield [labels["discount"], summary["discount_rate"]], summary["discount"], False
    included = [summary["tax_included"]] if "tax_included" in summary else []
    if not included:
        yield from _tax_lines(document, included)
    if "shipping" in summary:
        yield [labels["shipping"]], summary["shipping"], False
    last = labels["total_due" if document.kind == "utility_bill" else "grand_total"]
    yield [last], summary["grand_total"], True
    if included:
        yield from _tax_lines(document, included)
    for key, amount in document.content.get("payment", {}).items():
        yield [labels[key]], amount, False


def _tax_lines(document: Document, included: list[str]) -> Iterator[tuple[list[str], str, bool]]:
    labels, summary = document.labels, document.content["financial_summary"]
    if "tax_base" in summary:
        yield [labels["base"]], summary["tax_base"], False
    for tax in summary.get("taxes", ()):
        pieces = [labels["tax"], tax["rate"], labels["base"], tax["base"]]
        yield pieces, tax["amount"], False
    if "taxes" in summary:
        yield [*included, labels["tax_amount"]], summary["tax_amount"], False
    else:
        yield [*included, labels["tax"], summary["tax_rate"]], summary["tax_amount"], False


def totals(
    page: Page,
    document: Document,
    y: float,
    *,
    right: float = 940,
    left: float = 520,
    style: str = "plain",
    colour: Colour = BLACK,
) -> float:
    """The sums under a table, amounts ending at `right`. Styles: `plain`, `boxed`, `banner`."""
    big = page.size + 3
    pad = 8 if style == "plain" else 10
    lines = list(total_lines(document))
    size = page.size
    # The longest line decides the size, so that label and amount never meet.
    while size > 10 and any(
        sum(page.measure(one, size) + 7 for one in pieces) + page.measure(amount, size) + 40
        > right - left
        for pieces, amount, _ in lines
    ):
        size -= 1
    for pieces, amount, grand in lines:
        tall = page.leading(big if grand else size) + 8
        ink = BLACK
        if grand and style == "banner":
            page.box(left, y, right, y + tall + 6, fill=colour)
            ink, y = WHITE, y + 3
        elif grand and style == "plain":
            page.rule(left, y + 1, right, 1.5, colour)
        elif style == "boxed":
            page.box(left, y, right + 1, y + tall + 1, line=BLACK)
        x = left + pad
        for piece in pieces:
            page.text(x, y + 4, piece, size=big if grand else size, bold=grand, colour=ink)
            x += page.measure(piece, big if grand else size, grand) + 7
        page.text(
            right - 8, y + 4, amount, size=big if grand else size, bold=grand, align="right",
            colour=ink,
        )  # fmt: skip
        y += tall + (3 if grand and style == "banner" else 0)
        if grand and style == "plain":
            page.rule(left, y + 1, right, 1.5, colour)
            y += 4
    return y


# --- the layouts


def invoice_classic(page: Page, document: Document) -> None:
    """A letter: seller at the top right, buyer on the left, rules around the table."""
    content, labels = document.content, document.labels
    page.text(60, 62, content["vendor"]["name"], size=27, bold=True)
    y = party(page, document, 940, 110, content["vendor"], align="right", size=14, named=False)
    page.text(60, 150, labels["client"], size=13, colour=GREY)
    party(page, document, 60, 172, content["client"])
    y = page.text(60, max(y, 290) + 25, content["document_type"], size=32, bold=True)
    y = pairs(page, 60, y + 8, facts(document)) + 26
    y = table(page, document, "invoice-classic", y, style="ruled")
    y = totals(page, document, y + 12)
    page.end(y, labels["terms"])


def invoice_modern(page: Page, document: Document) -> None:
    """A coloured band, facts in a row, zebra stripes and the total in a banner."""
    content, labels = document.content, document.labels
    colour = document.rng.choice(
        ((28, 77, 140), (16, 110, 96), (140, 38, 60), (70, 60, 130), (45, 55, 70))
    )
    page.box(0, 0, 1000, 150, fill=colour)
    page.text(60, 34, content["vendor"]["name"], size=24, bold=True, colour=WHITE, width=520)
    title = content["document_type"]
    size = 38.0
    while page.measure(title, size, True) > 370:
        size -= 2
    page.text(940, 88 - size / 2, title, size=size, bold=True, align="right", colour=WHITE)
    y = stacked(page, 60, 180, 880, facts(document))
    page.rule(60, y, 940, 2, colour)
    left = party(page, document, 60, y + 18, content["client"], title=labels["client"])
    right = party(page, document, 540, y + 18, content["vendor"], title=labels["vendor"])
    y = table(page, document, "invoice-modern", max(left, right) + 30, style="zebra", colour=colour)
    y = totals(page, document, y + 14, style="banner", colour=colour)
    page.end(y, labels["terms"])


def invoice_grid(page: Page, document: Document) -> None:
    """A form: the title in the middle, parties in boxes, every cell ruled."""
    content, labels = document.content, document.labels
    y = page.text(500, 50, content["document_type"], size=34, bold=True, align="middle")
    page.rule(500 - 110, y + 6, 500 + 110, 2)
    top = y + 32
    left = party(page, document, 76, top + 12, content["vendor"], title=labels["vendor"])
    right = party(page, document, 516, top + 12, content["client"], title=labels["client"])
    bottom = max(left, right) + 12
    page.box(60, top, 501, bottom, line=BLACK)
    page.box(500, top, 941, bottom, line=BLACK)
    entries = facts(document)
    step = 880 / len(entries)
    tall = page.leading(13) + page.leading() + 14
    for index, (label, value) in enumerate(entries):
        x = 60 + index * step
        page.box(x, bottom - 1, x + step + 1, bottom + tall, line=BLACK)
        page.text(x + 12, bottom + 5, label, size=13, colour=GREY)
        page.text(x + 12, bottom + 6 + page.leading(13), value)
    y = table(page, document, "invoice-grid", bottom + tall + 22, style="grid")
    y = totals(page, document, y - 4, style="boxed", left=500)
    page.end(y, labels["terms"])


def purchase_order(page: Page, document: Document) -> None:
    """An order form: facts in a box at the right, grey bars over the two parties."""
    content, labels = document.content, document.labels
    title = page.text(60, 56, content["document_type"], size=34, bold=True, upper=True)
    entries = facts(document)
    page.box(560, 56, 940, 72 + len(entries) * page.leading() + 4, line=GREY)
    low = pairs(page, 574, 64, entries, right=926)
    y = max(low, title) + 34
    bottoms = []
    for x, key, label in ((60, "vendor", "supplier"), (510, "client", "ship_to")):
        page.box(x, y, x + 430, y + page.leading() + 8, fill=(60, 60, 60))
        page.text(x + 10, y + 4, labels[label], bold=True, colour=WHITE)
        bottoms.append(party(page, document, x + 10, y + page.leading() + 18, content[key]))
    y = table(page, document, "purchase-order", max(bottoms) + 26, style="grid")
    y = totals(page, document, y + 14, left=540)
    page.rule(60, y + 80, 380, 1)
    y = page.text(60, y + 86, labels["signature"], size=13, colour=GREY)
    page.end(y, labels["page"])


def quotation(page: Page, document: Document) -> None:
    """An offer: centred head between two rules, a rule below every row."""
    content, labels = document.content, document.labels
    vendor = content["vendor"]
    y = page.text(500, 52, vendor["name"], size=28, bold=True, align="middle")
    y = party(page, document, 500, y, vendor, align="middle", size=14, named=False)
    page.rule(60, y + 12, 940, 2)
    page.rule(60, y + 17, 940, 1)
    y = page.text(500, y + 34, content["document_type"], size=30, bold=True, align="middle")
    y += 16
    left = party(page, document, 60, y, content["client"], title=labels["client"])
    low = pairs(page, 560, y, facts(document), right=940)
    y = table(page, document, "quotation", max(left, low) + 30, style="rows")
    y = totals(page, document, y + 10)
    page.rule(620, y + 90, 940, 1)
    y = page.text(620, y + 96, labels["signature"], size=13, colour=GREY)
    page.end(y, labels["page"])


def credit_note(page: Page, document: Document) -> None:
    """A stripe down the left edge, the title large, facts beside the buyer."""
    content, labels = document.content, document.labels
    colour = document.rng.choice(((150, 40, 40), (110, 110, 110), (30, 90, 70)))
    page.box(0, 0, 24, 4000, fill=colour)
    y = page.text(70, 50, content["document_type"], size=40, bold=True, colour=colour)
    page.rule(70, y + 8, 940, 1.5, colour)
    y += 30
    left = party(page, document, 70, y, content["client"], title=labels["client"])
    low = pairs(page, 560, y + 4, facts(document), right=940, bold=True)
    y = max(left, low) + 20
    low = party(page, document, 86, y + 12, content["vendor"], title=labels["vendor"]) + 12
    page.box(70, y, 940, low, fill=PALE)
    y = table(page, document, "credit-note", low + 24, left=70)
    y = totals(page, document, y + 12, colour=colour)
    page.end(y, labels["page"])


def delivery_note(page: Page, document: Document) -> None:
    """Goods without prices, and boxes to sign in."""
    content, labels = document.content, document.labels
    page.text(60, 54, content["document_type"], size=32, bold=True)
    y = party(page, document, 940, 54, content["vendor"], align="right", size=15)
    y = max(y, 130) + 16
    page.rule(60, y, 940, 2)
    low = party(page, document, 60, y + 16, content["client"], title=labels["ship_to"])
    other = pairs(page, 560, y + 20, facts(document))
    y = table(page, document, "delivery-note", max(low, other) + 26, style="grid")
    y = page.text(932, y + 10, content["total_qty"], size=18, bold=True, align="right")
    page.text(
        932 - page.measure(content["total_qty"], 18, True) - 16,
        y - page.leading(18),
        labels["total_qty"],
        size=18,
        align="right",
    )
    y += 50
    for x, label in ((60, "received"), (510, "signature")):
        page.box(x, y, x + 430, y + 120, line=GREY)
        page.text(x + 10, y + 6, labels[label], size=13, colour=GREY, width=410)
    page.end(y + 130, labels["page"])


def utility_bill(page: Page, document: Document) -> None:
    """A panel with the amount due, the meter's readings in boxes, charges below."""
    content, labels = document.content, document.labels
    summary = content["financial_summary"]
    colour = document.rng.choice(((0, 95, 135), (190, 90, 0), (20, 110, 60)))
    page.text(60, 50, content["vendor"]["name"], size=26, bold=True, colour=colour)
    y = page.text(60, 92, content["document_type"], size=20)
    page.rule(60, y + 8, 940, 3, colour)
    y += 28
    low = party(page, document, 60, y, content["client"], title=labels["client"])
    low = party(page, document, 60, low + 16, content["vendor"], size=14, named=False)
    page.box(540, y, 940, y + 116, fill=colour)
    page.text(740, y + 14, labels["total_due"], size=18, align="middle", colour=WHITE)
    page.text(740, y + 50, summary["grand_total"], size=32, bold=True, align="middle", colour=WHITE)
    other = pairs(page, 540, y + 132, facts(document), right=940)
    y = max(low, other) + 26
    meter = content["meter"]
    entries = [(labels["meter_number"], meter["number"])]
    entries += [(labels[key], meter[key]) for key in ("previous", "current", "consumption")]
    for index, (label, value) in enumerate(entries):
        x = 60 + index * 222
        page.box(x, y, x + 214, y + 76, line=colour)
        page.text(x + 107, y + 8, label, size=13, align="middle", colour=GREY)
        page.text(x + 107, y + 34, value, size=20, bold=True, align="middle")
    y = table(page, document, "utility-bill", y + 104, style="rows", colour=colour)
    y = totals(page, document, y + 10, colour=colour)
    page.end(y, labels["terms"])


def bank_statement(page: Page, document: Document) -> None:
    """An account's bookings between its opening and its closing balance."""
    content, labels = document.content, document.labels
    page.text(60, 48, content["bank"]["name"], size=26, bold=True)
    y = page.text(940, 52, content["bank"]["address"], size=14, align="right", colour=GREY)
    page.rule(60, y + 10, 940, 4, (60, 60, 60))
    y = page.text(60, y + 30, content["document_type"], size=24, bold=True) + 10
    account = content["account"]
    holder = [
        (labels["account_holder"], account["holder"]),
        (labels["account_number"], account["number"]),
        (labels["opening_balance"], content["opening_balance"]),
    ]
    low = pairs(page, 60, y, holder, bold=True)
    other = pairs(page, 580, y, facts(document), right=940)
    y = table(page, document, "bank-statement", max(low, other) + 24, style="zebra",
              colour=(70, 70, 70))  # fmt: skip
    y += 14
    sums = [(labels[key], content[key]) for key in ("total_debit", "total_credit")]
    y = pairs(page, 560, y, sums, right=932)
    page.box(548, y + 6, 940, y + 20 + page.leading(18), line=BLACK)
    page.text(560, y + 12, labels["closing_balance"], size=18, bold=True)
    y = page.text(932, y + 12, content["closing_balance"], size=18, bold=True, align="right")
    page.end(y, labels["page"])


def receipt(page: Page, document: Document) -> None:
    """A till's roll: names above, `quantity × price` under the goods, thanks below."""
    content, labels, rng = document.content, document.labels, document.rng
    width = page.width
    right, middle = width - 24, width / 2
    vendor = content["vendor"]
    y = page.text(middle, 26, vendor["name"], size=22, bold=True, align="middle", width=right - 24)
    y = page.text(middle, y, vendor["address"], align="middle")
    for key in ("phone", "tax_id"):
        y = labelled(page, middle, y, labels[key], vendor[key], 15, "middle")
    y = _dashes(page, y)
    y = page.text(middle, y, content["document_type"], size=20, bold=True, align="middle")
    y = pairs(page, 24, y + 4, facts(document), right=right)
    y = _dashes(page, y)
    below = rng.random() < 0.6
    for line in content["line_items"]:
        amount = page.measure(line["line_total"]) + 20
        counted = [line["qty"], TIMES, line["unit_price"]]
        if below:
            y = page.text(24, y, line["desc"], width=right - 24)
            x = 60.0
        else:
            y = page.text(24, y, line["desc"], width=right - 24 - amount, bold=True)
            x = 40.0
        for piece in counted:
            page.text(x, y, piece)
            x += page.measure(piece) + 9
        y = page.text(right, y, line["line_total"], align="right")
    y = _dashes(page, y)
    y = totals(page, document, y, left=16, right=right + 8)
    y = _dashes(page, y + 6)
    y = page.text(middle, y + 4, labels["thanks"], align="middle", width=right - 24)
    if rng.random() < 0.6:
        y = _bars(page, document, y + 14)
    page.end(y, paper=None)


def _dashes(page: Page, y: float) -> float:
    x = 24.0
    while x < page.width - 30:
        page.rule(x, y + 8, x + 7, 1.5)
        x += 12
    return y + 18


def _bars(page: Page, document: Document, y: float) -> float:
    """A bar code that codes nothing."""
    x = page.width * 0.2
    while x < page.width * 0.8:
        bar = document.rng.choice((2, 2, 3, 5))
        page.box(x, y, x + bar, y + 52, fill=BLACK)
        x += bar + document.rng.choice((2, 3, 5))
    return y + 58


LAYOUTS = {
    "invoice-classic": (invoice_classic, "invoice"),
    "invoice-modern": (invoice_modern, "invoice"),
    "invoice-grid": (invoice_grid, "invoice"),
    "receipt": (receipt, "receipt"),
    "bank-statement": (bank_statement, "bank_statement"),
    "purchase-order": (purchase_order, "purchase_order"),
    "credit-note": (credit_note, "credit_note"),
    "delivery-note": (delivery_note, "delivery_note"),
    "utility-bill": (utility_bill, "utility_bill"),
    "quotation": (quotation, "quotation"),
}


def lay_out(document: Document, layout: str, face: tuple[str, str], scale: float) -> Page:
    """A document on its page, ready to be drawn; sizes vary a little from page to page."""
    draw, _ = LAYOUTS[layout]
    if layout == "receipt":
        page = Page(face, scale, document.rng.randrange(430, 560, 10), 17)
    else:
        page = Page(face, scale, 1000, document.rng.choice((15, 16, 17)))
    draw(page, document)
    return page


def leaves(content: object) -> Iterator[Shown]:
    """Every leaf of a document's content."""
    if isinstance(content, dict | list):
        for one in content.values() if isinstance(content, dict) else content:
            yield from leaves(one)
    else:
        yield content
