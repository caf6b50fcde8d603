"""Finds the few texts that NFC changes, so that the many others need not be normalized one by one.

Unicode's normalization changes a text only where a code point decomposes, where combining marks
stand in the wrong order, or where two code points compose (Unicode Standard Annex 15). A table says
which of these a code point may take part in as the second of two, and as the first.
"""

import sys
import unicodedata
from functools import lru_cache

import numpy as np

# Whatever comes before: the code point decomposes, or is a mark that may join what it follows.
_ALWAYS = 1
# Only after certain others: a nukta or virama after a mark of a higher class, any other mark after
# a mark, a Hangul vowel after an initial, a Hangul final after a syllable without one, a sign that
# is no mark after one that it joins.
_NUKTA, _VIRAMA, _MARK, _VOWEL, _FINAL, _SIGN = 2, 4, 8, 16, 32, 64

# All that has a combining class or a canonical decomposition; tests/test_nfc.py holds it to that.
_RANGES = (range(0x80, 0x20000), range(0x2F800, 0x2FA20))


@lru_cache(1)
def _flags() -> np.ndarray:
    """Flags of every code point, uint16: as the first of two, and times 256 as the second."""
    second = np.zeros(sys.maxunicode + 1, np.uint16)
    first = np.full(sys.maxunicode + 1, _ALWAYS, np.uint16)
    for code in (code for part in _RANGES for code in part):
        char = chr(code)
        if order := unicodedata.combining(char):
            second[code] |= {7: _NUKTA, 9: _VIRAMA}.get(order, _MARK)
            first[code] |= _MARK | (order > 7) * _NUKTA | (order > 9) * _VIRAMA
        if 0xAC00 <= code <= 0xD7A3:  # Hangul syllables decompose, and compose again
            continue
        parts = unicodedata.decomposition(char)
        if not parts or parts.startswith("<"):
            continue
        if not unicodedata.is_normalized("NFC", char):
            second[code] |= _ALWAYS
            continue
        one, other = (int(part, 16) for part in parts.split())
        if unicodedata.combining(chr(other)):
            second[other] |= _ALWAYS
        else:
            second[other] |= _SIGN
            first[one] |= _SIGN
    first[0x1100:0x1113] |= _VOWEL
    second[0x1161:0x1176] |= _VOWEL
    first[0xAC00:0xD7A4:28] |= _FINAL
    second[0x11A8:0x11C3] |= _FINAL
    return second << 8 | first


def doubtful(units: np.ndarray) -> np.ndarray:
    """Places where NFC may change code points: there, or in what comes just before.

    Args:
        units: code points, shape (n,); the first one is not looked at.
    """
    flags = _flags()
    found = [np.zeros(0, np.int64)]
    # Piece by piece, which stay in the processor's cache.
    for begin in range(1, len(units), 2**14):
        piece = units[begin - 1 : begin + 2**14]
        if piece.max() < 0x300:  # Latin letters compose with nothing that is as low
            continue
        own = flags.take(piece, mode="clip")
        found.append(begin + np.flatnonzero(((own[1:] >> 8) & own[:-1]) != 0))
    return np.concatenate(found)
