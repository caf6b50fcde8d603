"""Text metrics: lists of references and predictions in, rates as fractions out.

A metric (`cer`) returns a float; its `process_` sibling returns a `Tally`, the numerator and the
denominator of every sample, for intervals and tables by column without counting again. A missing
prediction (None or NaN) counts as an empty string.
"""

import math
import operator
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import numpy as np
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cpdist

from ocrkit.metrics.intervals import Tally, rate_of_samples, ratio, shares
from ocrkit.metrics.text import graphemes, normalize

# Texts split into units at a time: lists of units take many times the memory of their texts.
_CHUNK = 1000


class EditCounts(NamedTuple):
    """Edits of each sample, arrays of shape (samples,), and metrics derived from them.

    `lengths` counts the units of the reference, `predicted` those of the prediction; `equal` marks
    predictions equal to their reference before NFC. `confusions` counts (reference unit, predicted
    unit) of all samples.
    """

    substitutions: np.ndarray
    deletions: np.ndarray
    insertions: np.ndarray
    lengths: np.ndarray
    predicted: np.ndarray
    equal: np.ndarray
    confusions: Counter[tuple[str, str]]

    @property
    def cer(self) -> Tally:
        """The tally of `process_cer`."""
        return Tally(self.substitutions + self.deletions + self.insertions, self.lengths)

    @property
    def ned_similarity(self) -> Tally:
        """The tally of `process_ned_similarity`."""
        return _similarity(self.cer.part, self.lengths, self.predicted)

    @property
    def exact_match(self) -> Tally:
        """The tally of `process_exact_match`."""
        return shares(self.equal)


def _texts(
    references: Sequence[str], predictions: Sequence[str | None]
) -> tuple[list[str], list[str]]:
    """Return both sides as lists of strings, a missing prediction as ""."""
    references, predictions = _listed(references), _listed(predictions)
    _check_lengths(references, predictions)
    for number, reference in enumerate(references):
        if not isinstance(reference, str):
            raise ValueError(f"Reference {number} is {reference!r}: a reference must be a string.")
    return references, [_prediction(*pair) for pair in enumerate(predictions)]


def _check_lengths(references: Sequence, predictions: Sequence) -> None:
    if len(references) != len(predictions):
        raise ValueError(
            f"There are {len(references)} references but {len(predictions)} predictions: "
            "give one prediction per reference, None where there is none."
        )


def _listed(texts: Sequence) -> list:
    return [texts] if isinstance(texts, str) else list(texts)


def _prediction(number: int, value: object) -> str:
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    raise ValueError(f"Prediction {number} is {value!r}: a prediction must be a string, or None.")


def pairs(
    references: Sequence[str], predictions: Sequence[str | None]
) -> tuple[list[str], list[str]]:
    """Return both lists as NFC strings, a missing prediction as "".

    A single string on either side is a list of one.

    Raises:
        ValueError: the lengths differ, or an entry is neither a string nor missing.
    """
    references, predictions = _texts(references, predictions)
    return _nfc(references), _nfc(predictions)


def _nfc(texts: list[str]) -> list[str]:
    return [unicodedata.normalize("NFC", text) for text in texts]


def _lengths(sequences: Sequence) -> np.ndarray:
    return np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences))


def _distances(references: Sequence, predictions: Sequence) -> np.ndarray:
    if not references:
        return np.zeros(0, dtype=np.int64)
    distances = cpdist(references, predictions, scorer=Levenshtein.distance)
    return distances.astype(np.int64)


