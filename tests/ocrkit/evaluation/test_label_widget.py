"""Labelling widget without a browser: what it shows, and how it takes the browser's messages."""

import pytest

from ocrkit.evaluation.label_widget import _widget, label, receive, view
from ocrkit.evaluation.labelling import Labels, collect_pictures
from tests.ocrkit.evaluation.test_labelling import scans  # noqa: F401


@pytest.fixture
def labels(scans, tmp_path):  # noqa: F811
    labels = collect_pictures(scans, tmp_path / "labels", language="en")
    for place, sample in enumerate(labels.samples):
        labels.drafts[sample["id"]] = {"prediction": f"DRAFT {place}", "doubts": [[0, 1]]}
    return labels


def say(labels, shown, action, text="", **more):
    message = {"action": action, "id": shown["id"], "text": text, "seconds": 1.0}
    return receive(labels, shown, message | more)


def test_label_widget_messages_apply_to_the_shown_sample(labels):
    shown = view(labels, labels.next())
    assert shown["draft"] == shown["text"] == "DRAFT 0" and shown["doubts"] == [[0, 1]]
    assert shown["picture"].startswith("data:image/png;base64,")
    second = say(labels, shown, "take", "one")
    assert second["draft"] == "DRAFT 1" and labels.answers[shown["id"]]["text"] == "one"
    # The same message again, as after a key held down, answers nothing.
    assert say(labels, second, "take", "one", id=shown["id"])["id"] == second["id"]
    assert len(labels.answers) == 1
    empty = say(labels, second, "take", " ")
    assert empty["id"] == second["id"] and "empty" in empty["note"]
    third = say(labels, second, "unreadable")
    undone = say(labels, third, "undo")
    assert undone["id"] == second["id"] and second["id"] not in labels.answers
    back = say(labels, undone, "previous")
    assert back["id"] == shown["id"] and back["text"] == "one"
    after = say(labels, back, "take", "corrected")
    assert after["id"] == second["id"]
    assert Labels(labels.folder).answers[shown["id"]]["text"] == "corrected"
    while not after.get("done"):
        after = say(labels, after, "skip")
    assert after["progress"].startswith("8 of 8")
    assert say(labels, after, "undo")["id"] == labels.next()["id"]


def test_label_widget_keeps_typed_text_on_a_full_disk(labels, full_disk):
    shown = view(labels, labels.next())
    with full_disk(0):
        same = say(labels, shown, "take", "typed")
    assert same["id"] == shown["id"] and same["text"] == "typed"
    assert same["note"].startswith("Not saved: No space left on the disk")


def test_label_widget_without_a_front_end_is_a_table(labels):
    bundle = label(labels)._repr_mimebundle_()
    assert "DRAFT 0" in bundle["text/plain"] and "<table>" in bundle["text/html"]


def test_widget_sends_and_takes_samples(labels):

    widget = _widget(labels)
    first = widget.sample["id"]
    message = {"action": "take", "id": first, "text": "x", "seconds": 1, "count": 1}
    widget._handle_custom_msg(message, [])
    assert widget.sample["id"] != first and widget.sample["count"] == 1
