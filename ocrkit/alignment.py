"""Aligns many pairs of texts at once, edit for edit as rapidfuzz's `Levenshtein.editops` does.

Dynamic programming over bits (Hyyrö 2003): a row of a diagonal band of the distance matrix is one
machine word, and numpy steps through the rows of thousands of pairs together. A band of b bits
holds every shortest alignment of fewer than b edits. Pairs that need more come again in a wider
band, and those that fit no word go to rapidfuzz.
"""

from collections.abc import Hashable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from rapidfuzz.distance import Levenshtein

NOTHING = -1
LONG = 256  # units; what is longer is rare, and rapidfuzz aligns it in less than it costs here
WINDOW = 32  # units that are compared at once
BANDS = (8, 16, 32, 64)  # bits, the narrowest first
ROOM = LONG + BANDS[-1]
CELLS = 2**18  # units at a time: what belongs to a block of pairs stays in the processor's cache


class Coded(NamedTuple):
    """Many texts as numbers: the units of all, one text after the other, and each text's length.

    The units are code points, or indices into `names` where the texts are lists. ROOM zeros stand
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
    text = "".join(texts)
    data = text.encode("utf-16-le", "surrogatepass")
    if len(data) == 2 * len(text):
        units = np.frombuffer(data, "<u2")
    else:
        units = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    return Coded(np.pad(units, ROOM), np.fromiter(map(len, texts), np.int64, len(texts)))


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
        units = np.zeros(lengths.sum() + 2 * ROOM, np.uint32)
        units[ROOM:-ROOM] = np.fromiter(every, np.uint32, lengths.sum())
        found.append(Coded(units, lengths, names))
    return found


class _Spans(NamedTuple):
    """What pairs of texts have between their common start and end.

    That is `first[at : at + n]` and `second[to : to + m]` of pair `sample`; but for `first` and
    `second` the arrays are of shape (pairs,).
    """

    first: np.ndarray
    second: np.ndarray
    sample: np.ndarray
    at: np.ndarray
    to: np.ndarray
    n: np.ndarray
    m: np.ndarray

    def pick(self, pairs: np.ndarray | slice) -> "_Spans":
        """Return some of the pairs."""
        return _Spans(*self[:2], *(array[pairs] for array in self[2:]))


def align(references: Coded, predictions: Coded, chosen: np.ndarray) -> Edits:
    """Return the edits that turn references into predictions, the fewest there can be.

    `chosen` numbers the pairs to align; equal ones can be left out, as they have none.
    """
    spans = _spans(references, predictions, chosen)
    nothing = np.zeros(0, np.int64)
    found = [(nothing, nothing, nothing)]
    short = np.maximum(spans.n, spans.m) <= LONG
    unaligned = [np.flatnonzero(~short)]
    least = 0
    for most in (8, 16, 32, 64, 128, LONG):
        left = np.flatnonzero(short & (spans.m >= least) & (spans.m <= most))
        for bits in BANDS:
            left = _align_in_bands(spans, left, most, bits, found)
        unaligned.append(left)
        least = most + 1
    for pair in np.concatenate(unaligned):
        found.append(_align_one(*spans.pick(pair)))
    return Edits(*map(np.concatenate, zip(*found)))


def _spans(references: Coded, predictions: Coded, chosen: np.ndarray) -> _Spans:
    """Find what differs in pairs that are not LONG; those that are come back whole."""
    lengths = references.lengths, predictions.lengths
    starts = (ROOM + np.cumsum(side) - side for side in lengths)
    spans = _Spans(
        references.units,
        predictions.units,
        chosen,
        *(array[chosen] for array in (*starts, *lengths)),
    )
    block = CELLS // WINDOW
    for begin in range(0, len(chosen), block):
        first, second, _, at, to, n, m = spans.pick(slice(begin, begin + block))
        fewest = np.where(np.maximum(n, m) <= LONG, np.minimum(n, m), 0)
        start = _common(first, at, second, to, fewest)
        end = _common(first, at + n - 1, second, to + m - 1, fewest - start, backwards=True)
        at += start
        to += start
        n -= start + end
        m -= start + end
    return spans


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
    """Return k where a value is 2**k: the exponent of a float."""
    return (powers.astype(np.float32).view(np.int32) >> 23) - 127


def _windows(flat: np.ndarray, at: np.ndarray, width: int) -> np.ndarray:
    """The `width` units from each place on, shape (places, width)."""
    # As one item of many bytes a window is copied at once, not unit by unit.
    item = f"V{width * flat.itemsize}"
    windows = np.ndarray(len(flat) - width + 1, item, flat, strides=flat.strides)
    return windows[at].view(flat.dtype).reshape(len(at), width)


def _align_one(first, second, sample, at, to, n, m) -> tuple:
    """Align one long pair with rapidfuzz."""
    one, other = first[at : at + n], second[to : to + m]
    edits = Levenshtein.editops(one.tolist(), other.tolist()).as_list()
    units = [
        (NOTHING if tag == "insert" else one[x], NOTHING if tag == "delete" else other[y])
        for tag, x, y in edits
    ]
    return np.full(len(units), sample), *np.array(units, np.int64).reshape(-1, 2).T


def _align_in_bands(
    spans: _Spans, pairs: np.ndarray, most: int, bits: int, found: list[tuple]
) -> np.ndarray:
    """Add to `found` the edits of pairs that need no wider band, and return the other pairs.

    Predictions are of `most` units at the most.
    """
    fits = np.abs(spans.n[pairs] - spans.m[pairs]) < bits
    others, pairs = [pairs[~fits]], pairs[fits]
    size = CELLS // (most + bits)
    for begin in range(0, len(pairs), size):
        block = pairs[begin : begin + size]
        fall = (most - spans.m[block]).astype(np.uint16)
        block = block[np.argsort(fall, kind="stable")]
        far = _align_block(*spans.pick(block), np.dtype(f"<u{bits // 8}"), found)
        others.append(block[far])
        if far.mean() > 0.5:  # and so it would be with the rest
            others.append(pairs[begin + size :])
            break
    return np.concatenate(others)


def _align_block(first, second, sample, at, to, n, m, word: np.dtype, found: list) -> np.ndarray:
    """Add the edits of pairs, sorted by falling `m`, to `found`, and say which need a wider band.

    In row r, bit b of a word stands for unit r + b - above of the reference.
    """
    bits, slope = 8 * word.itemsize, n - m
    above = (bits - 1 - slope) // 2
    at = at - above
    equal = _equal_in_band(first, at, second, to, int(m[0]), word)
    # Bits that stand for units of the reference: in the first row, and until all do.
    start = ~word.type(0) << above.astype(word)
    signed = word.str.replace("u", "i")
    real = start.view(signed) >> np.arange(min(len(equal), bits), dtype=signed)[:, None]
    real = real.view(word)
    equal[:bits] &= real
    # Pairs that have a row: always the first ones.
    active = np.searchsorted(-m, -np.arange(len(equal))).tolist()
    corner = word.type(1) << (slope + above).astype(word)
    up, down, distance = _distances(equal, active, start, corner)
    far = distance + np.maximum(slope, 0) >= bits

    down[:-1][:bits] |= ~real  # what is read before the reference's first unit is inserted
    rest = np.where(far, 0, corner | (corner - 1)).astype(word)
    replaced, inserted, deleted = _walk_back(equal, active, up, down, rest)
    deleted[0] &= start << 1

    row, pair, bit = _nonzero(replaced)
    read = second[to[pair] + row]
    found.append((sample[pair], first[at[pair] + row + _bit_number(bit)], read))
    row, pair, _ = _nonzero(inserted)
    found.append((sample[pair], np.full(len(pair), NOTHING), second[to[pair] + row]))
    row, pair, some = _nonzero(deleted)
    flags = np.unpackbits(some.view(np.uint8), bitorder="little").reshape(-1, bits)
    which, bit, _ = _nonzero(flags)
    row, pair = row[which] - 1, pair[which]
    found.append((sample[pair], first[at[pair] + row + bit], np.full(len(pair), NOTHING)))
    return far


def _equal_in_band(first, at, second, to, rows: int, word: np.dtype) -> np.ndarray:
    """Say which of the units from `at + row` on equal unit `to + row`: words, (rows, pairs)."""
    bits, pairs, width = 8 * word.itemsize, len(at), rows + 8 * word.itemsize - 1
    one = _windows(first, at, width).ravel()
    other = _windows(second, to, width).ravel()[: one.size - bits + 1]
    equal = np.empty((rows, pairs, word.itemsize), np.uint8)
    for byte in range(word.itemsize):
        flags = np.zeros(one.size, np.uint8)
        part = flags[: other.size]
        for bit in reversed(range(8 * byte, 8 * byte + 8)):
            part += part
            part |= (one[bit : bit + other.size] == other).view(np.uint8)
        equal[:, :, byte] = flags.reshape(pairs, width)[:, :rows].T
    return equal.view(word)[:, :, 0]


def _distances(equal, active, start, corner) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fill the matrix row by row.

    Returns:
        Where the distance is one more, and where it is one less, than for a reference without its
        last unit: words, both (rows + 1, pairs), a row before the first unit of the prediction.
        How often it grows along the diagonal of `corner`, (pairs,).
    """
    rows, pairs = equal.shape
    up, down = np.zeros((2, rows + 1, pairs), equal.dtype)
    up[0] = start
    distance = np.zeros(pairs, np.int64)
    for row, k in enumerate(active):
        same, p, q = equal[row, :k], up[row, :k], down[row, :k]
        diagonal = (((same & p) + p) ^ p) | same | q
        right, left = q | ~(diagonal | p), diagonal & p
        distance[:k] += (diagonal & corner[:k]) == 0
        diagonal >>= 1
        up[row + 1, :k] = left | ~(diagonal | right)
        down[row + 1, :k] = diagonal & right
    return up, down, distance