def _process_units(
    references: Sequence[str], predictions: Sequence[str | None], split: Callable[[str], list[str]]
) -> Tally:
    """Count edits and reference units of every sample over the units that `split` returns."""
    references, predictions = pairs(references, predictions)
    edits, lengths = (np.zeros(len(references), np.int64) for _ in range(2))
    for start in range(0, len(references), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        truths = [split(text) for text in references[chunk]]
        edits[chunk] = _distances(truths, [split(text) for text in predictions[chunk]])
        lengths[chunk] = _lengths(truths)
    return Tally(edits, lengths)


# --- rates of edits


def process_cer(references: Sequence[str], predictions: Sequence[str | None]) -> Tally:
    """Count edits and reference code points of every sample, after NFC."""
    references, predictions = pairs(references, predictions)
    return Tally(_distances(references, predictions), _lengths(references))


def cer(references: Sequence[str], predictions: Sequence[str | None]) -> float:
    """Character error rate, micro: (S+D+I)/N over NFC code points, without folding or stripping.

    It may exceed 1. With no reference character at all it is the number of insertions (jiwer 4).
    """
    return process_cer(references, predictions).rate


def process_cer_grapheme(references: Sequence[str], predictions: Sequence[str | None]) -> Tally:
    """Count edits and reference units of every sample over extended grapheme clusters."""
    return _process_units(references, predictions, graphemes)


def cer_grapheme(references: Sequence[str], predictions: Sequence[str | None]) -> float:
    """Character error rate over extended grapheme clusters (UAX #29), otherwise as `cer`."""
    return process_cer_grapheme(references, predictions).rate


def process_wer(references: Sequence[str], predictions: Sequence[str | None]) -> Tally:
    """Count word edits and reference words of every sample; words are `str.split()`'s."""
    return _process_units(references, predictions, str.split)


def wer(references: Sequence[str], predictions: Sequence[str | None]) -> float:
    """Word error rate, micro over `str.split()`; always a float."""
    return process_wer(references, predictions).rate


def process_edits(references: Sequence[str], predictions: Sequence[str | None]) -> EditCounts:
    """Align every sample over NFC code points: one pass for all character metrics.

    Of several shortest alignments it takes that of rapidfuzz's `Levenshtein.editops`.
    """
    references, predictions = _texts(references, predictions)
    equal = _equal(references, predictions)
    references, predictions = _nfc(references), _nfc(predictions)
    substitutions, deletions, insertions = np.zeros((3, len(references)), np.int64)
    confusions: Counter[tuple[str, str]] = Counter()
    for number in np.flatnonzero(~equal):
        edits = _edits(references[number], predictions[number])
        confusions.update(edits)
        deletions[number] = sum(not read for _, read in edits)
        insertions[number] = sum(not truth for truth, _ in edits)
        substitutions[number] = len(edits) - deletions[number] - insertions[number]
    lengths, predicted = _lengths(references), _lengths(predictions)
    return EditCounts(substitutions, deletions, insertions, lengths, predicted, equal, confusions)


def _edits(reference: Sequence[str], prediction: Sequence[str]) -> list[tuple[str, str]]:
    """Align two sequences: (reference unit, predicted unit) of every edit, "" for no unit."""
    # Tuples, which take half the time of Editop objects on a page.
    edits = cast("list[tuple[str, int, int]]", Levenshtein.editops(reference, prediction).as_list())
    return [
        ("" if tag == "insert" else reference[start], "" if tag == "delete" else prediction[end])
        for tag, start, end in edits
    ]


def _equal(references: Sequence, predictions: Sequence) -> np.ndarray:
    return np.fromiter(map(operator.eq, references, predictions), bool, len(references))


def cr_ar(references: Sequence[str], predictions: Sequence[str | None]) -> tuple[float, float]:
    """Correct rate (N-D-S)/N and accurate rate (N-D-S-I)/N, as HWDB (ICDAR 2013) reports them."""
    counts = process_edits(references, predictions)
    missed = counts.substitutions + counts.deletions
    correct = 1 - Tally(missed, counts.lengths).rate
    return correct, 1 - Tally(missed + counts.insertions, counts.lengths).rate


# --- matches and similarity, one value a sample


def _each_answer(
    references: Sequence[str | Sequence[str]], predictions: Sequence[str | None]
) -> tuple[list[str], list[str | None], list[int]]:
    """Return every right text with its sample's prediction and the sample's number.

    Raises:
        ValueError: the lengths differ, or a sample has no right text.
    """
    references, predictions = _listed(references), _listed(predictions)
    _check_lengths(references, predictions)
    answers: list[list[str]] = [
        [texts] if isinstance(texts, str) else list(texts or ()) for texts in references
    ]
    for number, texts in enumerate(answers):
        if not texts:
            raise ValueError(f"Reference {number} is {references[number]!r}: it names no text.")
    numbers = [number for number, texts in enumerate(answers) for _ in texts]
    flat = [text for texts in answers for text in texts]
    return flat, [predictions[number] for number in numbers], numbers


def _best(values: np.ndarray, numbers: Sequence[int]) -> Tally:
    """Return the highest value of every sample, given a value for each of its right texts."""
    starts = np.flatnonzero(np.diff(numbers, prepend=-1))
    return shares(np.maximum.reduceat(values, starts) if len(values) else values)


def process_exact_match(
    references: Sequence[str | Sequence[str]], predictions: Sequence[str | None]
) -> Tally:
    """Mark with 1 every sample whose prediction equals its reference, or one of them, raw."""
    references, predictions, numbers = _each_answer(references, predictions)
    references, predictions = _texts(references, predictions)
    return _best(_equal(references, predictions).astype(float), numbers)


def exact_match(
    references: Sequence[str | Sequence[str]], predictions: Sequence[str | None]
) -> float:
    """Share of samples whose prediction equals the reference, code point for code point.

    A reference is a text or a list of right texts, of which the best counts.
    """
    return rate_of_samples(process_exact_match(references, predictions))


def process_anls(
    references: Sequence[str | Sequence[str]],
    predictions: Sequence[str | None],
    threshold: float = 0.5,
) -> Tally:
    """Return the normalised Levenshtein similarity of every sample, as `anls` defines it."""
    references, predictions, numbers = _each_answer(references, predictions)
    texts = [[text.lower().strip() for text in side] for side in pairs(references, predictions)]
    lengths = np.maximum(*map(_lengths, texts))
    distance = ratio(_distances(*texts), lengths)
    return _best(np.where(distance < threshold, 1 - distance, 0.0), numbers)


def anls(
    references: Sequence[str | Sequence[str]],
    predictions: Sequence[str | None],
    threshold: float = 0.5,
) -> float:
    """Average normalised Levenshtein similarity of answers to questions.

    Defined by Biten et al. ("Scene Text Visual Question Answering", ICCV 2019): a sample scores
    1 - NL, where NL, the edits over the longer text's length, is under the threshold, else 0; the
    best of its right texts counts. Case and white space at the ends are ignored.

    Args:
        references: a text or a list of right texts for every sample.
        predictions: the answers of the system.
        threshold: normalised distance from which an answer is wrong.

    Raises:
        ValueError: there is no sample, one has no right text, or the lengths differ.
    """
    return rate_of_samples(process_anls(references, predictions, threshold))


def process_normalized_match(
    references: Sequence[str | Sequence[str]],
    predictions: Sequence[str | None],
    language: str | Sequence[str | None] | None = None,
    profile: str = "strict",
) -> Tally:
    """Mark with 1 every sample that matches after normalisation; `language` may be a list.

    A reference is a text or a list of right texts, of which the best counts.
    """
    samples = len(_listed(references))
    references, predictions, numbers = _each_answer(references, predictions)
    references, predictions = pairs(references, predictions)
    if language is None or isinstance(language, str):
        language = [language] * samples
    if len(language) != samples:
        raise ValueError(
            f"There are {samples} references but {len(language)} languages: "
            "give one language per reference, or one string for all."
        )
    matches = [
        reference == prediction
        or normalize(reference, profile, code) == normalize(prediction, profile, code)
        for reference, prediction, code in zip(
            references, predictions, (language[number] for number in numbers)
        )
    ]
    return _best(np.array(matches, dtype=float), numbers)


def normalized_match(
    references: Sequence[str | Sequence[str]],
    predictions: Sequence[str | None],
    language: str | Sequence[str | None] | None = None,
    profile: str = "strict",
) -> float:
    """Share of samples that match under a profile of `ocrkit.metrics.text.normalize`."""
    return rate_of_samples(process_normalized_match(references, predictions, language, profile))


def process_ned_similarity(references: Sequence[str], predictions: Sequence[str | None]) -> Tally:
    """Return 1 - d/max(len) of every sample over NFC code points; 1 where both are empty."""
    references, predictions = pairs(references, predictions)
    distances = _distances(references, predictions)
    return _similarity(distances, _lengths(references), _lengths(predictions))


def _similarity(distances: np.ndarray, lengths: np.ndarray, predicted: np.ndarray) -> Tally:
    return shares(1 - ratio(distances, np.maximum(lengths, predicted)))


def ned_similarity(references: Sequence[str], predictions: Sequence[str | None]) -> float:
    """Mean normalised edit similarity, 1 - d/max(len), as ICDAR's 1-N.E.D."""
    return rate_of_samples(process_ned_similarity(references, predictions))


def share_similar(
    references: Sequence[str], predictions: Sequence[str | None], threshold: float = 0.8
) -> float:
    """Share of samples whose `ned_similarity` is at or above `threshold`."""
    similarity = process_ned_similarity(references, predictions).part
    return rate_of_samples(shares(similarity >= threshold))


def char_confusions(
    references: Sequence[str], predictions: Sequence[str | None], unit: str = "char"
) -> Counter[tuple[str, str]]:
    """Count (reference unit, predicted unit) of every edit; "" marks an insertion or a deletion.

    Args:
        references: the truth.
        predictions: the readings.
        unit: `char` for code points, `grapheme` for extended grapheme clusters.
    """
    if unit not in ("char", "grapheme"):
        raise ValueError(f"Unit {unit!r} is unknown: use 'char' or 'grapheme'.")
    if unit == "char":
        return process_edits(references, predictions).confusions
    references, predictions = pairs(references, predictions)
    confusions: Counter[tuple[str, str]] = Counter()
    for reference, prediction in zip(references, predictions):
        if reference != prediction:
            confusions.update(_edits(graphemes(reference), graphemes(prediction)))
    return confusions
