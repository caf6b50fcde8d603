"""The tables that notebooks show: a comparison seen as one field of work looks at it."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from ocrkit.display.tables import Table, heading_table, interval, visible
from ocrkit.evaluation import analysis
from ocrkit.evaluation.analysis import said
from ocrkit.evaluation.compare import Comparison
from ocrkit.evaluation.evaluation import Evaluation, extractions
from ocrkit.metrics.edits import char_confusions, process_normalized_match
from ocrkit.metrics.fields import process_schema_pass_rate
from ocrkit.metrics.intervals import Tally
from ocrkit.metrics.names import label
from ocrkit.metrics.text import bangla_kind, graphemes

DOCUMENTS = (
    "json_parse_rate field_accuracy field_f1 nted numeric_accuracy teds teds_structure"
).split()


def metric_table(comparison: Comparison, metrics: Sequence[str]) -> Table:
    """Chosen metrics of all evaluations, with 95 % intervals and differences.

    A metric that these rows do not have is left out.
    """
    there = comparison.evaluations[0].metrics
    return heading_table(comparison.rows([name for name in metrics if name in there]), "metric")


def kind_table(comparison: Comparison) -> Table:
    """How many samples every evaluation got wrong in which way (`analysis.KINDS`)."""
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
    """What was most often read in the place of what, with how often the truth holds it.

    Args:
        evaluation: whose readings.
        unit: `char` for code points, `grapheme` for letters as people see them.
        kind: only letters of Bangla of this kind, as `ocrkit.metrics.text.bangla_kind` names them.
        most: rows.
    """
    texts = [r["reference"] for r in evaluation.records]
    counted = char_confusions(texts, list(map(said, evaluation.records)), unit)
    split = list if unit == "char" else graphemes
    there = Counter(part for text in texts for part in split(text))
    rows = [
        {
            "truth": visible(true) if true else "nothing",
            "read as": visible(read) if read else "nothing",
            "times": times,
            "of": there[true] if true else "",
        }
        for (true, read), times in counted.most_common()
        if kind is None or bangla_kind(true) == kind
    ]
    return Table(rows[:most], f"{len(rows)} kinds of confusion" if rows else "no confusion")


def conjunct_table(comparison: Comparison) -> Table:
    """Share of Bangla letters read right by kind: conjuncts, letters with a vowel sign, others.

    A letter is a grapheme cluster, right or wrong as a whole; 95 % intervals over groups.
    """
    counted = {e.name: _by_kind(e.records) for e in comparison.evaluations}
    groups = [record.get("group") for record in comparison.evaluations[0].records]
    rows = []
    for kind in ("conjunct", "vowel sign", "plain letter", "other"):
        tallies = {name: found[kind] for name, found in counted.items() if kind in found}
        if not tallies:
            continue
        shares = analysis.with_intervals(tallies, groups)
        whole = int(next(iter(tallies.values())).whole.sum())
        cells = {name: interval(share) for name, share in shares.items()}
        rows.append({"letter": kind, "in the truth": whole, **cells})
    return Table(rows, "share of letters read right, 95 % intervals")


def _by_kind(records: Sequence[dict]) -> dict[str, Tally]:
    """Right letters and letters of every sample, by kind of letter."""
    found: dict[str, np.ndarray] = {}
    for number, record in enumerate(records):
        missed: Counter = Counter()
        confusions = char_confusions([record["reference"]], [said(record)], "grapheme")
        for (true, _), times in confusions.items():
            missed[bangla_kind(true)] += times if true else 0
        for kind, count in Counter(map(bangla_kind, graphemes(record["reference"]))).items():
            counts = found.setdefault(kind, np.zeros((2, len(records))))
            counts[:, number] = count - missed[kind], count
    return {kind: Tally(*counts) for kind, counts in found.items()}


def match_table(
    comparison: Comparison, profiles: Sequence[str] = ("strict", "squad"), by: str | None = None
) -> Table:
    """Share of answers that match under each profile, for all and for each value of a column.

    Args:
        comparison: its evaluations' own profile does not matter here.
        profiles: of `ocrkit.metrics.text.normalize`.
        by: a column of the records, such as `need_external_knowledge`.
    """
    records = comparison.evaluations[0].records
    parts: dict[str, list[int]] = {"all": list(range(len(records)))}
    for number, record in enumerate(records) if by else ():
        parts.setdefault(f"{by}: {record.get(by)}", []).append(number)
    rows = []
    for part, numbers in parts.items():
        groups = [records[n].get("group") for n in numbers]
        for profile in profiles:
            cells = {}
            for evaluation in comparison.evaluations:
                chosen = [evaluation.records[n] for n in numbers]
                matches = process_normalized_match(
                    list(map(analysis.right_answers, chosen)),
                    list(map(said, chosen)),
                    [record.get("language") for record in chosen],
                    profile,
                )
                share = analysis.with_intervals({"normalized_match": matches}, groups)
                cells[evaluation.name] = interval(share["normalized_match"])
            rows.append({"questions": part, "n": len(numbers), "profile": profile, **cells})
    return Table(rows, "share of answers that match, 95 % intervals")


def document_table(comparison: Comparison, schema: dict | None = None) -> Table:
    """What is asked of documents: JSON, schema, fields, amounts, tables; 95 % intervals.

    Args:
        comparison: of rows whose truth is JSON, an HTML table, or text.
        schema: JSON Schema that the answers for JSON truths have to pass.
    """
    rows = []
    if schema:
        cells = {}
        for evaluation in comparison.evaluations:
            numbers, _, _ = extractions(evaluation.records)
            texts = [said(evaluation.records[n]) for n in numbers]
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


def loss_table(row: dict, processor: Any, config: Any) -> Table:
    """What the model is given of a row and what carries loss, as a collated batch has it.

    Args:
        row: a row of a dataset.
        processor: what `load_model` returned.
        config: the run's settings.
    """
    from ocrkit.data.collate import Collator

    batch = Collator(processor, config.image_height)([row])
    ids, trained = batch["input_ids"][0], batch["labels"][0] != -100
    rows = []
    for part, chosen in (("given, no loss", ids[~trained]), ("trained on", ids[trained])):
        text = processor.tokenizer.decode(chosen)
        # The picture's tokens all look alike.
        text = re.sub(r"(<\|?(?:image|IMAGE)\w*\|?>)\1+", r"\1…", text)
        rows.append({"part": part, "tokens": len(chosen), "text": text})
    return Table(rows)


def field_table(comparison: Comparison) -> Table:
    """Share of every field of the truth that is read right, with 95 % intervals."""
    fields = comparison.evaluations[-1].by.get("field", {})
    rows = [
        {
            "field": field,
            "n": found["n"],
            **{
                e.name: interval(e.by["field"][field]["field_accuracy"])
                for e in comparison.evaluations
            },
        }
        for field, found in fields.items()
    ]
    return Table(rows)
