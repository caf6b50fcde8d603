"""Baseline of a dataset: what a person would read it with instead of a fine-tuned model."""

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ocrkit.data.rows import select_rows, text_of, without_images
from ocrkit.display.tables import Table, interval
from ocrkit.evaluation import analysis
from ocrkit.evaluation.engines import unknown_letters
from ocrkit.evaluation.evaluate import evaluate_engine
from ocrkit.evaluation.evaluation import Evaluation
from ocrkit.evaluation.records import Record, right_answers, scored_text
from ocrkit.metrics import fields
from ocrkit.metrics.edits import process_exact_match
from ocrkit.metrics.intervals import Tally
from ocrkit.metrics.text import normalize
from ocrkit.models.base import ENGINES

if TYPE_CHECKING:
    from datasets import Dataset

    from ocrkit.config import TrainConfig
    from ocrkit.data.rows import Row

    Rows = Dataset | Sequence[Row]

NAMES = {"rapidocr": "RapidOCR", "tesseract": "Tesseract"}
# Share of letters that RapidOCR's model cannot write, from which on it is not asked.
MOST_UNKNOWN = 0.5
# Error rates without case and spaces up to which little, and only some, is left to win.
LITTLE, SOME = 0.02, 0.1


class Baseline(Table):
    """Table of what OCR engines read, with a sentence on what is left for fine-tuning to win.

    Attributes:
        evaluations: {engine: its evaluation}, the best engine first.
        sentence: the sentence below the table.
    """

    def __init__(self, evaluations: Mapping[str, Evaluation]):
        figures = {name: figures_of(e.records) for name, e in evaluations.items()}
        best_first = sorted(figures, key=lambda name: _errors(figures[name]))
        self.evaluations = {name: evaluations[name] for name in best_first}
        self.sentence = _sentence({NAMES[name]: figures[name] for name in best_first})
        rows = [
            {"engine": NAMES[name], **{column: interval(f) for column, f in figures[name].items()}}
            for name in best_first
        ]
        counts = {len(evaluation.records) for evaluation in evaluations.values()}
        read = f"{counts.pop()} rows, 95 % intervals. " if counts else ""
        super().__init__(rows, read + self.sentence)


def baseline(data: "Rows", config: "TrainConfig", samples: int = 100) -> Baseline:
    """Read rows with RapidOCR and Tesseract: the error rates that fine-tuning has to beat.

    An engine that is not installed or lacks the language is left out, and a line says so. Results
    go to `<output_dir>/eval/<engine>`, or `<engine>-sample` where these are not all rows.

    Args:
        data: rows of a dataset, such as its test split.
        config: the run's settings; `output_dir`, `seed` and the normalisation are used.
        samples: most rows to read, drawn at random by the seed.
    """
    numbers = sorted(random.Random(config.seed).sample(range(len(data)), min(samples, len(data))))
    suffix = "" if len(numbers) == len(data) else "-sample"
    return Baseline(_evaluations(select_rows(data, numbers), config, suffix))


def evaluate_engines(data: "Rows", config: "TrainConfig") -> list[Evaluation]:
    """Evaluate the engines that can read the rows, all of them, as columns of a comparison.

    Where `baseline` has read all rows, its results are taken.
    """
    return list(_evaluations(data, config).values())


def _evaluations(data: "Rows", config: "TrainConfig", suffix: str = "") -> dict[str, Evaluation]:
    evaluations = {}
    for engine in ENGINES:
        try:
            if engine == "rapidocr":
                _check_letters(text_of(row["completion"]) for row in without_images(data))
            evaluations[engine] = evaluate_engine(
                engine,
                data,
                config.output_dir,
                engine + suffix,
                profile=config.normalization_profile,
                locale=config.locale,
            )
        except (RuntimeError, ValueError) as error:
            print(f"Left out: {error}")
    return evaluations


def _check_letters(truths: Iterable[str]) -> None:
    share, script = unknown_letters(truths)
    if share > MOST_UNKNOWN:
        raise ValueError(
            f"RapidOCR, whose package has no model for {share:.0%} of the letters of these rows "
            f"(script: {script})."
        )


def figures_of(records: Sequence[Record]) -> dict[str, dict[str, float]]:
    """{column: {value, low, high}}: error rates of texts, and the share of values that were read.

    A text is judged by its characters; of JSON, a table or an answer it counts how many of the
    right values stand anywhere in what was read, as an engine fills no fields.
    """
    figures: dict[str, dict[str, float]] = {}
    values = [_values(record) for record in records]
    texts = [record for record, listed in zip(records, values) if not listed]
    if texts:
        tallies = analysis.folded_cer(texts)
        del tallies["CER without spaces"]
        truths, readings = [r["reference"] for r in texts], [scored_text(r) for r in texts]
        tallies["exact_match"] = process_exact_match(truths, readings)
        figures |= analysis.with_intervals(tallies, [record.get("group") for record in texts])
        figures["exact match"] = figures.pop("exact_match")
    structured = [(record, listed) for record, listed in zip(records, values) if listed]
    if structured:
        tallies = {"values": _values_read(structured)}
        groups = [record.get("group") for record, _ in structured]
        figures["values read"] = analysis.with_intervals(tallies, groups)["values"]
    return figures


def _values(record: Record) -> list[list[str]]:
    """Right values of a row that asks for more than its text, each as its alternatives."""
    if record.get("task") == "vqa":
        return [right_answers(record)]
    if fields.is_table(record["reference"]):
        cells = re.split(r"<[^>]*>", record["reference"])
        return [[cell] for cell in cells if cell.strip()]
    truth = fields.parse_json(record["reference"]) if record.get("task") == "extraction" else None
    return [[str(value)] for _, value in fields.leaves(truth) if value not in (None, "")]


def _values_read(rows: Sequence[tuple[Record, list[list[str]]]]) -> Tally:
    counts = []
    for record, values in rows:
        text = normalize(scored_text(record), "lenient")
        read = [any(normalize(v, "lenient") in text for v in value) for value in values]
        counts.append((sum(read), len(read)))
    part, whole = zip(*counts)
    return Tally(np.array(part), np.array(whole))


def _errors(figures: Mapping[str, Mapping[str, float]]) -> float:
    """The rate by which engines are ordered: errors without case and spaces, else values missed."""
    if "CER without case and spaces" in figures:
        return figures["CER without case and spaces"]["value"]
    return 1 - figures["values read"]["value"]


def _sentence(figures: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Say what is left for fine-tuning to win; `figures` by engine, the best first."""
    if not figures:
        return "No engine here reads these rows: everything is left for fine-tuning to win."
    name, best = next(iter(figures.items()))
    sentences = []
    if "CER" in best:
        rate, bare = best["CER"]["value"], best["CER without case and spaces"]["value"]
        left = "little" if bare <= LITTLE else "something" if bare <= SOME else "much"
        wrong = (
            f"{name} gets {rate:.1%} of the characters wrong, {bare:.1%} without case and spaces"
        )
        sentences.append(f"{wrong}: {left} is left for fine-tuning to win.")
    if "values read" in best:
        read = best["values read"]["value"]
        sentences.append(
            f"{read:.1%} of the right values stand in what {name} reads; to say which is which is "
            "left for fine-tuning to win."
        )
    return " ".join(sentences)
