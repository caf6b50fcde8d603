"""Whether the sums of an invoice, a bill or a bank statement come out.

Published labels break their own arithmetic in places, so a finding is something to look at and no
reason to drop a document.
"""

from decimal import Decimal, InvalidOperation

CENT = Decimal("0.011")  # what sums may differ by: a cent, and a little for rounding


def invoice_problems(value: object) -> list[str]:
    """Sums that do not come out in an invoice, a bill or a bank statement.

    `line_items[]{qty, unit_price, discount, discount_rate, line_total}`,
    `financial_summary{subtotal, discount, shipping, tax_rate, tax_base, taxes[]{rate, base,
    amount}, tax_amount, tax_included, grand_total}` and the rest of data_prep/schemas/
    invoice.schema.json; whatever is missing or no number is not checked. A tax rate above 1 is
    taken as a percentage. A product may be off by the rounding of the currency's smallest unit,
    which is taken from the amounts: without decimals, half of 1, otherwise a cent.
    """
    if not isinstance(value, dict):
        return []
    summary = value.get("financial_summary")
    summary = summary if isinstance(summary, dict) else {}
    items = objects(value.get("line_items"))
    slack = rounding_of([one.get("line_total") for one in items] + list(summary.values()))
    return [
        *line_problems(items, slack),
        *summary_problems(items, summary, slack),
        *statement_problems(value),
        *other_problems(value, items, summary),
    ]