def _walk_back(equal, active, up, down, rest) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Walk from the end to the start of every pair.

    Where a pair stands is the highest bit of `rest` that is set, and all below it are set, too.

    Returns:
        Bits for what is replaced and inserted, (rows, pairs), and deleted, (rows + 1, pairs).
    """
    # As rapidfuzz does, it prefers deletion to insertion to substitution.
    stop = ~(up << 1)
    differs = ~(equal | down[:-1])
    replaced, inserted, deleted = np.zeros_like(equal), np.zeros_like(equal), np.zeros_like(up)
    for row, k in reversed([*enumerate(active)]):
        kept = rest[:k] & stop[row + 1, :k]
        for shift in (1, 2, 4, 8, 16, 32)[: equal.itemsize.bit_length() + 2]:
            kept |= kept >> shift
        deleted[row + 1, :k] = rest[:k] ^ kept
        top = kept ^ (kept >> 1)
        replaced[row, :k] = top & differs[row, :k]
        inserted[row, :k] = moved = top & down[row, :k]
        rest[:k] = kept | moved << 1
    deleted[0] = rest
    return replaced, inserted, deleted


def _nonzero(words: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row and column of every word that is not 0, and the words."""
    places = np.flatnonzero(words != 0)
    row = places // words.shape[1]
    return row, places - row * words.shape[1], words.ravel()[places]
