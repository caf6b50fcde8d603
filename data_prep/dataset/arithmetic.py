"""Arithmetic checks: whether the sums of an invoice, a bill or a bank statement come out.

Published labels contain wrong sums in places, so a problem is a warning and no reason to drop a
document.
"""

from collections.abc import Iterable
from decimal import Decimal, InvalidOperation

CENT = Decimal("0.011")  # tolerance of sums: a cent, and a little for rounding
ZERO = Decimal(0)


def invoice_problems(value: object) -> list[str]:
    """Sums that do not come out in an invoice, a bill or a bank statement.

    `line_items[]{qty, unit_price, discount, discount_rate, line_total}`,
    `financial_summary{subtotal, discount, shipping, tax_rate, tax_base, taxes[]{rate, base,
    amount}, tax_amount, tax_included, grand_total}` and the rest of data_prep/schemas/
    invoice.schema.json; values that are missing or no numbers are not checked. A tax rate above 1
    is taken as a percentage. A product may be off by the rounding of the currency's smallest unit,
    which is taken from the amounts: without decimals, half of 1, otherwise a cent.
    """
    if not isinstance(value, dict):
        return []
    summary = value.get("financial_summary")
    summary = summary if isinstance(summary, dict) else {}
    items = objects(value.get("line_items"))
    tolerance = rounding_of([item.get("line_total") for item in items] + list(summary.values()))
    return [
        *line_problems(items, tolerance),
        *summary_problems(items, summary, tolerance),
        *statement_problems(value),
        *other_problems(value, items, summary),
    ]


