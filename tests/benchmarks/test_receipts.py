"""Cross-validation over receipts and rounds of labelling, small: what is trained, read, counted."""

import pytest

from tests.benchmarks import labelling, receipts
from tests.end_to_end.test_readme import draw_receipts


def test_a_receipt_is_in_one_fold_and_every_line_in_one():
    groups = [f"r{n % 7}" for n in range(40)]
    folds = receipts.folds_of(groups)
    assert sorted(n for fold in folds for n in fold) == list(range(40))
    names = [{groups[n] for n in fold} for fold in folds]
    assert sum(map(len, names)) == 7 and min(map(len, names)) == 1
    assert folds == receipts.folds_of(groups)


def test_receipt_figures_are_compared_with_their_aims():
    def readers(value):
        rate = {"value": value, "low": value - 0.01, "high": value + 0.01}
        return {"CER without case": rate}

    figures = {"folds": 2, "lines": 30, "receipts": 4, "cpu minutes": [5.0, 6.0]}
    figures |= {"readers": {receipts.TUNED: readers(0.09), "RapidOCR": readers(0.02)}}
    figures |= {"clean": {"after": {"value": 0.01, "low": 0, "high": 0.02}}}
    read, clean, minutes = receipts.rows_of(figures)
    assert (read["ours"], read["low"], read["high"], read["theirs"]) == (9, 8, 10, 2)
    assert not read["met"] and clean["met"] and minutes["met"]
    assert read["inputs"] == "30 lines of 4 receipts, 2 of 5 folds"
    del figures["readers"]["RapidOCR"]
    assert "theirs" not in receipts.rows_of(figures)[0]
    # Every fold went on from a checkpoint.
    assert len(receipts.rows_of(figures | {"cpu minutes": []})) == 2


def test_kept_folds_of_other_settings_lie_apart():
    earlier = receipts.kept_folds(**receipts.EARLIER)
    assert earlier != receipts.kept_folds() and earlier.parent == receipts.kept_folds().parent


def test_earlier_recipe_figure_has_no_aim(tmp_path, monkeypatch):
    asked = []
    rate = {"value": 0.08, "low": 0.06, "high": 0.1}
    figures = {"lines": 30, "receipts": 4, "readers": {receipts.TUNED: {"CER without case": rate}}}

    def read(data, kept, folds, **settings):
        asked.append((data, kept, folds, settings))
        return figures

    monkeypatch.setenv("OCRKIT_TEST_DATA", str(tmp_path))
    monkeypatch.setattr(receipts, "cross_validate", read)
    (row,) = receipts.earlier_receipts(tmp_path, folds=2)
    kept = receipts.kept_folds(**receipts.EARLIER)
    settings = {"beside": False, **receipts.EARLIER}
    assert asked == [(tmp_path / "finance_sroie", kept, 2, settings)]
    assert (row["ours"], row["low"], row["high"], row["aim"], row["met"]) == (8, 6, 10, "", True)
    assert row["inputs"] == "30 lines of 4 receipts, 2 of 5 folds" and row["figures"] == figures


@pytest.mark.slow
def test_folds_are_trained_once_and_read_beside_engines(tmp_path, monkeypatch):
    draw_receipts(tmp_path / "SROIE", 6)
    trained = []
    fold = receipts._trained

    def watched(config, train_rows, test_rows, clean):
        trained.append((set(train_rows["group"]), set(test_rows["group"])))
        return fold(config, train_rows, test_rows, clean)

    monkeypatch.setattr(receipts, "_trained", watched)
    small = {"max_steps": 2, "per_device_train_batch_size": 4}
    figures = receipts.cross_validate(tmp_path / "SROIE", tmp_path / "kept", 2, **small)
    assert figures["folds"] == 2 and figures["steps"] == 2 and len(figures["cpu minutes"]) == 2
    assert figures["lines"] == 3 * figures["receipts"]
    assert {receipts.TUNED, "the embedded reader"} <= set(figures["readers"])
    for train, test in trained:
        assert len(train | test) == 6 and not train & test
    again = receipts.cross_validate(tmp_path / "SROIE", tmp_path / "kept", 2, **small)
    assert again == figures
    alone = receipts.cross_validate(tmp_path / "SROIE", tmp_path / "kept", 2, beside=False, **small)
    name = receipts.TUNED
    assert alone["readers"] == {name: figures["readers"][name]}
    assert alone["clean"] == {"after": figures["clean"]["after"]}


@pytest.mark.slow
def test_rounds_of_a_part_of_a_sample(tmp_path):
    first, keys = labelling.rounds(tmp_path, seeds=[1], round_size=4, steps=2, limit=12)
    lines = first["figures"]["lines"]
    assert [line["pictures"] for line in lines] == [4, 8, 4, 8]
    assert first["unit"] == "%" and keys["ours"] > 0 and "ratio" in keys
