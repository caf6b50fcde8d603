"""Metrics of readings, from CER to TEDS, with intervals; imports no torch."""

from ocrkit.metrics.edits import (
    anls,
    cer,
    cer_grapheme,
    char_confusions,
    cr_ar,
    exact_match,
    ned_similarity,
    normalized_match,
    share_similar,
    wer,
)
from ocrkit.metrics.fields import (
    field_accuracy,
    field_f1,
    json_parse_rate,
    nted,
    numeric_accuracy,
    schema_pass_rate,
    teds,
)
from ocrkit.metrics.intervals import Tally, bootstrap_ci, mcnemar, wilson

__all__ = [
    "Tally",
    "anls",
    "bootstrap_ci",
    "cer",
    "cer_grapheme",
    "char_confusions",
    "cr_ar",
    "exact_match",
    "field_accuracy",
    "field_f1",
    "json_parse_rate",
    "mcnemar",
    "ned_similarity",
    "normalized_match",
    "nted",
    "numeric_accuracy",
    "schema_pass_rate",
    "share_similar",
    "teds",
    "wer",
    "wilson",
]
