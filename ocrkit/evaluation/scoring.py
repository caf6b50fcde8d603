"""Per-sample counts behind every metric, each made once, and their cross-check against jiwer."""

import random
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from ocrkit.evaluation import analysis
from ocrkit.evaluation.records import Record, right_answers, scored_text
from ocrkit.metrics import edits as metrics
from ocrkit.metrics import fields
from ocrkit.metrics.intervals import Tally, shares
from ocrkit.metrics.text import language_code, script


class Extractions(NamedTuple):
    """JSON truths and parsed predictions, with the numbers of their records."""

    numbers: list[int]
    truths: list[Any]
    predictions: list[Any]


class SampleCounts:
    """Counts of every sample, in the order of the records; each is made when first needed.

    Metrics, comparisons, reports and the browser share them, so that a text is aligned once.
    """

    def __init__(self, records: Sequence[Record], profile: str = "strict", locale: str = "en"):
        self.records, self.profile, self.locale = records, profile, locale
        self.references = [record["reference"] for record in records]
        self.predictions = [scored_text(record) for record in records]

    @cached_property
    def edits(self) -> metrics.EditCounts:
        """Edits of each sample over code points."""
        return metrics.process_edits(self.references, self.predictions)

    @cached_property
    def grapheme_confusions(self) -> Counter[tuple[str, str]]:
        """Confusions over grapheme clusters, (truth, reading): times."""
        return metrics.char_confusions(self.references, self.predictions, "grapheme")

    @cached_property
    def error_kinds(self) -> list[str | None]:
        """Kind of error of each sample; None where it is right."""
        return analysis.error_kinds(self.records, self.edits)

    @cached_property
    def extractions(self) -> Extractions:
        """Truths that are JSON, with what was read."""
        return extractions(self.records)

    @cached_property
    def tallies(self) -> dict[str, Tally]:
        """Tally of every metric; a metric that applies to no sample is left out."""
        return {
            **self._text_tallies(),
            **self._field_tallies(),
            **self._table_tallies(),
            "runaway_rate": shares([float(analysis.runaway(record)) for record in self.records]),
        }

    def _text_tallies(self) -> dict[str, Tally]:
        records, references, predictions = self.records, self.references, self.predictions
        edits = self.edits
        similarity = edits.ned_similarity
        # With several right answers the best one counts in matches; edits are those to the first.
        answers = list(map(right_answers, records))
        questions = [number for number, record in enumerate(records) if record.get("answers")]
        tallies = {
            "cer": edits.cer,
            "cer_grapheme": metrics.process_cer_grapheme(references, predictions),
        }
        # Chinese is written without spaces: its words are not what str.split() returns.
        spaced = np.array([not _is_chinese(record) for record in records])
        if spaced.any():
            words = metrics.process_wer(references, predictions)
            tallies["wer"] = Tally(words.part * spaced, words.whole * spaced)
        if questions:
            tallies["exact_match"] = metrics.process_exact_match(answers, predictions)
        else:
            tallies["exact_match"] = edits.exact_match
        languages = [record.get("language") for record in records]
        tallies["normalized_match"] = metrics.process_normalized_match(
            answers, predictions, languages, self.profile
        )
        tallies["ned_similarity"] = similarity
        similar = (similarity.part >= 0.8).astype(float)
        tallies["share_similar"] = Tally(similar, similarity.whole)
        if questions:
            anls = metrics.process_anls(
                [answers[number] for number in questions],
                [predictions[number] for number in questions],
            )
            tallies["anls"] = _spread(anls, questions, len(records))
        if not spaced.all():
            length = edits.lengths * ~spaced
            correct = (edits.lengths - edits.substitutions - edits.deletions) * ~spaced
            tallies["cr"] = Tally(correct, length)
            tallies["ar"] = Tally(correct - edits.insertions * ~spaced, length)
        return tallies

    def _field_tallies(self) -> dict[str, Tally]:
        numbers, truths, predictions = self.extractions
        if not numbers:
            return {}
        texts = [self.predictions[number] for number in numbers]
        tallies = {
            "field_accuracy": fields.process_field_accuracy(truths, predictions),
            "field_f1": fields.process_field_f1(truths, predictions),
            "nted": fields.process_nted(truths, predictions),
            "numeric_accuracy": fields.process_numeric_accuracy(truths, predictions, self.locale),
            "json_parse_rate": fields.process_json_parse_rate(texts),
        }
        return {
            name: _spread(tally, numbers, len(self.records))
            for name, tally in tallies.items()
            if tally.whole.sum()
        }

    def _table_tallies(self) -> dict[str, Tally]:
        numbers = [n for n, text in enumerate(self.references) if fields.is_table(text)]
        if not numbers:
            return {}
        tallies = {}
        for name, structure_only in (("teds", False), ("teds_structure", True)):
            scores = [
                fields.teds(self.references[n], self.predictions[n], structure_only)
                for n in numbers
            ]
            tallies[name] = _spread(shares(scores), numbers, len(self.records))
        return tallies


def extractions(records: Sequence[Record]) -> Extractions:
    """Return truths that are JSON, with the parsed predictions and the records' numbers.

    A record counts where its task is `extraction`, or where it has no task and its truth is an
    object or a list of objects: `[1]` alone may as well be a line of text.
    """
    chosen = Extractions([], [], [])
    for number, record in enumerate(records):
        if record.get("task") in ("extraction", None) and record["reference"].lstrip()[:1] in "{[":
            truth = fields.parse_json(record["reference"])
            if _is_extraction(truth, record.get("task")):
                chosen.numbers.append(number)
                chosen.truths.append(truth)
                chosen.predictions.append(fields.parse_json(scored_text(record)))
    return chosen


def _is_extraction(truth: object, task: str | None) -> bool:
    if isinstance(truth, list) and task is None:
        return bool(truth) and all(isinstance(item, dict) for item in truth)
    return isinstance(truth, dict | list)


def _spread(tally: Tally, numbers: list[int], size: int) -> Tally:
    """Put counts of some samples at their numbers among all samples; the others add nothing."""
    part, whole = np.zeros(size), np.zeros(size)
    part[numbers], whole[numbers] = tally
    return Tally(part, whole)


def _is_chinese(record: Record) -> bool:
    language = language_code(record.get("language"))
    return language == "zh" if language else script(record["reference"]) == "Han"


def cross_check(counts: SampleCounts) -> None:
    """Compare the CER's edits with jiwer's on a seeded sample of at most 200 records.

    Raises:
        RuntimeError: the two counts of edits differ.
    """
    import jiwer

    # jiwer spends seconds on a page that ran away, and such a page proves nothing more.
    short = [
        number
        for number, (reference, prediction) in enumerate(zip(counts.references, counts.predictions))
        if len(reference) + len(prediction) <= 2000
    ]
    sample = random.Random(0).sample(short, min(200, len(short)))
    if not sample:
        return
    references, predictions = metrics.pairs(
        [counts.references[n] for n in sample], [counts.predictions[n] for n in sample]
    )
    split = jiwer.Compose([jiwer.ReduceToListOfListOfChars()])
    output = jiwer.process_characters(references, predictions, split, split)
    theirs = output.substitutions + output.deletions + output.insertions
    ours = int(counts.edits.cer.part[sample].sum())
    if ours != theirs:
        raise RuntimeError(
            f"jiwer counts {theirs} edits on a sample of {len(sample)} records and ocrkit {ours}: "
            "the installed versions of rapidfuzz and jiwer disagree, so no CER can be trusted."
        )
