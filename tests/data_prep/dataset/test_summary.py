"""Counts of dataset.json."""

from collections import Counter

from data_prep.dataset.schema import Reject, Row
from data_prep.dataset.summary import Summary, most_common, spread


def row(text, width=10, **fields):
    return Row(
        id=text,
        images_file_names=["a.png"],
        prompt=[{"role": "user", "content": "Read."}],
        completion=[{"role": "assistant", "content": text}],
        task="transcription",
        language="en",
        group="a",
        width=width,
        height=20,
        source="table",
        **fields,
    )


def test_rows_and_rejects_add_up_to_the_items():
    summary = Summary()
    for outcome in (row("ab"), row("b", width=30), Reject("1", "empty text"), row("c", width=40)):
        summary.add(outcome)
    summary.splits.update({"test": 1, "train": 2})
    content = summary.to_dict("table", ["in"], {"seed": 0})
    assert content["found"] == 4 == sum(content["rows"].values()) + sum(content["rejects"].values())
    assert list(content["rows"]) == ["train", "test"]
    assert content["characters"] == {"b": 2, "a": 1, "c": 1}
    assert content["sizes"]["width"] == {"min": 10, "median": 30, "max": 40}
    assert "first_frames" not in content and "notes" not in content


def test_summary_notes_parts_and_answers():
    summary = Summary()
    summary.add(row("a"))
    assert not summary.has_parts and not summary.has_answers
    parts = row("a", answers=["a", "b"])
    parts.prompt = [{"role": "user", "content": [{"type": "image"}]}]
    summary.add(parts)
    assert summary.has_parts and summary.has_answers


def test_counts_are_sorted_and_equal_ones_by_name():
    assert list(most_common(Counter({"b": 1, "c": 5, "a": 1}))) == ["c", "a", "b"]


def test_spread_takes_the_lower_median():
    assert spread(Counter({1: 1, 2: 1, 9: 1, 10: 1})) == {"min": 1, "median": 2, "max": 10}
    assert spread(Counter()) == {}
