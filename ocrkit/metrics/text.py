"""Text normalisation for metrics: profiles, grapheme clusters, scripts, amounts.

No profile uses NFKC: it turns `10²` into `102` and full-width forms into other characters.

| step | strict | lenient | squad |
| --- | --- | --- | --- |
| U+FEFF (BOM) removed, NFC, whitespace runs to one space, trimmed | yes | yes | yes |
| ZWNJ, soft hyphen, variation selectors dropped (ZWJ stays) | | yes | |
| full-width ASCII FF01-FF5E and U+3000 to ASCII; ￥ to ¥, ￦ to ₩ | | yes | |
| half-width Hangul FFA0-FFDC and punctuation FF61-FF65 to full width | | yes | |
| Kangxi radicals 2F00-2FD5 to ideographs | | yes | |
| curly quotes and dashes (2010-2015, 2212) to ASCII | | yes | |
| Bangla: ৎ from 09A4 09CD 200D, আ from 0985 09BE | | yes | |
| Korean: ㈜ to (주) | | yes | |
| case folded | | yes | lower case |
| all whitespace removed | | yes | |
| ASCII punctuation and the words a, an, the removed | | | yes |
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable
from decimal import Decimal
from functools import cache

import regex

#: Version of each profile, raised with every change: results of two versions do not compare.
PROFILE_VERSION = {"strict": 1, "lenient": 2, "squad": 1}

BOM = "\ufeff"


def _compatibility(first: int, last: int) -> dict[int, str]:
    """One-character compatibility mappings of a range of code points, from Unicode's table."""
    table = {}
    for code in range(first, last + 1):
        tag, _, mapped = unicodedata.decomposition(chr(code)).partition(" ")
        if tag in ("<wide>", "<narrow>", "<compat>"):
            table[code] = chr(int(mapped, 16))
    return table


_DROPPED = dict.fromkeys([0x200C, 0x00AD, 0xFEFF, *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)])
_LENIENT = {
    **_DROPPED,
    **_compatibility(0xFF01, 0xFF5E),
    0x3000: " ",
    **_compatibility(0xFFA0, 0xFFDC),
    **_compatibility(0xFF61, 0xFF65),
    0xFFE5: "¥",
    0xFFE6: "₩",
    **_compatibility(0x2F00, 0x2FD5),
    **dict.fromkeys(map(ord, "‘’‚‛"), "'"),
    **dict.fromkeys(map(ord, "“”„‟"), '"'),
    **dict.fromkeys([*range(0x2010, 0x2016), 0x2212], "-"),
}
_BY_LANGUAGE = {
    "bn": (("\u09a4\u09cd\u200d", "\u09ce"), ("\u0985\u09be", "\u0986")),
    "ko": (("㈜", "(주)"),),
}
_SHORT_CODES = {"eng": "en", "ben": "bn", "kor": "ko", "zho": "zh", "chi": "zh", "cmn": "zh"}
_SQUAD_PUNCTUATION = str.maketrans("", "", string.punctuation)
_SQUAD_ARTICLES = re.compile(r"\b(a|an|the)\b")
_GRAPHEME = regex.compile(r"\X")
_CONJUNCT = re.compile("\u09cd\u200d?[\u0995-\u09b9\u09dc-\u09df\u09f0\u09f1]")
_VOWEL_SIGN = re.compile("[\u09be-\u09c4\u09c7-\u09cc\u09d7]")


def language_code(language: str | None) -> str | None:
    """Code of a stated language without script and region: `ko` of `ko-KR`, `bn` of `ben`.

    None where the language is not stated: None, an empty text and `und` (undetermined, BCP 47).
    Three letters (ISO 639-2 and 639-3) are shortened for languages that have rules of their own.
    """
    code = (language or "").lower().replace("_", "-").split("-")[0]
    return None if code in ("", "und") else _SHORT_CODES.get(code, code)


