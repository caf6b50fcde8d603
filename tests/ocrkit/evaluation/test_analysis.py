import numpy as np
import pytest

from ocrkit.evaluation import analysis
from ocrkit.metrics.edits import process_cer, process_edits
from ocrkit.metrics.intervals import Tally, shares


def record(reference, prediction, **more):
    return {"id": 0, "reference": reference, "prediction": prediction, **more}


@pytest.mark.parametrize(
    "reference, prediction, kind",
    [
        ("Total", "Total", None),
        ("", None, None),
        ("Total", "TOTAL", "case"),
        ("a b", "ab", "spacing"),
        ("a b", "a  b\n", "spacing"),
        ("Ａ１", "A1", "normalisation"),
        ("é", "e\u0301", "normalisation"),
        ("Total 9.00", "", "missing content"),
        ("Total 9.00", None, "missing content"),
        ("Total 9.00 RM", "Total", "missing content"),
        ("Total", "Total 9.00 RM", "extra content"),
        ("Total", "Total" + " the" * 50, "extra content"),
        ("Total 9.00", "wxyzwxyzwx", "wholly wrong"),
        ("abc", "uvwxyzuvwxyzuvwxyz", "wholly wrong"),
        ("Total 9.00", "Totel 9.00", "misread"),
        ("Total 9.00 RM", "Total 9.00 R", "misread"),
        ("", "x", "extra content"),
    ],
)
def test_error_kinds(reference, prediction, kind):
    edits = process_edits([reference], [prediction])
    assert analysis.error_kinds([record(reference, prediction)], edits) == [kind]
    assert kind is None or kind in analysis.KINDS


@pytest.mark.parametrize(
    "sample, expected",
    [
        (record("a", "a", finish_reason="stop"), False),
        (record("a", "a", finish_reason="length"), True),
        (record("a", "a the the the the the the"), True),
        (record("a", "x" + "0" * 30), True),
        (record("a" + "." * 40, "a" + "." * 40), False),
        (record("a" + "." * 40, "a" + "." * 90), False),
        (record("1,000,000", "1,000,000"), False),
        (record("a", "ab" * 500_000), True),
        (record("a", None), False),
        (record("ㅋㅋㅋㅋㅋㅋ", "ㅋㅋㅋㅋㅋ"), False),
    ],
)
def test_runaway(sample, expected):
    assert analysis.runaway(sample) is expected


def test_length_bins_cover_every_length():
    assert [analysis.length_bin("x" * n) for n in (0, 1, 8, 9, 32, 512, 513)] == [
        "empty",
        "1-8",
        "1-8",
        "9-16",
        "17-32",
        "129-512",
        "over 512",
    ]


def test_columns_leave_out_what_has_one_value_or_too_many():
    records = [
        record("a", "a", same=1, many=n, few=n % 2, nested=[n], language="en", confidence=0.1 * n)
        for n in range(30)
    ]
    assert list(analysis.columns(records)) == ["length", "script", "few"]


def test_shares_of_independent_samples_have_wilson_intervals():
    half = shares([1.0, 0.0] * 50)
    intervals = analysis.with_intervals({"exact_match": half, "cer": half}, None)
    assert intervals["exact_match"]["low"] == pytest.approx(0.40383, abs=1e-5)
    assert intervals["cer"]["low"] == pytest.approx(0.4, abs=0.02)
    grouped = analysis.with_intervals({"exact_match": half}, [n // 2 for n in range(100)])
    assert grouped["exact_match"] == {"value": 0.5, "low": 0.5, "high": 0.5} or (
        grouped["exact_match"]["low"] < 0.5
    )


def test_interval_of_few_groups_without_errors_has_width():
    intervals = analysis.with_intervals({"exact_match": shares([1.0] * 100)}, [0, 1] * 50)
    assert intervals["exact_match"]["value"] == 1 and intervals["exact_match"]["low"] < 0.5


def test_interval_always_contains_its_value():
    rng = np.random.default_rng(0)
    for _ in range(30):
        size = int(rng.integers(1, 12))
        tally = Tally(rng.binomial(5, 0.2, size).astype(float), np.full(size, 5.0))
        interval = analysis.with_intervals({"cer": tally}, None)["cer"]
        assert (
            interval["low"] <= interval["value"] + 1e-12
            and interval["value"] <= interval["high"] + 1e-12
        )


def test_coverage_rises_to_all_samples():
    records = [
        record("abcd", "abcd" if n >= 5 else "abxx", confidence=(n + 1) / 10) for n in range(10)
    ]
    cer = process_cer(["abcd"] * 10, [r["prediction"] for r in records])
    curve = analysis.coverage_curve(records, cer)
    assert [point["coverage"] for point in curve] == [n / 10 for n in range(1, 11)]
    assert curve[4] == {"coverage": 0.5, "threshold": 0.6, "cer": 0}
    assert curve[-1]["cer"] == 0.25
    assert analysis.coverage_curve([record("a", "a")] * 5, process_cer(["a"] * 5, ["a"] * 5)) == []


def test_suspect_labels_are_confident_and_differ_beyond_the_lenient_profile():
    truth = ["9.00", "9.00", "9.00", "9.00", "9.00", "9.00"]
    read = ["8.00", "8.00", "9.00", "8.00", None, "９.００"]
    sure = [0.95, 0.99, 0.99, 0.5, None, 0.99]
    last = [
        {**record(t, p, confidence=c), "id": n}
        for n, (t, p, c) in enumerate(zip(truth, read, sure))
    ]
    first = [{**r, "prediction": "8.00" if n == 0 else "x"} for n, r in enumerate(last)]
    assert [record["id"] for record, _ in analysis.suspect_labels([last])] == [1, 0]
    both = analysis.suspect_labels([first, last])
    assert [(record["id"], agree) for record, agree in both] == [(0, 2), (1, 1)]
