"""Invoice vocabulary in seven languages: labels, goods, and invented names and places."""

import unicodedata
from pathlib import Path

LANGUAGES = ("en", "de", "fr", "es", "ko", "zh", "bn")


def _read_sections() -> dict[str, list[str]]:
    """{heading: lines} of data_prep/words/invoices.txt, in NFC."""
    path = Path(__file__).parents[2] / "words" / "invoices.txt"
    sections: dict[str, list[str]] = {}
    for line in unicodedata.normalize("NFC", path.read_text(encoding="utf-8")).splitlines():
        if line.startswith("["):
            lines = sections.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            lines.append(line)
    return sections


def _read_lists(lines: list[str]) -> dict[str, list[str]]:
    """{name: texts} of lines `name: text; text; text`."""
    pairs = (line.split(": ", 1) for line in lines)
    return {name: [text.strip() for text in texts.split(";")] for name, texts in pairs}


_SECTIONS = _read_sections()
LABELS: dict[str, dict[str, str]] = {language: {} for language in LANGUAGES}
for _line in _SECTIONS["labels"]:
    _key, *_texts = (text.strip() for text in _line.split(" | "))
    for _language, _text in zip(LANGUAGES, _texts, strict=True):
        LABELS[_language][_key] = _text
WORDS = {language: _read_lists(_SECTIONS[language]) for language in LANGUAGES}
