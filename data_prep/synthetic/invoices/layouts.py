"""Document layouts: ten functions that lay a document out on its page."""

from data_prep.synthetic.invoices.content import Document
from data_prep.synthetic.invoices.parts import (
    TIMES,
    document_table,
    facts,
    labelled,
    pairs,
    party,
    stacked,
    totals,
)
from data_prep.synthetic.page import BLACK, GREY, PALE, WHITE, Page


def invoice_classic(page: Page, document: Document) -> None:
    """Letter: seller at the top right, buyer on the left, rules around the table."""
    content, labels = document.content, document.labels
    page.text(60, 62, content["vendor"]["name"], size=27, bold=True)
    y = party(page, document, 940, 110, content["vendor"], align="right", size=14, named=False)
    page.text(60, 150, labels["client"], size=13, colour=GREY)
    party(page, document, 60, 172, content["client"])
    y = page.text(60, max(y, 290) + 25, content["document_type"], size=32, bold=True)
    y = pairs(page, 60, y + 8, facts(document)) + 26
    y = document_table(page, document, "invoice-classic", y, style="ruled")
    y = totals(page, document, y + 12)
    page.end(y, labels["terms"])


def invoice_modern(page: Page, document: Document) -> None:
    """Coloured band, facts in a row, zebra stripes, total in a banner."""
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
    y = document_table(
        page, document, "invoice-modern", max(left, right) + 30, style="zebra", colour=colour
    )
    y = totals(page, document, y + 14, style="banner", colour=colour)
    page.end(y, labels["terms"])


def invoice_grid(page: Page, document: Document) -> None:
    """Form: centred title, parties in boxes, a ruled grid."""
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
    y = document_table(page, document, "invoice-grid", bottom + tall + 22, style="grid")
    y = totals(page, document, y - 4, style="boxed", left=500)
    page.end(y, labels["terms"])


def purchase_order(page: Page, document: Document) -> None:
    """Order form: facts in a box at the right, grey bars over the two parties."""
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
    y = document_table(page, document, "purchase-order", max(bottoms) + 26, style="grid")
    y = totals(page, document, y + 14, left=540)
    page.rule(60, y + 80, 380, 1)
    y = page.text(60, y + 86, labels["signature"], size=13, colour=GREY)
    page.end(y, labels["page"])


def quotation(page: Page, document: Document) -> None:
    """Offer: centred head, double rule, a rule below every row."""
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
    y = document_table(page, document, "quotation", max(left, low) + 30, style="rows")
    y = totals(page, document, y + 10)
    page.rule(620, y + 90, 940, 1)
    y = page.text(620, y + 96, labels["signature"], size=13, colour=GREY)
    page.end(y, labels["page"])


def credit_note(page: Page, document: Document) -> None:
    """Coloured stripe at the left edge, large title, facts beside the buyer."""
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
    y = document_table(page, document, "credit-note", low + 24, left=70)
    y = totals(page, document, y + 12, colour=colour)
    page.end(y, labels["page"])


def delivery_note(page: Page, document: Document) -> None:
    """Goods without prices, and boxes for signatures."""
    content, labels = document.content, document.labels
    page.text(60, 54, content["document_type"], size=32, bold=True)
    y = party(page, document, 940, 54, content["vendor"], align="right", size=15)
    y = max(y, 130) + 16
    page.rule(60, y, 940, 2)
    low = party(page, document, 60, y + 16, content["client"], title=labels["ship_to"])
    other = pairs(page, 560, y + 20, facts(document))
    y = document_table(page, document, "delivery-note", max(low, other) + 26, style="grid")
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
    """Panel with the amount due, meter readings in boxes, charges below."""
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
    y = document_table(page, document, "utility-bill", y + 104, style="rows", colour=colour)
    y = totals(page, document, y + 10, colour=colour)
    page.end(y, labels["terms"])


def bank_statement(page: Page, document: Document) -> None:
    """Account statement: transactions between opening and closing balance."""
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
    y = document_table(page, document, "bank-statement", max(low, other) + 24, style="zebra",
              colour=(70, 70, 70))  # fmt: skip
    y += 14
    sums = [(labels[key], content[key]) for key in ("total_debit", "total_credit")]
    y = pairs(page, 560, y, sums, right=932)
    page.box(548, y + 6, 940, y + 20 + page.leading(18), line=BLACK)
    page.text(560, y + 12, labels["closing_balance"], size=18, bold=True)
    y = page.text(932, y + 12, content["closing_balance"], size=18, bold=True, align="right")
    page.end(y, labels["page"])


def receipt(page: Page, document: Document) -> None:
    """Till receipt: shop at the top, `quantity × price` below the goods, thanks at the end."""
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
    # The grand total already has a rule above it.
    y = _dashes(page, y) if "subtotal" in content["financial_summary"] else y + 6
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
    """Draw a random bar code without meaning; returns the bottom."""
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
    """Lay out a document on a page, ready to be drawn; text sizes vary between pages."""
    draw, _ = LAYOUTS[layout]
    # Bangla vowel signs reach far above and below the letters.
    spacing = 1.56 if document.locale.language == "bn" else 1.42
    if layout == "receipt":
        page = Page(face, scale, document.rng.randrange(430, 560, 10), 17, spacing)
    else:
        page = Page(face, scale, 1000, document.rng.choice((15, 16, 17)), spacing)
    draw(page, document)
    return page
