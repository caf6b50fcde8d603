import re

from ocrkit import metrics
from ocrkit.metrics.names import METRICS, label


def test_every_metric_of_the_package_has_a_label():
    """Those of several systems or of samples as a whole are tests and intervals, not metrics."""
    others = {"Tally", "bootstrap_ci", "mcnemar", "wilson", "char_confusions", "cr_ar"}
    named = set(metrics.__all__) - others - {"schema_pass_rate"}
    assert named <= set(METRICS)


def test_error_rates_and_losses_are_better_when_lower():
    lower = {name for name, metric in METRICS.items() if metric.lower_is_better}
    assert lower == {"loss", "cer", "cer_grapheme", "wer", "runaway_rate"}
    assert not any(METRICS[name].right_or_wrong for name in ("cer", "teds", "field_f1"))


def test_metric_labels_are_readable_and_unique():
    labels = [metric.label for metric in METRICS.values()]
    assert len(set(labels)) == len(labels) and not any(re.search("_", text) for text in labels)
    assert (label("cer"), label("some_column")) == ("CER", "some column")