def language_codes(languages: Iterable[str | None]) -> set[str]:
    """The `language_code` of every language that is stated."""
    return {code for code in map(language_code, languages) if code}


def normalize(text: str, profile: str = "strict", language: str | None = None) -> str:
    """Return `text` under a normalisation profile.

    Args:
        text: any string; lone surrogates pass through unchanged.
        profile: `strict`, `lenient` or `squad`, the table in this module's head.
        language: a code such as `bn` or `ko-KR`. `lenient` applies that language's own rules, or
            every language's when None or `und` (they touch only characters of that script).
            `squad` removes English articles and therefore refuses other languages.

    Raises:
        ValueError: the profile is unknown, or `squad` is asked for a language other than English.
    """
    if profile not in PROFILE_VERSION:
        raise ValueError(
            f"Normalisation profile {profile!r} is unknown: use {', '.join(PROFILE_VERSION)}."
        )
    language = language_code(language)
    if profile == "squad" and language not in (None, "en"):
        raise ValueError(
            f"Profile 'squad' drops English articles and cannot serve language {language!r}: "
            "use 'lenient'."
        )
    # The BOM is removed first: between a letter and its mark it keeps NFC from composing them.
    text = unicodedata.normalize("NFC", text.replace(BOM, ""))
    if profile == "strict":
        return " ".join(text.split())
    if profile == "squad":
        text = text.lower().translate(_SQUAD_PUNCTUATION)
        return " ".join(_SQUAD_ARTICLES.sub(" ", text).split())
    text = text.translate(_LENIENT)
    for code, rules in _BY_LANGUAGE.items():
        if language in (None, code):
            for old, new in rules:
                text = text.replace(old, new)
    # Dropping and folding can leave a letter beside a mark that composes with it.
    return unicodedata.normalize("NFC", "".join(text.casefold().split()))


def graphemes(text: str) -> list[str]:
    """Split into extended grapheme clusters (UAX #29), which readers call characters."""
    if text.isascii() and "\r\n" not in text:
        return list(text)
    return _GRAPHEME.findall(text)


_SCRIPT_NAMES = "Latin Bengali Hangul Han Hiragana Katakana Arabic Cyrillic Devanagari Greek Thai"
_SCRIPTS = {name: regex.compile(rf"\p{{Script={name}}}") for name in _SCRIPT_NAMES.split()}


def bangla_kind(grapheme: str) -> str:
    """Classify a grapheme cluster of Bangla as conjunct, vowel sign, plain letter or other.

    A conjunct holds two consonants or more, joined by a hasanta (U+09CD), with or without a vowel
    sign. Digits and everything outside the Bengali block are other.
    """
    if not grapheme or not "\u0980" <= grapheme[0] <= "\u09ff" or grapheme[0].isdigit():
        return "other"
    if _CONJUNCT.search(grapheme):
        return "conjunct"
    return "vowel sign" if _VOWEL_SIGN.search(grapheme) else "plain letter"


def script(text: str) -> str:
    """Name the script of most letters of a text; `Common` where none is of a known script.

    Of two scripts with as many letters the first in the text is named.
    """
    if text.isascii():
        return "Latin" if any(map(str.isalpha, text)) else "Common"
    counts = Counter(name for name in map(_script_of, text) if name is not None)
    return counts.most_common(1)[0][0] if counts else "Common"


@cache
def _script_of(character: str) -> str | None:
    return next((name for name, known in _SCRIPTS.items() if known.match(character)), None)


# --- amounts in a locale


