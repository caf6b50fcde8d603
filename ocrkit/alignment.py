"""Aligns many pairs of texts at once, edit for edit as rapidfuzz's `Levenshtein.editops` does.

Dynamic programming over bits (Hyyrö 2003): a column of the distance matrix is one machine word, and
numpy steps through the rows of thousands of pairs together. Pairs that fit no word go to rapidfuzz.
"""

from collections.abc import Hashable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from rapidfuzz.distance import Levenshtein

NOTHING = -1
LONG = 256  # units; what is longer is rare, and rapidfuzz aligns it in less than it costs here
WINDOW = 32  # units that are compared at once; fewer than LONG
ROOM = "\0" * LONG
BLOCK = 8192  # pairs at a time: the rows of a block stay in the processor's cache


class Coded(NamedTuple):
    """Many texts as numbers: the units of all, one text after the other, and each text's length.

    The units are code points, or indices into `names` where the texts are lists. LONG zeros stand
    before and after them, so that a window may begin before a text or end after it.
    """

    units: np.ndarray
    lengths: np.ndarray
    names: list[Hashable] | None = None


class Edits(NamedTuple):
    """Every edit of many pairs, arrays of shape (edits,) in no particular order.

    `sample` is the number of the pair; `reference` and `prediction` are the units that differ, as
    `Coded` numbers them. NOTHING stands on one side of an insertion or a deletion.
    """

    sample: np.ndarray
    reference: np.ndarray
    prediction: np.ndarray


def coded(texts: Sequence[str]) -> Coded:
    """Number the code points of strings."""
    text = ROOM + "".join(texts) + ROOM
    data = text.encode("utf-16-le", "surrogatepass")
    if len(data) == 2 * len(text):
        units = np.frombuffer(data, "<u2")
    else:
        units = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    return Coded(units, np.fromiter(map(len, texts), np.int64, len(texts)))


def coded_lists(*sides: Sequence[list]) -> list[Coded]:
    """Number the units of lists (graphemes, words), equal units alike on all sides."""
    numbers: dict[Hashable, int] = {}
    for side in sides:
        for unit in chain.from_iterable(side):
            numbers.setdefault(unit, len(numbers))
    names = list(numbers)
    found = []
    for side in sides:
        lengths = np.fromiter(map(len, side), np.int64, len(side))
        every = map(numbers.__getitem__, chain.from_iterable(side))
        units = np.zeros(lengths.sum() + 2 * LONG, np.uint32)
        units[LONG:-LONG] = np.fromiter(every, np.uint32, lengths.sum())
        found.append(Coded(units, lengths, names))
    return found


def align(references: Coded, predictions: Coded, chosen: np.ndarray) -> Edits:
    """Return the edits that turn references into predictions, the fewest there can be.

    `chosen` numbers the pairs to align; equal ones can be left out, as they have none.
    """
    nothing = np.zeros(0, np.int64)
    found = [(nothing, nothing, nothing)]
    first, second = references.units, predictions.units
    starts = (LONG + np.cumsum(side.lengths) - side.lengths for side in (references, predictions))
    pieces = [array[chosen] for array in (*starts, references.lengths, predictions.lengths)]
    short = np.maximum(*pieces[2:]) <= LONG
    for begin in range(0, len(chosen), BLOCK):
        block = slice(begin, begin + BLOCK)
        at, to, n, m = (array[block] for array in pieces)
        fewest = np.where(short[block], np.minimum(n, m), 0)
        start = _common(first, at, second, to, fewest)
        end = _common(first, at + n - 1, second, to + m - 1, fewest - start, backwards=True)
        at += start
        to += start
        n -= start + end
        m -= start + end
    at, to, n, m = pieces
    smallest = 0
    for bits in (8, 16, 32, 64):
        fitting = np.flatnonzero(short & (n <= bits) & (n >= smallest))
        fitting = fitting[np.argsort(-m[fitting], kind="stable")]
        for begin in range(0, len(fitting), BLOCK):
            block = fitting[begin : begin + BLOCK]
            word = np.dtype(f"<u{bits // 8}")
            for pair, *edit in _align_block(
                first, at[block], n[block], second, to[block], m[block], word
            ):
                found.append((chosen[block[pair]], *edit))
        smallest = bits + 1
    for pair in np.flatnonzero(~short | (n >= smallest)):
        one = first[at[pair] : at[pair] + n[pair]]
        other = second[to[pair] : to[pair] + m[pair]]
        found.append(_align_one(chosen[pair], one, other))
    return Edits(*map(np.concatenate, zip(*found)))


