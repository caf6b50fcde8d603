"""Locales: format numbers, money and dates as a country writes them, with their ground truth.

A document is a nested dict whose leaves are `Shown`: the text on the page together with its value
in the ground truth. Values are strings, because a JSON number loses the zeros on the page (`12.50`)
and Donut's metrics drop a 0. Amounts and quantities are digits with a dot and a minus sign
(`-1234.50`), rates are percentages without the sign (`7.5`), dates are ISO 8601, currencies are ISO
4217 codes, and every other value is the text on the page with its lines joined by a space.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

BANGLA_DIGITS = str.maketrans("0123456789", "০১২৩৪৫৬৭৮৯")
MONTHS = "January February March April May June July August September October November December"


@dataclass(frozen=True)
class Locale:
    """Number, money and date formats and tax rates of a country.

    Attributes:
        money: format of an amount with the placeholders `{sign}` and `{n}`.
        group: thousands separator.
        mark: decimal separator.
        rates: tax rates in percent.
        dates: strftime formats; `%B` and `%b` give English month names.
        scale: exchange rate from euros, so that prices have a usual size.
        places: decimals of an amount.
        tax: name of the tax; "" takes the language's usual name.
        included: whether prices on receipts include the tax.
        lakh: whether digits are grouped as 12,34,567.
    """

    name: str
    language: str
    currency: str
    sign: str
    money: str
    group: str
    mark: str
    rates: tuple[str, ...]
    dates: tuple[str, ...]
    scale: str = "1"
    places: int = 2
    tax: str = ""
    included: bool = True
    lakh: bool = False


_ISO = "%Y-%m-%d"
LOCALES = {
    locale.name: locale
    for locale in (
        # English dates spell the month out, because 03/04 is ambiguous.
        Locale("en-US", "en", "USD", "$", "{sign}{n}", ",", ".",
               ("8.25", "6", "7.5"), ("%B %d, %Y", "%b %d, %Y", _ISO), tax="Sales tax",
               included=False),
        Locale("en-GB", "en", "GBP", "£", "{sign}{n}", ",", ".",
               ("20", "5"), ("%d %B %Y", "%d %b %Y", _ISO), scale="0.9"),
        Locale("en-IE", "en", "EUR", "€", "{sign}{n}", ",", ".",
               ("23", "13.5"), ("%d %B %Y", "%d %b %Y", _ISO)),
        Locale("en-IN", "en", "INR", "₹", "{sign}{n}", ",", ".",
               ("18", "12", "5"), ("%d %B %Y", "%d-%b-%Y", _ISO), scale="80", tax="GST", lakh=True),
        Locale("en-JP", "en", "JPY", "JPY", "{sign} {n}", ",", ".",
               ("10", "8"), ("%d %B %Y", _ISO), scale="150", places=0, tax="Consumption tax"),
        Locale("de-DE", "de", "EUR", "€", "{n} {sign}", ".", ",",
               ("19", "7"), ("%d.%m.%Y", _ISO)),
        Locale("de-CH", "de", "CHF", "CHF", "{sign} {n}", "'", ".",
               ("8.1", "2.6"), ("%d.%m.%Y",), tax="MWST"),
        Locale("fr-FR", "fr", "EUR", "€", "{n} {sign}", "\u00a0", ",",
               ("20", "10", "5.5"), ("%d/%m/%Y", "%d.%m.%Y")),
        Locale("fr-CH", "fr", "CHF", "CHF", "{sign} {n}", "'", ".",
               ("8.1", "2.6"), ("%d.%m.%Y",)),
        Locale("es-ES", "es", "EUR", "€", "{n} {sign}", ".", ",",
               ("21", "10"), ("%d/%m/%Y", "%d-%m-%Y")),
        Locale("ko-KR", "ko", "KRW", "원", "{n}{sign}", ",", ".",
               ("10",), ("%Y-%m-%d", "%Y.%m.%d", "%Y년 %m월 %d일"), scale="1300", places=0),
        Locale("zh-CN", "zh", "CNY", "¥", "{sign}{n}", ",", ".",
               ("13", "9", "6"), (_ISO, "%Y年%m月%d日"), scale="7"),
        Locale("bn-BD", "bn", "BDT", "৳", "{sign} {n}", ",", ".",
               ("15", "7.5", "5"), ("%d/%m/%Y", "%d-%m-%Y"), scale="110", lakh=True),
    )
}  # fmt: skip


class Shown(str):
    """A text on the page; `value` is its value in the ground truth."""

    value: str | bool

    def __new__(cls, text: str, value: str | bool | None = None) -> "Shown":
        """Without a `value`, the text with its lines joined by a space is the value."""
        shown = super().__new__(cls, text)
        shown.value = " ".join(text.split()) if value is None else value
        return shown


Content = Shown | dict | list


def truth(content: Content) -> Any:
    """Ground truth of a document's content: the value of every leaf."""
    if isinstance(content, Shown):
        return content.value
    if isinstance(content, dict):
        return {key: truth(field) for key, field in content.items()}
    return [truth(item) for item in content]