_SPACES = " \u00a0\u2009\u202f"
#: Characters that group thousands, and the decimal mark, by locale; a locale that is not listed
#: takes the entry of its language.
LOCALES = {
    **dict.fromkeys(["en", "en-in", "bn", "hi", "ko", "zh", "ja", "th", "he"], (",", ".")),
    **dict.fromkeys(["de", "es", "it", "nl", "pt", "id", "tr", "da", "el"], (".", ",")),
    **dict.fromkeys(["fr", "ru", "uk", "pl", "cs", "nb", "fi", "sv", "hu"], (_SPACES, ",")),
    **dict.fromkeys(["de-ch", "fr-ch", "it-ch"], ("'’", ".")),
}
_LAKH = ("en-in", "bn", "hi")  # 12,34,567: two digits a group but for the last
_CURRENCY = r"(?:(?:US|HK|NT|[SAC])?\p{Sc}|(?:원|元|圆|块|円|টাকা|USD|EUR|GBP|JPY|CNY|RMB|KRW|BDT|INR"
_CURRENCY += r"|MYR|SGD|HKD|TWD|AUD|CAD|CHF|THB|IDR|VND|RM|SR|Rs|Tk)\.?)"
_AMOUNT = regex.compile(
    rf"(?P<sign>[-+])?\s*(?:{_CURRENCY}\s*){{0,2}}(?P<inner>[-+])?\s*(?P<digits>\d[\d.,'’{_SPACES}]*|[.,]\d+)"
    rf"\s*(?:{_CURRENCY}|/-)?\s*(?P<after>-)?",
    regex.IGNORECASE,
)
_MARKS = str.maketrans(
    {"−": "-", "－": "-", "–": "-", "＋": "+", "，": ",", "．": ".", "（": "(", "）": ")"}
)


def _locale(name: str) -> tuple[str, tuple[str, str]]:
    key = name.lower().replace("_", "-")
    key = key if key in LOCALES else key.split("-")[0]
    if key not in LOCALES:
        raise ValueError(f"Locale {name!r} is unknown: use one of {', '.join(sorted(LOCALES))}.")
    return key, LOCALES[key]


def ascii_digits(text: str) -> str:
    """Write every decimal digit (Bangla, full-width...) in ASCII; `²` is no decimal digit."""
    if text.isascii():
        return text
    return "".join(str(unicodedata.decimal(char, char)) for char in text)


def parse_amount(value: object, locale: str = "en") -> Decimal | None:
    """Parse an amount of money or another number exactly; None where it is no number.

    `(1,234)`, `-1,234`, `−1,234` and `1,234-` are negative; a currency sign or code may stand
    before or after. Grouping and decimal marks are the locale's: `5.000` is 5 in `en` and 5000 in
    `de`, and groups of a wrong size are no amount.

    Raises:
        ValueError: the locale is unknown.
    """
    key, (group, mark) = _locale(locale)
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        return None
    if not isinstance(value, str):
        number = Decimal(str(value))
        return number if number.is_finite() else None
    text = ascii_digits(value.strip()).translate(_MARKS)
    bracketed = text.startswith("(") and text.endswith(")")
    text = text[1:-1].strip() if bracketed else text
    match = _AMOUNT.fullmatch(text) if len(text) <= 64 else None
    if not match:
        return None
    signs = [sign for sign in match.group("sign", "inner", "after") if sign]
    if len(signs) + bracketed > 1:
        return None
    whole, point, fraction = match["digits"].rstrip(_SPACES).partition(mark)
    if point and not (fraction.isascii() and fraction.isdigit()):
        return None
    groups = regex.split(f"[{regex.escape(group)}]", whole) if whole else ["0"]
    if not all(digits.isdigit() for digits in groups):
        return None
    if len(groups) > 1:
        sizes = [len(digits) for digits in groups]
        middle = {2, 3} if key in _LAKH else {3}
        if (
            sizes[-1] != 3
            or not 1 <= sizes[0] <= 3
            or not any(set(sizes[1:-1]) <= {size} and sizes[0] <= size for size in middle)
        ):
            return None
    number = Decimal("".join(groups) + ("." + fraction if point else ""))
    # copy_negate keeps every digit; unary minus rounds to the context's precision.
    return number.copy_negate() if bracketed or "-" in signs else number
