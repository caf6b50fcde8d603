import json

import numpy as np
import pytest

from ocrkit.evaluation.browser import Samples
from ocrkit.evaluation.compare import compare
from ocrkit.evaluation.evaluation import Evaluation, score
from ocrkit.evaluation.scoring import SampleCounts, cross_check
from ocrkit.metrics import edits


def record(number, reference, prediction, **more):
    return {"id": f"s{number}", "reference": reference, "prediction": prediction, **more}


def test_wer_skips_chinese_and_cr_ar_covers_it():
    evaluated = score([record(1, "中文字", "中文", language="zh"), record(2, "a b", "a x")])
    assert evaluated.metrics["wer"]["value"] == 0.5
    assert evaluated.metrics["cr"]["value"] == pytest.approx(2 / 3)
    for language in (None, "und", "cmn"):
        assert "wer" not in score([record(1, "中文字", "中文", language=language)]).metrics
    assert "cr" not in score([record(1, "abc", "ab")]).metrics


def test_cross_check_raises_when_jiwer_differs(monkeypatch):
    counts = SampleCounts([record(1, " a", "b ")])
    cross_check(counts)
    wrong = counts.edits._replace(substitutions=counts.edits.substitutions + 1)
    monkeypatch.setattr(counts, "edits", wrong)
    with pytest.raises(RuntimeError, match=r"jiwer counts 2 edits .* and ocrkit 3"):
        cross_check(counts)


def test_extraction_adds_the_field_metrics_over_its_own_rows():
    truth = json.dumps({"total": "9.00", "items": [{"name": "Pen"}]})
    evaluated = score(
        [
            record(1, truth, truth.replace("Pen", "Pan"), task="extraction"),
            record(2, truth, truth[:-1], task="extraction"),
            record(3, "a line", "a line", task="transcription"),
        ]
    )
    assert evaluated.metrics["json_parse_rate"]["value"] == 0.5
    assert evaluated.metrics["field_accuracy"]["value"] == 1 / 4
    assert evaluated.metrics["field_f1"]["value"] == 1 / (1 + 1 + 1)
    assert evaluated.metrics["numeric_accuracy"]["value"] == 1 / 2
    assert 0 < evaluated.metrics["nted"]["value"] < 0.5
    assert evaluated.by["field"]["total"]["n"] == 2
    assert evaluated.by["field"]["items.name"]["field_accuracy"]["value"] == 0


@pytest.mark.parametrize(
    "truth, task, counts",
    [
        ('{"a": 1}', None, True),
        ('[{"a": 1}, {"a": 2}]', None, True),
        ("[1]", None, False),
        ("[]", None, False),
        ('[{"a": 1}, 2]', None, False),
        ('["1"]', "extraction", True),
        ('{"a": 1}', "transcription", False),
    ],
)
def test_json_object_truths_are_scored_as_fields(truth, task, counts):
    assert ("json_parse_rate" in score([record(1, truth, truth, task=task)]).metrics) == counts


def test_list_predicted_for_an_object_is_scored():
    scores = score([record(1, '{"a": "1"}', '[{"a": "1"}]')]).metrics
    assert scores["json_parse_rate"]["value"] == 1 and scores["field_accuracy"]["value"] == 0


def test_pubtabnet_html_is_a_table():
    body = "<table><tr><td>a</td></tr></table>"
    truth = f"<html><body>{body}</body></html>"
    evaluated = score([record(1, truth, body), record(2, f"\n<!-- 1 -->{truth}", truth)])
    assert evaluated.metrics["teds"]["value"] == 1


def test_tables_add_teds():
    html = "<table><tr><td>a</td></tr></table>"
    evaluated = score([record(1, html, html.replace(">a<", ">b<")), record(2, "x", "x")])
    assert evaluated.metrics["teds"]["value"] == 0.5
    assert evaluated.metrics["teds_structure"]["value"] == 1
    assert "field_f1" not in evaluated.metrics


def some_records(seed, order):
    texts = ["Total 9.00", "ক্ষুধার্ত মানুষ", "서울특별시", "北京大学", '{"a": "1"}', "a b"] * 4
    lengths = np.random.default_rng(seed).integers(1, 12, len(texts))
    return [
        record(number, text, text[: lengths[number]], group=number // 2, confidence=number / 24)
        for number, text in order(list(enumerate(texts)))
    ]


def test_compare_report_and_browser_reuse_alignments(tmp_path, monkeypatch):
    systems = [score(some_records(seed, list), f"system {seed}") for seed in (1, 2)]
    aligned = []
    process_edits = edits.process_edits
    monkeypatch.setattr(edits, "process_edits", lambda *texts: aligned.append(texts))
    monkeypatch.setattr(edits, "process_cer", lambda *texts: aligned.append(texts))
    comparison = compare(*systems)
    comparison.save(tmp_path / "report")
    Samples(comparison)
    assert aligned == []
    # Loaded evaluations are aligned once.
    monkeypatch.setattr(
        edits, "process_edits", lambda *texts: aligned.append(1) or process_edits(*texts)
    )
    folders = [system.save(tmp_path / system.name) for system in systems]
    loaded = compare(*map(Evaluation.load, folders))
    loaded.save(tmp_path / "report")
    Samples(loaded)
    assert len(aligned) == 2
    assert loaded.summary() == comparison.summary()


def test_systems_in_another_order_are_compared_sample_by_sample():
    ours = score(some_records(1, list), "ours")
    straight, reverse = (score(some_records(2, order), "theirs") for order in (list, reversed))
    assert straight.records[0]["id"] != reverse.records[0]["id"]
    expected, comparison = compare(ours, straight), compare(ours, reverse)
    assert comparison.changes == expected.changes and comparison.changes["theirs"]
    assert comparison.p_values == expected.p_values
    assert comparison.differences == expected.differences
