"""Layout blocks: tables, parties, document facts and totals that the invoice layouts share."""

from collections.abc import Iterator
from html import escape

from data_prep.synthetic.invoices.content import Document
from data_prep.synthetic.page import BLACK, GREY, PALE, WHITE, Colour, Page

TIMES = "×"
FACTS = (
    *("document_number", "date", "time", "due_date", "valid_until", "delivery_date", "reference"),
    *("customer_number", "period_start", "period_end"),
)


def table_cells(document: Document, layout: str) -> tuple[list[str], list[list[str]], list[bool]]:
    """Header, body and numeric columns of a document's table.

    A receipt has no header, and a cell such as `2 × 1.50` between goods and amount.
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
    """HTML of a document's table for TEDS: every cell is a `td`, wrapped lines are joined.

    No-break spaces become plain spaces, because they look the same.
    """
    header, rows, _ = table_cells(document, layout)

    def line(cells: list[str]) -> str:
        texts = (escape(cell.replace("\u00a0", " "), quote=False) for cell in cells)
        return "<tr>" + "".join(f"<td>{text}</td>" for text in texts) + "</tr>"

    head = f"<thead>{line(header)}</thead>" if header else ""
    return f"<table>{head}<tbody>{''.join(map(line, rows))}</tbody></table>"


def table(
    page: Page,
    y: float,
    header: list[str],
    rows: list[list[str]],
    numeric: list[bool],
    wide: int,
    *,
    left: float = 60,
    right: float = 940,
    style: str = "ruled",
    colour: Colour = BLACK,
) -> float:
    """Draw a table between `left` and `right`; returns its bottom.

    Args:
        numeric: columns that are aligned right.
        wide: index of the column that takes the remaining width and is wrapped.
        style: `ruled` (rules around the header and below), `rows` (a rule below every row), `grid`
            or `zebra`.
    """
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


def document_table(page: Page, document: Document, layout: str, y: float, **looks) -> float:
    """Draw the document's table with a wrapped description; `looks` are options of `table`."""
    header, rows, numeric = table_cells(document, layout)
    label = document.labels["details" if document.kind == "bank_statement" else "desc"]
    wide = next(index for index, name in enumerate(header) if name is label)
    return table(page, y, header, rows, numeric, wide, **looks)


def facts(document: Document) -> list[tuple[str, str]]:
    """(label, value) of the document's number, dates and references."""
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
    """Draw labels at `x`, values in a column or aligned right at `right`; returns the bottom."""
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
    """Draw entries side by side over `width`, each label above its value; returns the bottom."""
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
    firm: dict,
    *,
    title: str = "",
    align: str = "left",
    size: float | None = None,
    named: bool = True,
) -> float:
    """Draw a firm or person: title, name, address, phone and tax number; returns the bottom."""
    size = size or page.size
    if title:
        y = page.text(x, y, title, size=size - 3, colour=GREY, align=align, bold=True) + 2
    if named:
        y = page.text(x, y, firm["name"], size=size, bold=True, align=align)
    y = page.text(x, y, firm["address"], size=size, align=align)
    numbers = [(document.labels[key], firm[key]) for key in ("phone", "tax_id") if key in firm]
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
    """Draw `Label: value` on one line, centred at `x` or ending there; returns the bottom."""
    label = f"{label}:"
    first = page.measure(label, size) + 6
    whole = first + page.measure(value, size)
    start = x - (whole if align == "right" else whole / 2)
    page.text(start, y, label, size=size, colour=GREY)
    return page.text(start + first, y, value, size=size)


def total_lines(document: Document) -> Iterator[tuple[list[str], str, bool]]:
    """(label words, amount, whether it is the grand total) of every line of the totals."""
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
    """Draw the totals, amounts aligned right; returns the bottom. Styles: plain, boxed, banner."""
    big = page.size + 3
    pad = 8 if style == "plain" else 10
    lines = list(total_lines(document))
    size = page.size
    # Shrink the text until no label overlaps its amount.
    while size > 10 and any(
        sum(page.measure(piece, size) + 7 for piece in pieces) + page.measure(amount, size) + 40
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
