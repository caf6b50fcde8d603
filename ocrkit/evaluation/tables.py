"""Notebook tables of a comparison: metrics, error kinds, confusions, documents, questions."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ocrkit.display.tables import Table, heading_table, interval, visible
from ocrkit.evaluation import analysis
from ocrkit.evaluation.compare import Comparison
from ocrkit.evaluation.evaluation import Evaluation
from ocrkit.evaluation.records import Record, right_answers, scored_text
from ocrkit.metrics.edits import char_confusions, process_normalized_match
from ocrkit.metrics.fields import process_schema_pass_rate
from ocrkit.metrics.intervals import Tally
from ocrkit.metrics.names import label
from ocrkit.metrics.text import bangla_kind, graphemes

if TYPE_CHECKING:
    from transformers import ProcessorMixin

    from ocrkit.config import TrainConfig
    from ocrkit.data.rows import Row

DOCUMENTS = (
    "json_parse_rate field_accuracy field_f1 nted numeric_accuracy teds teds_structure"
).split()


def metric_table(comparison: Comparison, metrics: Sequence[str]) -> Table:
    """Chosen metrics of all evaluations, with 95 % intervals and differences.

    Metrics that the first evaluation lacks are left out.
    """
    known = comparison.evaluations[0].metrics
    return heading_table(comparison.rows([name for name in metrics if name in known]), "metric")


def kind_table(comparison: Comparison) -> Table:
    """Number of samples with each kind of error (`analysis.KINDS`), by evaluation."""
    names = [evaluation.name for evaluation in comparison.evaluations]
    rows = [
        {"kind of error": kind, **{name: comparison.kinds[name][kind] for name in names}}
        for kind in analysis.KINDS
    ]
    samples = len(comparison.evaluations[0].records)
    right = {
        name: samples - sum(comparison.kinds[name][kind] for kind in analysis.KINDS)
        for name in names
    }
    return Table([{"kind of error": "none", **right}, *rows], f"{samples} samples")


def confusion_table(
    evaluation: Evaluation,
    unit: str = "char",
    kind: str | None = None,
    most: int = 12,
) -> Table:
    """Most frequent confusions, with how often the truth holds the unit.

    Args:
        evaluation: the readings.
        unit: `char` for code points, `grapheme` for letters as people see them.
        kind: only letters of Bangla of this kind, as `ocrkit.metrics.text.bangla_kind` names them.
        most: the most rows.
    """
    counts = evaluation.counts
    confusions = counts.edits.confusions if unit == "char" else counts.grapheme_confusions
    split = list if unit == "char" else graphemes
    occurrences = Counter(letter for text in counts.references for letter in split(text))
    rows = [
        {
            "truth": visible(true) if true else "nothing",
            "read as": visible(read) if read else "nothing",
            "times": times,
            "of": occurrences[true] if true else "",
        }
        for (true, read), times in confusions.most_common()
        if kind is None or bangla_kind(true) == kind
    ]
    return Table(rows[:most], f"{len(rows)} kinds of confusion" if rows else "no confusion")


def conjunct_table(comparison: Comparison) -> Table:
    """Share of Bangla letters read right by kind: conjuncts, letters with a vowel sign, others.

    A letter is a grapheme cluster, right or wrong as a whole; 95 % intervals over groups.
    """
    by_kind = {e.name: _letter_tallies(e.records) for e in comparison.evaluations}
    groups = [record.get("group") for record in comparison.evaluations[0].records]
    rows = []
    for kind in ("conjunct", "vowel sign", "plain letter", "other"):
        tallies = {name: letters[kind] for name, letters in by_kind.items() if kind in letters}
        if not tallies:
            continue
        shares = analysis.with_intervals(tallies, groups)
        whole = int(next(iter(tallies.values())).whole.sum())
        cells = {name: interval(share) for name, share in shares.items()}
        rows.append({"letter": kind, "in the truth": whole, **cells})
    return Table(rows, "share of letters read right, 95 % intervals")


def _letter_tallies(records: Sequence[Record]) -> dict[str, Tally]:
    """Right letters and all letters of every sample, by kind of letter."""
    by_kind: dict[str, np.ndarray] = {}
    for number, record in enumerate(records):
        missed: Counter[str] = Counter()
        confusions = char_confusions([record["reference"]], [scored_text(record)], "grapheme")
        for (true, _), times in confusions.items():
            missed[bangla_kind(true)] += times if true else 0
        for kind, count in Counter(map(bangla_kind, graphemes(record["reference"]))).items():
            counts = by_kind.setdefault(kind, np.zeros((2, len(records))))
            counts[:, number] = count - missed[kind], count
    return {kind: Tally(right, letters) for kind, (right, letters) in by_kind.items()}


def match_table(
    comparison: Comparison, profiles: Sequence[str] = ("strict", "squad"), by: str | None = None
) -> Table:
    """Share of answers that match under each profile, for all and for each value of a column.

    Args:
        comparison: evaluations, whose own normalisation profile is not used.
        profiles: names of profiles of `ocrkit.metrics.text.normalize`.
        by: a column of the records, such as `need_external_knowledge`.
    """
    records = comparison.evaluations[0].records
    subsets: dict[str, list[int]] = {"all": list(range(len(records)))}
    if by:
        for number, record in enumerate(records):
            subsets.setdefault(f"{by}: {record.get(by)}", []).append(number)
    rows = []
    for subset, numbers in subsets.items():
        groups = [records[n].get("group") for n in numbers]
        for profile in dict.fromkeys(profiles):
            cells = {}
            for evaluation in comparison.evaluations:
                chosen = [evaluation.records[n] for n in numbers]
                matches = process_normalized_match(
                    list(map(right_answers, chosen)),
                    list(map(scored_text, chosen)),
                    [record.get("language") for record in chosen],
                    profile,
                )
                share = analysis.with_intervals({"normalized_match": matches}, groups)
                cells[evaluation.name] = interval(share["normalized_match"])
            rows.append({"questions": subset, "n": len(numbers), "profile": profile, **cells})
    return Table(rows, "share of answers that match, 95 % intervals")


def document_table(comparison: Comparison, schema: Mapping[str, Any] | None = None) -> Table:
    """Metrics of documents: JSON, schema, fields, amounts, tables; 95 % intervals.

    Args:
        comparison: of rows whose truth is JSON, an HTML table, or text.
        schema: JSON Schema that the answers for JSON truths have to pass.
    """
    rows = []
    if schema:
        cells = {}
        for evaluation in comparison.evaluations:
            numbers = evaluation.counts.extractions.numbers
            texts = [evaluation.counts.predictions[n] for n in numbers]
            groups = [evaluation.records[n].get("group") for n in numbers]
            passed = {"json_parse_rate": process_schema_pass_rate(texts, schema)}
            share = analysis.with_intervals(passed, groups)["json_parse_rate"]
            cells[evaluation.name] = interval(share)
        rows.append({"metric": "passes the schema", **cells})
    for name in DOCUMENTS:
        if name in comparison.evaluations[0].metrics:
            cells = {e.name: interval(e.metrics.get(name)) for e in comparison.evaluations}
            rows.append({"metric": label(name), **cells})
    return Table(rows, "95 % intervals over documents")


def loss_table(row: "Row", processor: "ProcessorMixin", config: "TrainConfig") -> Table:
    """Tokens of a row without loss and tokens trained on, from a collated batch.

    Args:
        row: a row of a dataset.
        processor: the processor that `load_model` returned.
        config: the run's settings.
    """
    from ocrkit.data.collate import Collator

    batch = Collator(processor, config.image_height)([row])
    ids, trained = batch["input_ids"][0], batch["labels"][0] != -100
    rows = []
    for title, chosen in (("given, no loss", ids[~trained]), ("trained on", ids[trained])):
        text = processor.tokenizer.decode(chosen)
        # Repeated placeholder tokens of a picture are shown once.
        text = re.sub(r"(<\|?(?:image|IMAGE)\w*\|?>)\1+", r"\1…", text)
        rows.append({"part": title, "tokens": len(chosen), "text": text})
    return Table(rows)


def field_table(comparison: Comparison) -> Table:
    """Share of every field of the truth that is read right, with 95 % intervals."""
    fields = comparison.evaluations[-1].by.get("field", {})
    rows = [
        {
            "field": field,
            "n": scores["n"],
            **{
                e.name: interval(e.by["field"][field]["field_accuracy"])
                for e in comparison.evaluations
            },
        }
        for field, scores in fields.items()
    ]
    return Table(rows)
