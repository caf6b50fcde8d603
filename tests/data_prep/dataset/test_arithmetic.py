"""Sums of invoices, bills and statements: right ones pass, every planted error is told."""

import random
from decimal import Decimal

from data_prep.dataset.arithmetic import invoice_problems
from data_prep.synthetic.invoices.draw import make_setup, plan_document
from data_prep.synthetic.invoices.locale import rounded, truth
from tests.data_prep.test_validate import invoice


def test_arithmetic_of_invoices():
    assert invoice_problems(invoice()) == []
    assert invoice_problems(invoice(tax_rate=10)) == []
    assert invoice_problems(invoice(discount=2, tax_amount=0.5, grand_total=5.5)) == []
    assert invoice_problems(invoice(grand_total=8)) == ["7.0 - 0 + 0.7 is not the total 8"]
    assert len(invoice_problems(invoice(subtotal=9))) == 3
    wrong = invoice()
    wrong["line_items"][0]["qty"] = 3
    assert invoice_problems(wrong) == ["line 1: 3 x 1.5 is not 3.0"]
    for nothing in ([], 3, None, {}, {"line_items": 3}, {"financial_summary": [1]}):
        assert invoice_problems(nothing) == []
    assert invoice_problems(invoice(subtotal="n/a", tax_amount=True, grand_total=None)) == []


def test_amounts_without_decimals_are_rounded_to_whole_ones():
    lines = [{"qty": "3", "unit_price": "1990", "line_total": "5970"}]
    summary = {"subtotal": "5970", "tax_rate": "8", "tax_amount": "478", "grand_total": "6448"}
    assert invoice_problems({"line_items": lines, "financial_summary": summary}) == []
    wrong = summary | {"tax_amount": "479", "grand_total": "6449"}
    problems = invoice_problems({"line_items": lines, "financial_summary": wrong})
    assert problems == ["8 of 5970 is not the tax 479"]
    lines[0]["line_total"] = "5971"
    assert invoice_problems({"line_items": lines}) == ["line 1: 3 x 1990 is not 5971"]


def test_bank_statement_check_names_the_wrong_booking():
    bookings = [
        {"debit": "20.00", "balance": "80.00"},
        {"credit": "5.50", "balance": "86.50"},
        {"debit": "6.50", "balance": "80.00"},
    ]
    value = {"opening_balance": "100.00", "transactions": bookings, "closing_balance": "80.00"}
    value |= {"total_debit": "26.50", "total_credit": "5.00"}
    assert invoice_problems(value) == [
        "booking 2: 80.00 - 0 + 5.50 is not 86.50",
        "the credits add up to 5.50, not to 5.00",
    ]


def documents(count, seed=5):
    """Synthetic documents of every kind."""
    setup = make_setup(None, None, "clean", 1000)
    for index in range(count):
        yield plan_document(seed, index, setup)[0]


def test_every_planted_error_is_found():
    """Any amount that takes part in a sum, changed by a little, is told."""
    sums = ("qty", "unit_price", "line_total", "subtotal", "discount", "shipping", "tax_amount")
    sums += ("grand_total", "base", "amount", "debit", "credit", "balance", "opening_balance")
    sums += ("closing_balance", "total_debit", "total_credit", "previous", "current")
    sums += ("consumption", "tendered", "change", "total_qty", "tax_base", "tax_rate", "rate")
    planted = 0
    for number, document in enumerate(documents(80)):
        value = truth(document.content)
        rng = random.Random(number)
        places = [place for place in paths(value) if place[-1] in sums]
        if document.kind == "delivery_note":
            places = [place for place in places if place[-1] != "unit_price"]
        for place in rng.sample(places, min(6, len(places))):
            *way, last = place
            holder = value
            for part in way:
                holder = holder[part]
            right = holder[last]
            step = Decimal("1" if document.locale.places == 0 else "0.05")
            if last == "unit_price":
                step = Decimal(2) / max(abs(Decimal(holder["qty"])) / 2, 1)
                step = max(rounded(step, 2), Decimal("0.03"))
            if last == "qty":
                step = Decimal(1)  # of a kWh, a twentieth would be less than a cent
            if last in ("rate", "tax_rate"):
                step = Decimal(8)
            holder[last] = str(Decimal(right) + step)
            assert invoice_problems(value), (place, right, document.content)
            holder[last] = right
            planted += 1
        assert invoice_problems(value) == []
    assert planted > 300


def paths(value, way=()):
    if isinstance(value, dict | list):
        for key, field in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths(field, (*way, key))
    else:
        yield way


def test_bank_statement_check_accepts_opening_balance_0():
    bookings = [{"debit": 0, "credit": 5}, {"debit": 2, "credit": 0}]
    statement = {"opening_balance": 0, "transactions": bookings, "closing_balance": 3}
    assert invoice_problems(statement) == []
    statement["closing_balance"] = 0
    assert invoice_problems(statement) == ["the last balance is 3, not the closing balance 0"]