def objects(value: object) -> list[dict]:
    """The objects in a list; empty for a value that is no list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def rounding_of(amounts: list[object]) -> Decimal:
    """Tolerance of products: a cent, or half of 1 where no amount has decimals."""
    known = [amount for amount in map(number, amounts) if amount is not None]
    whole = bool(known) and all(has_no_decimals(amount) for amount in known)
    return Decimal("0.51") if whole else CENT


def has_no_decimals(amount: Decimal) -> bool:
    """Whether a number is written without decimals; 1.00 has two."""
    exponent = amount.as_tuple().exponent
    return isinstance(exponent, int) and exponent >= 0


def total_of(amounts: Iterable[Decimal | None]) -> Decimal | None:
    """Sum of the amounts; None where one of them is None."""
    total = ZERO
    for amount in amounts:
        if amount is None:
            return None
        total += amount
    return total


def line_problems(items: list[dict], tolerance: Decimal) -> list[str]:
    """Lines whose quantity, price and discount do not make their total."""
    problems = []
    for index, item in enumerate(items, start=1):
        quantity, price = number(item.get("qty")), number(item.get("unit_price"))
        total, rate = number(item.get("line_total")), number(item.get("discount_rate"))
        if quantity is None or price is None or total is None:
            continue
        discount = number(item.get("discount")) or ZERO
        if rate is not None and "discount" not in item:
            discount = quantity * price * rate / 100
        if abs(quantity * price - discount - total) > tolerance:
            reduced = f" less {discount.normalize():f}" if discount else ""
            problems.append(f"line {index}: {quantity} x {price}{reduced} is not {total}")
    return problems


def is_wrong_tax(base: Decimal, rate: Decimal, tax: Decimal, tolerance: Decimal) -> bool:
    """Whether a tax is not the rate (above 1 a percentage) of an amount."""
    share = rate / 100 if rate > 1 else rate
    return abs(base * share - tax) > tolerance * (1 + share)


def summary_problems(items: list[dict], summary: dict, tolerance: Decimal) -> list[str]:
    """Totals that are not the sum of the lines, the taxes, the discount and the shipping."""
    problems = []
    subtotal, rate = number(summary.get("subtotal")), number(summary.get("tax_rate"))
    tax, total = number(summary.get("tax_amount")), number(summary.get("grand_total"))
    discount = number(summary.get("discount")) or ZERO
    shipping = number(summary.get("shipping")) or ZERO
    included = summary.get("tax_included") is True
    lines = total_of(number(item.get("line_total")) for item in items)
    if items and lines is not None:
        if subtotal is None and included:
            subtotal = lines
        elif subtotal is not None and abs(lines - subtotal) > CENT:
            problems.append(f"the lines add up to {lines}, not to the subtotal {subtotal}")
    percentage = number(summary.get("discount_rate"))
    if subtotal is not None and percentage is not None:
        expected = subtotal * percentage / 100
        if abs(expected - discount) > tolerance:
            problems.append(f"{percentage} % of {subtotal} is not the discount {discount}")

    base = number(summary.get("tax_base"))
    taxed = None
    if subtotal is not None:
        taxed = subtotal - discount - ((tax or 0) if included else 0)
    if base is not None and taxed is not None and tax is not None and abs(base - taxed) > CENT:
        problems.append(f"the taxed amount is {base}, not {taxed}")
    base = taxed if base is None else base
    known = base is not None and rate is not None and tax is not None
    if known and is_wrong_tax(base, rate, tax, tolerance):
        problems.append(f"{rate} of {base} is not the tax {tax}")
    problems += tax_problems(items, summary, tolerance, tax, taxed)
    added = ZERO if included else tax
    if subtotal is not None and added is not None and total is not None:
        expected = subtotal - discount + shipping + added
        if abs(expected - total) > CENT:
            sent = f" + {shipping}" if shipping else ""
            problems.append(f"{subtotal} - {discount}{sent} + {added} is not the total {total}")
    return problems


def tax_problems(
    items: list[dict], summary: dict, tolerance: Decimal, tax: Decimal | None, taxed: Decimal | None
) -> list[str]:
    """Taxes of single rates that do not come out, or do not add up to the tax on `taxed`."""
    problems = []
    entries = objects(summary.get("taxes"))
    taxes: list[tuple[Decimal, Decimal, Decimal]] = []
    for entry in entries:
        rate, base, amount = (number(entry.get(key)) for key in ("rate", "base", "amount"))
        if rate is not None and base is not None and amount is not None:
            taxes.append((rate, base, amount))
    for rate, base, amount in taxes:
        if is_wrong_tax(base, rate, amount, tolerance):
            problems.append(f"{rate} of {base} is not the tax {amount}")
    if taxes and len(taxes) == len(entries):
        bases = sum((base for _, base, _ in taxes), ZERO)
        amounts = sum((amount for _, _, amount in taxes), ZERO)
        if tax is not None and abs(amounts - tax) > CENT:
            problems.append(f"the taxes add up to {amounts}, not to {tax}")
        if taxed is not None and abs(bases - taxed) > CENT:
            problems.append(f"the taxed amounts add up to {bases}, not to {taxed}")
        if summary.get("tax_included") is not True and not number(summary.get("discount")):
            problems += rate_problems(items, taxes)
    return problems


def rate_problems(items: list[dict], taxes: list[tuple[Decimal, Decimal, Decimal]]) -> list[str]:
    """Rates whose lines do not add up to the taxed amount; checked if all lines state a rate."""
    lines: list[tuple[Decimal, Decimal]] = []
    for item in items:
        rate, total = number(item.get("tax_rate")), number(item.get("line_total"))
        if rate is None or total is None:
            return []
        lines.append((rate, total))
    problems = []
    for rate, base, _ in taxes:
        total = sum((amount for line_rate, amount in lines if line_rate == rate), ZERO)
        if abs(total - base) > CENT:
            problems.append(f"the lines at {rate} add up to {total}, not to {base}")
    return problems


def statement_problems(value: dict) -> list[str]:
    """Balances of a bank statement that do not follow from its bookings."""
    problems = []
    balance = number(value.get("opening_balance"))
    sums = {"debit": ZERO, "credit": ZERO}
    bookings = objects(value.get("transactions"))
    for index, booking in enumerate(bookings, start=1):
        debit, credit = number(booking.get("debit", 0)), number(booking.get("credit", 0))
        stated = number(booking.get("balance"))
        if debit is None or credit is None:
            return problems
        sums["debit"] += debit
        sums["credit"] += credit
        expected = None if balance is None else balance - debit + credit
        if expected is not None and stated is not None and abs(expected - stated) > CENT:
            problems.append(f"booking {index}: {balance} - {debit} + {credit} is not {stated}")
        # A wrong balance is reported once, not for every later booking.
        balance = expected if stated is None else stated
    closing = number(value.get("closing_balance"))
    if bookings and balance is not None and closing is not None and abs(balance - closing) > CENT:
        problems.append(f"the last balance is {balance}, not the closing balance {closing}")
    for side, total in sums.items():
        stated = number(value.get(f"total_{side}"))
        if bookings and stated is not None and abs(stated - total) > CENT:
            problems.append(f"the {side}s add up to {total}, not to {stated}")
    return problems


def other_problems(value: dict, items: list[dict], summary: dict) -> list[str]:
    """A meter, the change or a number of goods that does not come out."""
    problems = []
    meter = value.get("meter")
    if isinstance(meter, dict):
        old, new, used = (number(meter.get(k)) for k in ("previous", "current", "consumption"))
        if old is not None and new is not None and used is not None and new - old != used:
            problems.append(f"from {old} to {new} is not a consumption of {used}")
    payment = value.get("payment")
    if isinstance(payment, dict):
        paid, change = number(payment.get("tendered")), number(payment.get("change"))
        total = number(summary.get("grand_total"))
        known = paid is not None and change is not None and total is not None
        if known and abs(paid - total - change) > CENT:
            problems.append(f"{paid} - {total} is not the change {change}")
    count = number(value.get("total_qty"))
    quantities = total_of(number(item.get("qty")) for item in items)
    if count is not None and quantities is not None and quantities != count:
        problems.append(f"the quantities add up to {quantities}, not to {count}")
    return problems


def number(value: object) -> Decimal | None:
    """Parse a JSON number, or a text that is a plain one, as a Decimal; None for others."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        parsed = Decimal(str(value).strip().removesuffix("%"))
    except InvalidOperation:
        return None
    return parsed if parsed.is_finite() else None
