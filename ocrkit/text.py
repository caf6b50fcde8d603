"""Text as the metrics see it: normalisation profiles and grapheme clusters.

No profile uses NFKC: it turns `10²` into `102` and full-width forms into others' characters.

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

import regex

#: Raised whenever a profile changes what it does: results of other versions do not compare.
PROFILE_VERSION = {"strict": 1, "lenient": 1, "squad": 1}

BOM = "\ufeff"


def _compatibility(first: int, last: int) -> dict[int, str]:
    """One-character compatibility mappings of a range, as Unicode's own table has them."""
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
_SQUAD_PUNCTUATION = str.maketrans("", "", string.punctuation)
_SQUAD_ARTICLES = re.compile(r"\b(a|an|the)\b")
_GRAPHEME = regex.compile(r"\X")


def normalize(text: str, profile: str = "strict", language: str | None = None) -> str:
    """Return `text` under a normalisation profile.

    Args:
        text: any string; lone surrogates pass through unchanged.
        profile: `strict`, `lenient` or `squad`, the table in this module's head.
        language: a code such as `bn` or `ko-KR`. `lenient` applies that language's own rules, or
            every language's when None (they touch only characters of that script). `squad` removes
            English articles and therefore refuses another language.

    Raises:
        ValueError: the profile is unknown, or `squad` is asked for a language other than English.

    """
    if profile not in PROFILE_VERSION:
        raise ValueError(
            f"Normalisation profile {profile!r} is unknown: use {', '.join(PROFILE_VERSION)}."
        )
    language = language.lower().replace("_", "-").split("-")[0] if language else None
    if profile == "squad" and language not in (None, "en"):
        raise ValueError(
            f"Profile 'squad' drops English articles and cannot serve language {language!r}: "
            "use 'lenient'."
        )
    # The BOM goes first: between a letter and its mark it would keep NFC from composing them.
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
    """Split into extended grapheme clusters (UAX #29), what a reader calls characters."""
    if text.isascii() and "\r\n" not in text:
        return list(text)
    return _GRAPHEME.findall(text)


_SCRIPT_NAMES = "Latin Bengali Hangul Han Hiragana Katakana Arabic Cyrillic Devanagari Greek Thai"
_SCRIPTS = {name: regex.compile(rf"\p{{Script={name}}}") for name in _SCRIPT_NAMES.split()}


def script(text: str) -> str:
    """Name the script of most of the text's letters; `Common` where it has none of those known."""
    if text.isascii():
        return "Latin" if any(map(str.isalpha, text)) else "Common"
    counts = {name: len(pattern.findall(text)) for name, pattern in _SCRIPTS.items()}
    name = max(counts, key=counts.__getitem__)
    return name if counts[name] else "Common"
