"""How places write numbers, money and dates, and the values that stand behind such texts.

A document is a nested dict whose leaves are `Shown`: the text on the page, and beside it the value
that the truth's JSON holds. Values are strings, for a JSON number loses the zeros that a page shows
(`12.50`) and Donut's metrics drop a 0: amounts and quantities are digits with a dot and a minus
(`-1234.50`), rates are percentages without the sign (`7.5`), dates are ISO 8601, the currency is
its ISO 4217 code, the rest is the text as it stands on the page, lines joined by a blank.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_HALF_UP, Decimal

BANGLA_DIGITS = str.maketrans("0123456789", "০১২৩৪৫৬৭৮৯")
MONTHS = "January February March April May June July August September October November December"


@dataclass(frozen=True)
class Locale:
    """How a place writes numbers, money and dates, and which taxes it has.

    `group` and `mark` separate thousands and decimals; `scale` is what an amount is multiplied by
    to be of a usual size; `money` places the sign; `dates` are strftime formats (`%B` in English);
    `tax` is the tax's name where it is not the language's usual one; `included` says that a till's
    prices hold the tax.
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
    one.name: one
    for one in (
        # English dates name the month: 03/04 would be two different days.
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
    """A text as the page shows it; `value` is what the truth's JSON holds for it."""

    value: str | bool

    def __new__(cls, text: str, value: str | bool | None = None) -> "Shown":
        """The value of a plain text is the text, its lines joined by a blank."""
        made = super().__new__(cls, text)
        made.value = " ".join(text.split()) if value is None else value
        return made


def truth(content: object) -> object:
    """The machine form of a document's content: every leaf's value."""
    if isinstance(content, dict):
        return {key: truth(one) for key, one in content.items()}
    if isinstance(content, list):
        return [truth(one) for one in content]
    return content.value


def leaves(content: object) -> Iterator[Shown]:
    """Every leaf of a document's content."""
    if isinstance(content, dict | list):
        for one in content.values() if isinstance(content, dict) else content:
            yield from leaves(one)
    else:
        yield content


def rounded(amount: Decimal, places: int) -> Decimal:
    """An amount rounded half up to `places` decimals."""
    return amount.quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP)


def write_number(amount: Decimal, locale: Locale) -> str:
    """A number in a locale's digits, grouping and decimal mark, with the decimals that it has."""
    whole, _, fraction = f"{abs(amount):f}".partition(".")
    head, tail = whole[:-3], whole[-3:]
    size = 2 if locale.lakh else 3
    groups = [head[max(0, end - size) : end] for end in range(len(head), 0, -size)][::-1]
    text = locale.group.join([*groups, tail]) + (locale.mark + fraction if fraction else "")
    text = ("-" if amount < 0 else "") + text
    return text.translate(BANGLA_DIGITS) if locale.language == "bn" else text


class Writer:
    """Writes the values of one document as its page shows them."""

    def __init__(self, locale: Locale, rng: random.Random, sign: str) -> None:
        self.locale, self.sign = locale, sign
        self.date_format = rng.choice(locale.dates)
        # A code stands apart from the number where a sign would not: $5, but USD 5.
        letters = sign.isascii() and sign.isalpha() and " " not in locale.money
        self.form = locale.money.replace("}{", "} {") if letters else locale.money
        self.parentheses = rng.random() < 0.3
        self.signs_in_table = rng.random() < 0.25

    def money(self, amount: Decimal, signed: bool = True) -> Shown:
        """An amount, with the currency's sign where `signed` or the table shows signs."""
        text = write_number(abs(amount), self.locale)
        if signed or self.signs_in_table:
            text = self.form.format(n=text, sign=self.sign)
        if amount < 0:
            text = f"({text})" if self.parentheses else f"-{text}"
        return Shown(text, f"{amount:f}")

    def number(self, amount: Decimal, unit: str = "") -> Shown:
        """A quantity, a reading or a rate."""
        text = write_number(amount, self.locale)
        return Shown(f"{text} {unit}" if unit else text, f"{amount:f}")

    def percent(self, rate: Decimal) -> Shown:
        """A rate with its sign, as the language sets it."""
        gap = "\u00a0" if self.locale.language in ("de", "fr", "es") else ""
        return Shown(f"{write_number(rate, self.locale)}{gap}%", f"{rate:f}")

    def date(self, day: date) -> Shown:
        """A date in the document's one format."""
        form = self.date_format.replace("%B", month := MONTHS.split()[day.month - 1])
        return Shown(self.digits(day.strftime(form.replace("%b", month[:3]))), day.isoformat())

    def digits(self, text: str) -> str:
        """A text's digits in the language's own."""
        return text.translate(BANGLA_DIGITS) if self.locale.language == "bn" else text
