from decimal import Decimal

from data_prep.dataset.arithmetic import invoice_problems
from data_prep.synthetic.invoices.layouts import LAYOUTS
from data_prep.synthetic.invoices.locale import truth
from tests.helpers.invoices import contents


def test_all_sums_add_up_exactly():
    """Recomputed here from the lines alone, not by the code under test or by validate's."""
    kinds = set()
    for document in contents(300):
        value = truth(document.content)
        kinds.add(value["document_type"])
        unit = Decimal(1).scaleb(-document.locale.places)
        if value["document_type"] == "bank_statement":
            balance = Decimal(value["opening_balance"])
            for field in value["transactions"]:
                balance += Decimal(field.get("credit", 0)) - Decimal(field.get("debit", 0))
                assert Decimal(field["balance"]) == balance >= 0
            assert Decimal(value["closing_balance"]) == balance
            continue
        lines = value["line_items"]
        if value["document_type"] == "delivery_note":
            assert sum(Decimal(field["qty"]) for field in lines) == Decimal(value["total_qty"])
            continue
        summary = {k: v for k, v in value["financial_summary"].items() if isinstance(v, str)}
        summary = {key: Decimal(field) for key, field in summary.items()}
        bases = {}
        for field in lines:
            exact = Decimal(field["qty"]) * Decimal(field["unit_price"])
            exact -= exact * Decimal(field.get("discount_rate", 0)) / 100
            total = Decimal(field["line_total"])
            assert abs(total - exact) * 2 <= unit and total == total.quantize(unit)
            rate = field.get("tax_rate", "one")
            bases[rate] = bases.get(rate, 0) + total
        subtotal = sum(bases.values())
        assert summary.get("subtotal", subtotal) == subtotal
        less = summary.get("discount", Decimal(0))
        assert abs(less - subtotal * summary.get("discount_rate", 0) / 100) * 2 <= unit
        taxes = value["financial_summary"].get("taxes", ())
        whole = sum(Decimal(field["amount"]) for field in taxes) or summary["tax_amount"]
        assert whole == summary["tax_amount"]
        if "tax_included" in value["financial_summary"]:
            assert summary["grand_total"] == subtotal
            net = sum(Decimal(field["base"]) for field in taxes) or summary["tax_base"]
            assert net + whole == subtotal
        else:
            added = summary.get("shipping", 0) + whole
            assert summary["grand_total"] == subtotal - less + added
            for field in taxes:
                assert Decimal(field["base"]) == bases[field["rate"]]
                exact = bases[field["rate"]] * Decimal(field["rate"]) / 100
                assert abs(Decimal(field["amount"]) - exact) * 2 <= unit
            if not taxes:
                exact = (subtotal - less) * summary["tax_rate"] / 100
                assert abs(whole - exact) * 2 <= unit
        assert invoice_problems(value) == []
    assert kinds == {kind for _, kind in LAYOUTS.values()}
