"""The batch alignment gives rapidfuzz's own edits, whatever the length and the alphabet."""

import random
from collections import Counter

import numpy as np
import pytest
from rapidfuzz.distance import Levenshtein

from ocrkit.alignment import BANDS, CELLS, LONG, NOTHING, align, coded, coded_lists


def edits_of_rapidfuzz(references, predictions):
    return Counter(
        (
            number,
            NOTHING if tag == "insert" else reference[at],
            NOTHING if tag == "delete" else prediction[to],
        )
        for number, (reference, prediction) in enumerate(zip(references, predictions))
        for tag, at, to in Levenshtein.editops(reference, prediction).as_list()
    )


def edits_of_ours(one, other, name):
    edits = align(one, other, np.arange(len(one.lengths)))
    return Counter(
        (number, *(NOTHING if unit == NOTHING else name(unit) for unit in units))
        for number, *units in zip(*(array.tolist() for array in edits))
    )


def pairs_of(alphabet, longest, count, seed=0):
    """Pairs of which half are unrelated, and half differ in a few places."""
    chance = random.Random(seed)
    references, predictions = [], []
    for _ in range(count):
        reference = chance.choices(alphabet, k=chance.randint(0, longest))
        prediction = list(reference)
        if chance.random() < 0.5:
            prediction = chance.choices(alphabet, k=chance.randint(0, longest))
        for _ in range(chance.randint(0, 8)):
            at = chance.randint(0, len(prediction))
            unit = chance.choice(alphabet)
            kind = chance.randrange(3)
            prediction[at : at + (kind > 0)] = [] if kind == 2 else [unit]
        references.append("".join(reference))
        predictions.append("".join(prediction))
    return references, predictions


@pytest.mark.parametrize("alphabet", ["ab", "abcdefgh", "ক\u09cdষি\u200dনে𠀋\ud800"])
@pytest.mark.parametrize("longest", [0, 4, 12, 40, 70, LONG + 60])
def test_equals_rapidfuzz(alphabet, longest):
    references, predictions = pairs_of(alphabet, longest, 1000 if longest < 70 else 200)
    ours = edits_of_ours(coded(references), coded(predictions), chr)
    assert ours == edits_of_rapidfuzz(references, predictions)


def test_equals_rapidfuzz_over_lists():
    references, predictions = ([[*text] for text in side] for side in pairs_of("abc", 30, 500))
    one, other = coded_lists(references, predictions)
    ours = edits_of_ours(one, other, lambda unit: one.names[unit])
    assert ours == edits_of_rapidfuzz(references, predictions)


def test_more_pairs_than_a_block_and_only_those_chosen():
    references, predictions = pairs_of("abc", 6, CELLS // BANDS[0])
    chosen = np.arange(0, len(references), 2)
    edits = align(coded(references), coded(predictions), chosen)
    found = np.bincount(edits.sample, minlength=len(references))
    distances = list(map(Levenshtein.distance, references, predictions))
    assert found[::2].tolist() == distances[::2] and not found[1::2].any()


def test_more_pairs_than_a_block_that_need_a_wider_band():
    chance = random.Random(0)
    references, predictions = (
        ["".join(chance.choices("abcdefgh", k=32)) for _ in range(CELLS // 32)] for _ in range(2)
    )
    ours = edits_of_ours(coded(references), coded(predictions), chr)
    assert ours == edits_of_rapidfuzz(references, predictions)
