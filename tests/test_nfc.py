import random
import sys
import unicodedata

import numpy as np
import pytest

from ocrkit.nfc import _RANGES, doubtful


def _found(text):
    units = np.frombuffer(("\0" + text).encode("utf-32-le", "surrogatepass"), "<u4")
    return len(doubtful(units)) > 0


def test_the_ranges_hold_every_code_point_that_matters():
    for code in range(sys.maxunicode + 1):
        char = chr(code)
        if unicodedata.combining(char) or not unicodedata.is_normalized("NFC", char):
            assert any(code in part for part in _RANGES), hex(code)


def test_every_composition_is_found():
    composed = 0
    for code in range(sys.maxunicode + 1):
        apart = unicodedata.normalize("NFD", chr(code))
        if apart != chr(code):
            assert _found(apart) or unicodedata.normalize("NFC", apart) == apart, hex(code)
            composed += 1
    assert composed > 12_000


@pytest.mark.parametrize(
    "text",
    [
        "\u09df",  # Bangla letters that decompose
        "\u09c7\u09be",  # and a vowel sign in two parts
        "\u1112\u1161\u11ab",
        "\ud558\u11ab",
        "e\u0301",
        "e\u0323\u0307",
        "\u09a1\u09cd\u09bc",  # marks in the wrong order
        "\u212b",
        "\uf900",
    ],
)
def test_what_changes_is_found(text):
    assert _found(f"x{text}y")


@pytest.mark.parametrize(
    "text",
    [
        "Total 9.00",
        "\u09b8\u09cd\u09ac\u09be\u09a7\u09c0\u09a8",
        "\ud55c\uad6d\uc5b4",
        "\u6c49\u5b57\u3002",
        "caf\u00e9",
    ],
)
def test_ordinary_text_is_let_pass(text):
    assert not _found(text)


def test_nothing_that_nfc_changes_is_missed():
    """Strings of whatever may change, mixed with what they stand beside."""
    rng = random.Random(0)
    marks = [chr(code) for code in range(0x300, 0x20000) if unicodedata.combining(chr(code))]
    others = [
        chr(code) for part in _RANGES for code in part if unicodedata.decomposition(chr(code))
    ]
    jamo = [chr(code) for code in range(0x1100, 0x1200)]
    bangla = [chr(code) for code in range(0x980, 0xA00)]
    changed = 0
    for _ in range(40_000):
        pool = rng.choice(([*marks, "a", "ক"], others, [*jamo, "하", "한"], bangla))
        parts = [rng.choice(pool) for _ in range(rng.randint(1, 5))]
        text = "".join(unicodedata.normalize(rng.choice(("NFC", "NFD")), part) for part in parts)
        if unicodedata.normalize("NFC", text) != text:
            changed += 1
            assert _found(text), ascii(text)
    assert changed > 5_000
