"""Labels and directions of metrics, for settings, early stopping, reports and tables."""

from typing import NamedTuple


class Metric(NamedTuple):
    """Label and direction of a metric.

    Attributes:
        label: its name in tables, charts and reports.
        lower_is_better: True for an error rate or a loss.
        right_or_wrong: True where every sample scores 0 or 1, so that Wilson's interval applies.
    """

    label: str
    lower_is_better: bool = False
    right_or_wrong: bool = False


#: Metrics of an evaluation; those of fields, tables and questions need rows that have some.
METRICS = {
    "loss": Metric("loss", lower_is_better=True),
    "cer": Metric("CER", lower_is_better=True),
    "cer_grapheme": Metric("CER, graphemes", lower_is_better=True),
    "wer": Metric("WER", lower_is_better=True),
    "exact_match": Metric("exact match", right_or_wrong=True),
    "normalized_match": Metric("normalized match", right_or_wrong=True),
    "anls": Metric("ANLS"),
    "ned_similarity": Metric("similarity (1 − NED)"),
    "share_similar": Metric("similarity of 0.8 or more", right_or_wrong=True),
    "cr": Metric("CR (Chinese)"),
    "ar": Metric("AR (Chinese)"),
    "field_accuracy": Metric("field accuracy"),
    "field_f1": Metric("field F1"),
    "nted": Metric("nTED"),
    "numeric_accuracy": Metric("numeric accuracy"),
    "json_parse_rate": Metric("valid JSON", right_or_wrong=True),
    "teds": Metric("TEDS"),
    "teds_structure": Metric("TEDS-S"),
    "runaway_rate": Metric("ran away", lower_is_better=True, right_or_wrong=True),
}


def label(name: str) -> str:
    """Return the label of a metric, or a readable form of another column's name."""
    return METRICS[name].label if name in METRICS else name.replace("_", " ")