def leaves(content: Content) -> Iterator[Shown]:
    """Every leaf of a document's content."""
    if isinstance(content, Shown):
        yield content
    else:
        for field in content.values() if isinstance(content, dict) else content:
            yield from leaves(field)


def rounded(amount: Decimal, places: int) -> Decimal:
    """An amount rounded half up to `places` decimals."""
    return amount.quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP)


def write_number(amount: Decimal, locale: Locale) -> str:
    """Format a number with a locale's digits and separators; it keeps its decimals."""
    whole, _, fraction = f"{abs(amount):f}".partition(".")
    head, tail = whole[:-3], whole[-3:]
    size = 2 if locale.lakh else 3
    groups = [head[max(0, end - size) : end] for end in range(len(head), 0, -size)][::-1]
    text = locale.group.join([*groups, tail]) + (locale.mark + fraction if fraction else "")
    text = ("-" if amount < 0 else "") + text
    return text.translate(BANGLA_DIGITS) if locale.language == "bn" else text


class Writer:
    """Formats the values of one document, with the same date and money format throughout."""

    def __init__(self, locale: Locale, rng: random.Random, sign: str) -> None:
        self.locale, self.sign = locale, sign
        self.date_format = rng.choice(locale.dates)
        # A currency code is separated from the number by a space, a sign is not: $5, but USD 5.
        letters = sign.isascii() and sign.isalpha() and " " not in locale.money
        self.form = locale.money.replace("}{", "} {") if letters else locale.money
        self.parentheses = rng.random() < 0.3
        self.signs_in_table = rng.random() < 0.25

    def money(self, amount: Decimal, signed: bool = True) -> Shown:
        """An amount, with the currency sign if `signed` or if the document's tables show signs."""
        text = write_number(abs(amount), self.locale)
        if signed or self.signs_in_table:
            text = self.form.format(n=text, sign=self.sign)
        if amount < 0:
            text = f"({text})" if self.parentheses else f"-{text}"
        return Shown(text, f"{amount:f}")

    def number(self, amount: Decimal, unit: str = "") -> Shown:
        """A quantity, a meter reading or a rate."""
        text = write_number(amount, self.locale)
        return Shown(f"{text} {unit}" if unit else text, f"{amount:f}")

    def percent(self, rate: Decimal) -> Shown:
        """A rate with a percent sign, spaced as in the language."""
        gap = "\u00a0" if self.locale.language in ("de", "fr", "es") else ""
        return Shown(f"{write_number(rate, self.locale)}{gap}%", f"{rate:f}")

    def date(self, day: date) -> Shown:
        """A date in the document's format."""
        form = self.date_format.replace("%B", month := MONTHS.split()[day.month - 1])
        return Shown(self.digits(day.strftime(form.replace("%b", month[:3]))), day.isoformat())

    def digits(self, text: str) -> str:
        """A text with its digits in the script of the language."""
        return text.translate(BANGLA_DIGITS) if self.locale.language == "bn" else text