def objects(value: object) -> list[dict]:
    """The objects in a list; none where it is no list."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def rounding_of(amounts: list[object]) -> Decimal:
    """What a product may be off by: a cent, or half of 1 where no amount has decimals."""
    known = [one for one in map(number, amounts) if one is not None]
    whole = bool(known) and all(one.as_tuple().exponent >= 0 for one in known)
    return Decimal("0.51") if whole else CENT


def line_problems(items: list[dict], slack: Decimal) -> list[str]:
    """Lines whose quantity, price and discount do not make their total."""
    found = []
    for index, one in enumerate(items, start=1):
        quantity, price = number(one.get("qty")), number(one.get("unit_price"))
        total, rate = number(one.get("line_total")), number(one.get("discount_rate"))
        if None in (quantity, price, total):
            continue
        less = number(one.get("discount")) or Decimal(0)
        if rate is not None and "discount" not in one:
            less = quantity * price * rate / 100
        if abs(quantity * price - less - total) > slack:
            reduced = f" less {less.normalize():f}" if less else ""
            found.append(f"line {index}: {quantity} x {price}{reduced} is not {total}")
    return found


def summary_problems(items: list[dict], summary: dict, slack: Decimal) -> list[str]:
    """Totals that are not the sum of the lines, the taxes, the discount and the shipping."""
    found = []
    totals = [number(one.get("line_total")) for one in items]
    subtotal, rate = number(summary.get("subtotal")), number(summary.get("tax_rate"))
    tax, total = number(summary.get("tax_amount")), number(summary.get("grand_total"))
    less = number(summary.get("discount")) or Decimal(0)
    freight = number(summary.get("shipping")) or Decimal(0)
    included = summary.get("tax_included") is True
    if totals and None not in totals:
        if subtotal is None and included:
            subtotal = sum(totals)
        elif subtotal is not None and abs(sum(totals) - subtotal) > CENT:
            found.append(f"the lines add up to {sum(totals)}, not to the subtotal {subtotal}")
    share = number(summary.get("discount_rate"))
    if None not in (subtotal, share) and abs(subtotal * share / 100 - less) > slack:
        found.append(f"{share} % of {subtotal} is not the discount {less}")

    def wrong_tax(base: Decimal, rate: Decimal, tax: Decimal) -> bool:
        part = rate / 100 if rate > 1 else rate
        return abs(base * part - tax) > slack * (1 + part)

    base = number(summary.get("tax_base"))
    taxed = None if subtotal is None else subtotal - less - ((tax or 0) if included else 0)
    if None not in (base, taxed, tax) and abs(base - taxed) > CENT:
        found.append(f"the taxed amount is {base}, not {taxed}")
    base = taxed if base is None else base
    if None not in (base, rate, tax) and wrong_tax(base, rate, tax):
        found.append(f"{rate} of {base} is not the tax {tax}")
    rates = objects(summary.get("taxes"))
    known = [[number(one.get(key)) for key in ("rate", "base", "amount")] for one in rates]
    known = [one for one in known if None not in one]
    for one_rate, one_base, amount in known:
        if wrong_tax(one_base, one_rate, amount):
            found.append(f"{one_rate} of {one_base} is not the tax {amount}")
    if known and len(known) == len(rates):
        bases, amounts = sum(one[1] for one in known), sum(one[2] for one in known)
        if tax is not None and abs(amounts - tax) > CENT:
            found.append(f"the taxes add up to {amounts}, not to {tax}")
        if taxed is not None and abs(bases - taxed) > CENT:
            found.append(f"the taxed amounts add up to {bases}, not to {taxed}")
        found += rate_problems(items, known) if not (included or less) else []
    added = Decimal(0) if included else tax
    complete = None not in (subtotal, added, total)
    if complete and abs(subtotal - less + freight + added - total) > CENT:
        sent = f" + {freight}" if freight else ""
        found.append(f"{subtotal} - {less}{sent} + {added} is not the total {total}")
    return found


def rate_problems(items: list[dict], taxes: list[list[Decimal]]) -> list[str]:
    """Rates whose lines do not add up to the amount that was taxed; lines must state theirs."""
    lines = [(number(one.get("tax_rate")), number(one.get("line_total"))) for one in items]
    if any(None in line for line in lines):
        return []
    found = []
    for rate, base, _ in taxes:
        whole = sum((total for its_rate, total in lines if its_rate == rate), Decimal(0))
        if abs(whole - base) > CENT:
            found.append(f"the lines at {rate} add up to {whole}, not to {base}")
    return found


def statement_problems(value: dict) -> list[str]:
    """Balances of a bank statement that do not follow from its bookings."""
    found = []
    balance = number(value.get("opening_balance"))
    sums = {"debit": Decimal(0), "credit": Decimal(0)}
    bookings = objects(value.get("transactions"))
    for index, one in enumerate(bookings, start=1):
        debit, credit = number(one.get("debit", 0)), number(one.get("credit", 0))
        said = number(one.get("balance"))
        if None in (debit, credit):
            return found
        sums = {"debit": sums["debit"] + debit, "credit": sums["credit"] + credit}
        if None not in (balance, said) and abs(balance - debit + credit - said) > CENT:
            found.append(f"booking {index}: {balance} - {debit} + {credit} is not {said}")
        # One wrong balance is one finding, not one for every later booking.
        balance = said if said is not None else balance and balance - debit + credit
    closing = number(value.get("closing_balance"))
    if bookings and None not in (balance, closing) and abs(balance - closing) > CENT:
        found.append(f"the last balance is {balance}, not the closing balance {closing}")
    for side, whole in sums.items():
        said = number(value.get(f"total_{side}"))
        if bookings and said is not None and abs(said - whole) > CENT:
            found.append(f"the {side}s add up to {whole}, not to {said}")
    return found


def other_problems(value: dict, items: list[dict], summary: dict) -> list[str]:
    """A meter, the change or a number of goods that does not come out."""
    found = []
    meter = value.get("meter")
    if isinstance(meter, dict):
        old, new, used = (number(meter.get(k)) for k in ("previous", "current", "consumption"))
        if None not in (old, new, used) and new - old != used:
            found.append(f"from {old} to {new} is not a consumption of {used}")
    payment = value.get("payment")
    if isinstance(payment, dict):
        given, back = number(payment.get("tendered")), number(payment.get("change"))
        total = number(summary.get("grand_total"))
        if None not in (given, back, total) and abs(given - total - back) > CENT:
            found.append(f"{given} - {total} is not the change {back}")
    counted = number(value.get("total_qty"))
    quantities = [number(one.get("qty")) for one in items]
    if counted is not None and None not in quantities and sum(quantities) != counted:
        found.append(f"the quantities add up to {sum(quantities)}, not to {counted}")
    return found


def number(value: object) -> Decimal | None:
    """A JSON number, or a text that is a plain one, as a Decimal."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        parsed = Decimal(str(value).strip().removesuffix("%"))
    except InvalidOperation:
        return None
    return parsed if parsed.is_finite() else None
