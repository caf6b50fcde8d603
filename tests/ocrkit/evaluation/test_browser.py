"""Samples and tables; the browser's widgets are tested in tests/end_to_end/test_widgets.py."""

from PIL import Image

from ocrkit.evaluation.browser import Samples, browse, picture, worst
from ocrkit.evaluation.compare import compare
from ocrkit.evaluation.evaluation import score

TRUTHS = ["TOTAL 9.00", "cash", "<b>"]


def evaluation(name, predictions):
    rows = zip(TRUTHS, predictions, (0.9, 0.5, 0.7))
    return score(
        [
            {"id": f"{n}", "reference": truth, "prediction": text, "confidence": sure}
            for n, (truth, text, sure) in enumerate(rows)
        ],
        name,
    )


BASE = evaluation("base", ["TOTAL 9.00", "", "<b>"])
TUNED = evaluation("tuned", ["TOTAL 9.0O", "cash", "<i>"])


def test_samples_are_ordered_by_rate_change_and_confidence():
    samples = Samples(compare(BASE, TUNED))
    assert samples.rates[-1] == [10.0, 0.0, 100 / 3]
    assert samples.order("worst first") == [2, 0, 1]
    assert samples.order("least confident first") == [1, 2, 0]
    assert samples.order("confident and wrong first")[0] == 0
    assert samples.order("by change") == [2, 0, 1] and samples.change(1) == -100


def test_browser_shows_every_systems_reading():
    html = Samples(compare(BASE, TUNED)).html(2)
    assert "CER 0 %" in html and "CER 33 %" in html and "70% sure" in html
    assert "&lt;b&gt;" in html and "<b>" not in html


def test_browser_outside_a_notebook_prints_the_worst_samples():
    shown = browse(TUNED, count=2)
    assert repr(shown) == repr(worst(Samples(TUNED), 2))
    assert repr(shown).startswith("The 2 of 3 samples that tuned read worst.\ntruth: <b>")


def test_browser_skips_a_picture_that_cannot_be_opened(tmp_path):
    assert picture(tmp_path / "none.png") == picture(None) == ""
    assert picture(Image.new("L", (8, 4))).startswith("<img src='data:image/")
