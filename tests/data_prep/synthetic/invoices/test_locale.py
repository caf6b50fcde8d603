import random
from datetime import date, datetime
from decimal import Decimal

import pytest

from data_prep.synthetic.invoices.locale import LOCALES, Writer, rounded
from ocrkit.metrics.text import ascii_digits, parse_amount


@pytest.mark.parametrize("name", LOCALES)
def test_amounts_and_dates_read_back_in_their_locale(name):
    locale = LOCALES[name]
    known = {"en-US": "en", "en-IE": "en-gb", "en-JP": "en-gb"}.get(name, name)
    for seed in range(30):
        rng = random.Random(seed)
        writer = Writer(locale, rng, rng.choice((locale.sign, locale.currency)))
        amount = rounded(Decimal(rng.randrange(-(10**9), 10**9)) / 100, locale.places)
        shown = writer.money(amount)
        assert parse_amount(shown, known) == amount == Decimal(shown.value), shown
        assert parse_amount(shown.value, "en") == amount
        day = date(2024, rng.randint(1, 12), rng.randint(1, 28))
        assert datetime.strptime(ascii_digits(writer.date(day)), writer.date_format).date() == day


def test_grouping_is_each_countrys_own():
    shown = {
        name: Writer(LOCALES[name], random.Random(0), "").money(Decimal("1234567.50"), signed=False)
        for name in ("en-US", "de-DE", "fr-FR", "de-CH", "en-IN", "bn-BD")
    }
    for name, text in shown.items():
        shown[name] = text.replace("\u00a0", " ").strip(" ")
    assert shown == {
        "en-US": "1,234,567.50",
        "de-DE": "1.234.567,50",
        "fr-FR": "1 234 567,50",
        "de-CH": "1'234'567.50",
        "en-IN": "12,34,567.50",
        "bn-BD": "১২,৩৪,৫৬৭.৫০",
    }