def _common(first, at, second, to, most, backwards=False) -> np.ndarray:
    """Count equal units from each place on, or back from it, `most` at the most."""
    order, word = ("big", f">u{WINDOW // 8}") if backwards else ("little", f"<u{WINDOW // 8}")
    count = np.zeros(len(most), np.int64)
    left = np.flatnonzero(most)
    while len(left):
        reached = -count[left] - (WINDOW - 1) if backwards else count[left]
        one = _windows(first, at[left] + reached, WINDOW)
        other = _windows(second, to[left] + reached, WINDOW)
        # A bit a unit; the lowest bit that is set is the nearest unit that differs.
        differ = np.packbits(one != other, bitorder=order).view(word).astype(np.int64)
        count[left] += np.where(differ == 0, WINDOW, _bit_number(differ & -differ))
        left = left[(differ == 0) & (count[left] < most[left])]
    return np.minimum(count, most)


def _bit_number(powers: np.ndarray) -> np.ndarray:
    """Return k where a value is 2**k."""
    return np.frexp(powers.astype(np.float64))[1] - 1


def _windows(flat: np.ndarray, at: np.ndarray, width: int) -> np.ndarray:
    """The `width` units from each place on, shape (places, width)."""
    return np.lib.stride_tricks.sliding_window_view(flat, width)[at]


def _align_one(pair: int, one: np.ndarray, other: np.ndarray) -> tuple:
    """Align one long pair with rapidfuzz."""
    edits = Levenshtein.editops(one.tolist(), other.tolist()).as_list()
    units = [
        (NOTHING if tag == "insert" else one[x], NOTHING if tag == "delete" else other[y])
        for tag, x, y in edits
    ]
    return np.full(len(units), pair), *np.array(units, np.int64).reshape(-1, 2).T


def _align_block(first, at, n, second, to, m, word: np.dtype) -> list[tuple]:
    """Align pairs whose references fit a word of bits, and that are sorted by falling `m`."""
    rows, bits, full = int(m[0]), 8 * word.itemsize, ~word.type(0)
    # Pairs that have a row: always the first ones.
    active = np.searchsorted(-m, -np.arange(rows))
    reference = _windows(first, at, bits)
    prediction = np.ascontiguousarray(_windows(second, to, max(rows, 1)).T)
    shape = rows, len(n)
    equal, higher, lower = np.zeros(shape, word), np.zeros(shape, word), np.zeros(shape, word)
    up, down = np.full(len(n), full), np.zeros(len(n), word)
    for row, k in enumerate(active):
        same = reference[:k] == prediction[row, :k, None]
        same = np.packbits(same, bitorder="little").view(word)
        p, q = up[:k], down[:k]
        diagonal = (((same & p) + p) ^ p) | same | q
        right, left = q | ~(diagonal | p), diagonal & p
        right, left = right << 1 | 1, left << 1
        equal[row, :k] = same
        higher[row, :k] = up[:k] = left | ~(diagonal | right)
        lower[row, :k] = down[:k] = right & diagonal

    found = []
    # The way back prefers, as rapidfuzz does, deletion to insertion to substitution.
    rest = np.where(n > 0, full >> (bits - np.maximum(n, 1)).astype(word), 0).astype(word)
    deleted = np.zeros(len(n), word)
    for row in range(rows - 1, -1, -1):
        k = active[row]
        kept = rest[:k] & ~higher[row, :k]
        for shift in (1, 2, 4, 8, 16, 32)[: bits.bit_length() - 1]:
            kept |= kept >> shift
        deleted[:k] |= rest[:k] ^ kept
        top = kept ^ (kept >> 1)
        inserted = kept == 0
        if row:
            inserted |= (lower[row - 1, :k] & top) != 0
        replaced = np.flatnonzero(~inserted & ((equal[row, :k] & top) == 0))
        rest[:k] = np.where(inserted, kept, kept >> 1)
        column = _bit_number(top[replaced])
        found.append((replaced, first[at[replaced] + column], prediction[row, replaced]))
        inserted = np.flatnonzero(inserted)
        found.append((inserted, np.full(len(inserted), NOTHING), prediction[row, inserted]))
    deleted |= rest
    columns = np.unpackbits(deleted.view(np.uint8), bitorder="little").view(bool)
    pair, column = np.divmod(np.flatnonzero(columns), bits)
    found.append((pair, first[at[pair] + column], np.full(len(pair), NOTHING)))
    return found
