"""Document content: invent parties, line items, taxes and totals that add up exactly.

Every line total, discount and tax is rounded half up to the currency's smallest unit; sums add
rounded amounts, so that they are exact.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal

from data_prep.synthetic.invoices.locale import Locale, Shown, Writer, rounded
from data_prep.synthetic.invoices.words import LABELS, WORDS

HUNDRED = Decimal(100)


@dataclass
class Document:
    """Content of one document: `content` is the ground truth, `labels` are the texts around it.

    `kind` is the document_type; the layout draws its random choices from `rng`.
    """

    kind: str
    locale: Locale
    content: dict
    labels: Mapping[str, str]
    writer: Writer
    rng: random.Random


def make_document(kind: str, locale: Locale, rng: random.Random, sign: str) -> Document:
    """Invent a document of a kind; `sign` is the currency sign, or its code if the font lacks it.

    Raises:
        KeyError: no such kind.
    """
    labels = LABELS[locale.language] | ({"tax": locale.tax} if locale.tax else {})
    labels = {key: Shown(text) for key, text in labels.items()}
    writer = Writer(locale, rng, sign)
    content: dict = {"document_type": Shown(labels[kind], kind)}
    day = date(2021, 1, 1) + timedelta(days=rng.randrange(2190))
    initials = "".join(word[0] for word in kind.upper().split("_"))
    prefix = rng.choice(("", "", f"{initials}-", initials, "A-", f"{day.year}-"))
    if locale.language == "bn" and not prefix[:1].isdigit():
        prefix = ""
    number = f"{rng.randrange(10 ** rng.randint(3, 6)):0{rng.randint(4, 7)}d}"
    if rng.random() < 0.3:
        number = f"{number}/{rng.randrange(10, 99)}"
    content["document_number"] = Shown(writer.digits(prefix + number))
    content["date"] = writer.date(day)
    _KINDS[kind](content, writer, rng, day)
    document = Document(kind, locale, content, labels, writer, rng)
    if kind != "delivery_note":
        document.content = {"document_type": content.pop("document_type")} | {
            "currency": Shown(sign, locale.currency)
        }
        document.content |= content
    return document


# --- building blocks


def _address(writer: Writer, rng: random.Random) -> str:
    """Two-line address in the order of the language."""
    words = WORDS[writer.locale.language]
    street, city = rng.choice(words["streets"]), rng.choice(words["cities"])
    house = str(rng.randint(1, 180))
    post = f"{rng.randrange(10000, 99999)}"
    match writer.locale.language:
        case "en":
            text = f"{house} {street}\n{city} {post}"
        case "fr":
            text = f"{house}, {street}\n{post} {city}"
        case "ko":
            text = f"{city}\n{street} {house}"
        case "zh":
            text = f"{city}\n{street}{house}号"
        case "bn":
            text = f"{house} {street}\n{city}-{post[:4]}"
        case _:
            text = f"{street} {house}\n{post} {city}"
    return writer.digits(text)


def _firm(writer: Writer, rng: random.Random, names: str, other: str) -> str:
    words = WORDS[writer.locale.language]
    free = [name for name in words[names] if name not in other]
    name, form = rng.choice(free), rng.choice(words["forms"])
    if writer.locale.language == "zh":
        return name + form
    return f"{form} {name}" if form in ("주식회사", "(주)") else f"{name} {form}"


def _party(
    writer: Writer, rng: random.Random, *, kind: str = "firms", other: str = "", **more: str
) -> dict:
    """A firm or person of the word list `kind`, with another name than `other`."""
    if kind == "names":
        name = rng.choice(WORDS[writer.locale.language]["names"])
    else:
        name = _firm(writer, rng, kind, other)
    party = {"name": Shown(name), "address": Shown(_address(writer, rng))}
    return party | {key: Shown(text) for key, text in more.items()}


def _tax_id(writer: Writer, rng: random.Random) -> str:
    digits = f"{rng.randrange(10**8, 10**9)}"
    match writer.locale.language:
        case "ko":
            return f"{digits[:3]}-{digits[3:5]}-{digits[5:]}0"
        case "zh":
            return f"91{digits}{digits[:7]}"
        case "bn":
            return writer.digits(digits)
        case _:
            return f"{writer.locale.name[-2:]}{digits}"


def _phone(writer: Writer, rng: random.Random) -> str:
    # 555 and a leading zero: numbers that nobody has.
    return writer.digits(f"0{rng.randrange(10, 99)}-555-{rng.randrange(10000):04d}")


def _price(rng: random.Random, locale: Locale, low: float, high: float) -> Decimal:
    """Random price between `low` and `high` euros, converted to the currency."""
    amount = Decimal(str(round(low * (high / low) ** rng.random(), 2))) * Decimal(locale.scale)
    if locale.places == 0:
        return max(rounded(amount / 10, 0) * 10, Decimal(10))
    return rounded(amount, 2)


def _line_items(
    writer: Writer,
    rng: random.Random,
    rates: list[Decimal],
    discounts: bool,
    sign: int = 1,
    goods_only: bool = False,
) -> tuple[list[dict], list[tuple[Decimal, Decimal]]]:
    """Line items as shown, and (line total, tax rate) of each."""
    locale, words = writer.locale, WORDS[writer.locale.language]
    catalogue = [(name, True) for name in words["articles"]]
    if not goods_only:
        catalogue += [(name, False) for name in words["services"]]
    lines, sums = [], []
    with_codes = rng.random() < 0.5
    for index, (name, article) in enumerate(rng.sample(catalogue, rng.randint(2, 9))):
        joint = "，" if locale.language == "zh" else ", "
        detail = joint + rng.choice(words["details"]) if article and rng.random() < 0.45 else ""
        line: dict = {"desc": Shown(name + detail)}
        if with_codes:
            code = f"{rng.randrange(100, 999)}-{rng.randrange(10000):04d}"
            line = {"code": Shown(writer.digits(code))} | line
        quantity = Decimal(rng.choice((1, 1, 2, 3, 4, 5, 10, 12, 24)))
        if not article:
            quantity = Decimal(rng.randint(2, 80)) / 2
        price = _price(rng, locale, *((4, 600) if article else (30, 140)))
        line["qty"] = writer.number(sign * quantity)
        unit = rng.choice(words["units"][:3]) if article else words["hour"][0]
        line["unit"] = Shown(unit)
        line["unit_price"] = writer.money(price, signed=False)
        total = sign * quantity * price
        if discounts:
            rate = Decimal(rng.choice((0, 0, 5, 10, 15)))
            line["discount_rate"] = writer.number(rate)
            total -= total * rate / HUNDRED
        total = rounded(total, locale.places)
        rate = rates[index % len(rates)]
        if len(rates) > 1:
            line["tax_rate"] = writer.number(rate)
        line["line_total"] = writer.money(total, signed=False)
        lines.append(line)
        sums.append((total, rate))
    return lines, sums


def _summary(
    writer: Writer,
    sums: list[tuple[Decimal, Decimal]],
    discount_rate: Decimal | None = None,
    shipping: Decimal | None = None,
    included: bool = False,
) -> tuple[dict, Decimal]:
    """Totals as shown, and the grand total. A discount on the sum needs a single tax rate."""
    places = writer.locale.places
    subtotal = sum((total for total, _ in sums), Decimal(0))
    summary = {"subtotal": writer.money(subtotal)}
    net = subtotal
    if discount_rate is not None:
        discount = rounded(subtotal * discount_rate / HUNDRED, places)
        summary["discount_rate"] = writer.percent(discount_rate)
        summary["discount"] = writer.money(discount)
        net -= discount
    bases: dict[Decimal, Decimal] = {}
    for total, rate in sums:
        bases[rate] = bases.get(rate, Decimal(0)) + total
    if len(bases) == 1:
        bases = dict.fromkeys(bases, net)
    taxes, whole_tax = [], Decimal(0)
    for rate, base in sorted(bases.items(), reverse=True):
        tax = rounded(base * rate / (HUNDRED + rate if included else HUNDRED), places)
        shown = {"rate": writer.percent(rate), "base": writer.money(base - tax * included)}
        taxes.append(shown | {"amount": writer.money(tax)})
        whole_tax += tax
    if shipping is not None:
        summary["shipping"] = writer.money(shipping)
    grand = net + (shipping or Decimal(0)) + (Decimal(0) if included else whole_tax)
    if len(taxes) == 1:
        summary["tax_rate"] = taxes[0]["rate"]
        if included:
            summary["tax_base"] = taxes[0]["base"]
    else:
        summary["taxes"] = taxes
    summary["tax_amount"] = writer.money(whole_tax)
    if included:
        summary["tax_included"] = Shown(LABELS[writer.locale.language]["included"], True)
    summary["grand_total"] = writer.money(grand)
    return summary, grand


# --- document kinds: each function adds its fields to the content


def _rates(rng: random.Random, locale: Locale, several: float) -> list[Decimal]:
    rates = [Decimal(rate) for rate in locale.rates]
    if locale.tax != "Sales tax" and len(rates) > 1 and rng.random() < several:
        return rng.sample(rates, 2)
    return [rng.choice(rates)]


def _invoice(content: dict, writer: Writer, rng: random.Random, day: date) -> None:
    content["due_date"] = writer.date(day + timedelta(days=rng.choice((14, 30, 60))))
    _sale(content, writer, rng, "vendor", "client")


def _sale(
    content: dict, writer: Writer, rng: random.Random, seller: str, buyer: str, sign: int = 1
) -> None:
    contact = {"tax_id": _tax_id(writer, rng), "phone": _phone(writer, rng)}
    content[seller] = _party(writer, rng, **contact)
    kind = "firms" if rng.random() < 0.6 else "names"
    content[buyer] = _party(writer, rng, kind=kind, other=content[seller]["name"])
    rates = _rates(rng, writer.locale, 0.35)
    lines, sums = _line_items(writer, rng, rates, rng.random() < 0.35, sign)
    content["line_items"] = lines
    one_rate = len({rate for _, rate in sums}) == 1
    less = Decimal(rng.choice((2, 3, 5, 10))) if one_rate and rng.random() < 0.4 else None
    freight = _price(rng, writer.locale, 4, 40) if sign > 0 and rng.random() < 0.3 else None
    content["financial_summary"], _ = _summary(writer, sums, less, freight)


def _purchase_order(content: dict, writer: Writer, rng: random.Random, day: date) -> None:
    content["delivery_date"] = writer.date(day + timedelta(days=rng.randint(5, 45)))
    _sale(content, writer, rng, "vendor", "client")


def _quotation(content: dict, writer: Writer, rng: random.Random, day: date) -> None:
    content["valid_until"] = writer.date(day + timedelta(days=rng.choice((14, 30, 90))))
    _sale(content, writer, rng, "vendor", "client")


def _credit_note(content: dict, writer: Writer, rng: random.Random, day: date) -> None:
    content["reference"] = Shown(writer.digits(f"{rng.randrange(10**5, 10**6)}"))
    _sale(content, writer, rng, "vendor", "client", sign=-1)


def _delivery_note(content: dict, writer: Writer, rng: random.Random, day: date) -> None:
    content["reference"] = Shown(writer.digits(f"{rng.randrange(10**5, 10**6)}"))
    content["vendor"] = _party(writer, rng, phone=_phone(writer, rng))
    content["client"] = _party(writer, rng, other=content["vendor"]["name"])
    lines, _ = _line_items(writer, rng, [Decimal(0)], False, goods_only=True)
    content["line_items"] = [
        {key: text for key, text in line.items() if key in ("code", "desc", "qty", "unit")}
        for line in lines
    ]
    quantities = (Decimal(line["qty"].value) for line in lines)
    content["total_qty"] = writer.number(sum(quantities, Decimal(0)))


def _receipt(content: dict, writer: Writer, rng: random.Random, day: date) -> None:
    locale, words = writer.locale, WORDS[writer.locale.language]
    time = f"{rng.randint(7, 21):02d}:{rng.randrange(60):02d}"
    content["time"] = Shown(writer.digits(time), time)
    contact = {"tax_id": _tax_id(writer, rng), "phone": _phone(writer, rng)}
    content["vendor"] = _party(writer, rng, **contact)
    rates = _rates(rng, locale, 0.4)
    lines, sums = [], []
    for index, name in enumerate(rng.sample(words["goods"], rng.randint(2, 11))):
        quantity, price = rng.choice((1, 1, 1, 2, 3, 6)), _price(rng, locale, 0.6, 14)
        total = quantity * price
        line = {
            "desc": Shown(name),
            "qty": writer.number(Decimal(quantity)),
            "unit_price": writer.money(price, signed=False),
            "line_total": writer.money(total, signed=False),
        }
        lines.append(line)
        sums.append((total, rates[index % len(rates)]))
    content["line_items"] = lines
    summary, grand = _summary(writer, sums, included=locale.included)
    if locale.included:
        del summary["subtotal"]  # equal to the grand total
    content["financial_summary"] = summary
    if rng.random() < 0.6:
        step = Decimal(locale.scale) * 5 if locale.places == 0 else Decimal(5)
        paid = (grand // step + 1) * step
        content["payment"] = {
            "tendered": writer.money(rounded(paid, locale.places)),
            "change": writer.money(rounded(paid - grand, locale.places)),
        }


def _bank_statement(content: dict, writer: Writer, rng: random.Random, day: date) -> None:
    locale, words = writer.locale, WORDS[writer.locale.language]
    start = (day.replace(day=1) - timedelta(days=1)).replace(day=1)
    content["period_start"] = writer.date(start)
    content["period_end"] = writer.date(day.replace(day=1) - timedelta(days=1))
    name = Shown(rng.choice(words["banks"]))
    content["bank"] = {"name": name, "address": Shown(_address(writer, rng))}
    digits = f"{rng.randrange(10**11, 10**12)}"
    number = rng.choice(("{0} {1} {2}", "{0}-{1}-{2}")).format(digits[:4], digits[4:8], digits[8:])
    content["account"] = {
        "holder": Shown(rng.choice(words["names"])),
        "number": Shown(writer.digits(number)),
    }
    balance = _price(rng, locale, 300, 4000)
    content["opening_balance"] = writer.money(balance)
    debits = credits = Decimal(0)
    rows = []
    for offset in sorted(rng.randrange(28) for _ in range(rng.randint(5, 16))):
        amount = _price(rng, locale, 3, 900)
        incoming = balance < amount or rng.random() < 0.25
        name = rng.choice(words["incomes" if incoming else "bookings"])
        balance += amount if incoming else -amount
        debits, credits = (debits, credits + amount) if incoming else (debits + amount, credits)
        rows.append(
            {
                "date": writer.date(start + timedelta(days=offset)),
                "desc": Shown(name),
                "credit" if incoming else "debit": writer.money(amount, signed=False),
                "balance": writer.money(balance, signed=False),
            }
        )
    content["transactions"] = rows
    content["total_debit"] = writer.money(debits, signed=False)
    content["total_credit"] = writer.money(credits, signed=False)
    content["closing_balance"] = writer.money(balance)


def _utility_bill(content: dict, writer: Writer, rng: random.Random, day: date) -> None:
    locale, words = writer.locale, WORDS[writer.locale.language]
    content["due_date"] = writer.date(day + timedelta(days=rng.choice((14, 21, 30))))
    content["vendor"] = _party(
        writer, rng, kind="utilities", tax_id=_tax_id(writer, rng), phone=_phone(writer, rng)
    )
    content["client"] = _party(writer, rng, kind="names")
    content["customer_number"] = Shown(writer.digits(f"{rng.randrange(10**7, 10**8)}"))
    previous, night = Decimal(rng.randrange(1000, 60000)), Decimal(rng.randrange(20, 180))
    used = night + rng.randrange(60, 420)
    # No Latin letters on Bangla pages: most Bangla fonts have none.
    unit = "ইউনিট" if locale.language == "bn" else "kWh"
    content["meter"] = {
        "number": Shown(writer.digits(f"{rng.randrange(10**6, 10**7)}")),
        "previous": writer.number(previous),
        "current": writer.number(previous + used),
        "consumption": writer.number(used, unit),
    }
    lines, sums = [], []
    rates = _rates(rng, locale, 0)
    quantities = (used - night, night, used, Decimal(1))
    places = 1 if locale.places == 0 else 4
    for name, quantity, euros in zip(words["tariff"], quantities, (0.28, 0.21, 0.09, 9.5)):
        euros = Decimal(str(euros)) * Decimal(locale.scale) * Decimal(rng.randrange(80, 125))
        last = quantity == 1
        price = rounded(euros / HUNDRED, locale.places if last else places)
        total = rounded(quantity * price, locale.places)
        line = {"desc": Shown(name), "qty": writer.number(quantity)}
        line["unit"] = Shown(unit if not last else words["units"][0])
        line["unit_price"] = writer.money(price, signed=False)
        line["line_total"] = writer.money(total, signed=False)
        lines.append(line)
        sums.append((total, rates[0]))
    content["line_items"] = lines
    content["financial_summary"], _ = _summary(writer, sums)


_KINDS = {
    "invoice": _invoice,
    "receipt": _receipt,
    "bank_statement": _bank_statement,
    "purchase_order": _purchase_order,
    "credit_note": _credit_note,
    "delivery_note": _delivery_note,
    "utility_bill": _utility_bill,
    "quotation": _quotation,
}
