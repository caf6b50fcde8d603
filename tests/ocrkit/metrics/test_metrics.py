import subprocess
import sys

import pytest

from ocrkit import metrics

PROMISED = """cer cer_grapheme wer exact_match normalized_match ned_similarity share_similar cr_ar
char_confusions field_accuracy field_f1 nted numeric_accuracy teds anls json_parse_rate
schema_pass_rate bootstrap_ci mcnemar wilson""".split()
HEAVY = {"torch", "transformers", "datasets", "pandas", "scipy", "matplotlib", "PIL", "jiwer"}


@pytest.mark.parametrize("name", PROMISED)
def test_every_promised_metric_is_public(name):
    assert callable(getattr(metrics, name)) and name in metrics.__all__
    assert getattr(metrics, name).__doc__


def test_importing_the_metrics_loads_nothing_heavy():
    code = "import sys, ocrkit.metrics; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "ocrkit" in loaded and not HEAVY & loaded


def test_metrics_take_lists_of_texts():
    assert metrics.cer(["abcd"], ["abxd"]) == 0.25
    assert metrics.anls([["abcd", "x"]], ["ABCD"]) == 1
    assert metrics.field_accuracy([{"a": "1"}], [{"a": "1"}]) == 1
