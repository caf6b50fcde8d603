"""Settings compared on drawn receipts: what is drawn, and how differences are counted."""

import pytest
from PIL import Image

from ocrkit.data.rows import text_of
from tests.benchmarks import augmenting


def rows_of(folder):
    from ocrkit import TrainConfig, load_data

    return load_data(TrainConfig(dataset=str(folder)))["train"]


def test_drawn_receipts_pair_some_lines_and_keep_the_others(tmp_path):
    augmenting.draw_receipts(tmp_path / "plain", 4, seed=1)
    augmenting.draw_receipts(tmp_path / "longer", 4, seed=1, paired=0.25)
    plain, longer = (
        [text_of(row["completion"]) for row in rows_of(tmp_path / name)]
        for name in ("plain", "longer")
    )
    assert len(plain) == 4 * augmenting.LINES and max(map(len, plain)) <= augmenting.LONGEST
    changed = [(a, b) for a, b in zip(plain, longer) if a != b]
    assert 3 <= len(changed) <= 20 and all(b.startswith(f"{a} ") for a, b in changed)
    assert augmenting.LONGEST < max(map(len, longer)) <= augmenting.PAIR


def test_drawn_receipts_have_the_lengths_that_were_asked_for(tmp_path):
    augmenting.draw_receipts(tmp_path, 2, seed=2, low=32, high=48)
    texts = [text_of(row["completion"]) for row in rows_of(tmp_path)]
    assert len(texts) == 20 and all(32 <= len(text) <= 48 for text in texts)


def test_tilted_line_is_as_high_and_its_letters_smaller():
    font = str(augmenting.shipped_fonts("DejaVuSansMono")[0])
    straight, tilted = (
        augmenting.tilted_line("SUBTOTAL 12.50", font, 20, degrees, 0.5) for degrees in (0, 3)
    )
    assert isinstance(tilted, Image.Image) and tilted.height == straight.height == 32
    assert tilted.width < 0.9 * straight.width


def test_difference_to_the_recipe_is_paired_over_receipts():
    def records(*predictions):
        return [
            {"reference": "ABCDEFGHIJ", "prediction": text, "group": str(n), "id": str(n)}
            for n, text in enumerate(predictions)
        ]

    recipe = records("ABCDEFGHI", "ABCDEFGHIJ", "ABCDE")
    better = records("ABCDEFGHIJ", "ABCDEFGHIJ", "ABCDEFGHIJ")
    figures = augmenting.compared(better, recipe)
    assert figures["CER"]["value"] == 0
    assert figures["difference"]["value"] == pytest.approx(-0.2)
    assert figures["difference"]["high"] <= 0
    same = augmenting.compared(recipe, recipe)["difference"]
    assert (same["value"], same["low"], same["high"]) == (0, 0, 0)


@pytest.mark.slow
def test_augmentations_are_trained_and_read_on_drawn_receipts(tmp_path):
    (row,) = augmenting.augmenting(tmp_path, steps=2, seeds=(1,), receipts=3)
    figures = row["figures"]
    kinds = [*augmenting.TESTS, augmenting.CLEAN]
    assert figures["tests"] == dict.fromkeys(kinds, 10) and figures["train"] == 30
    assert len(figures["variants"]) == 5 and row["ours"] > 0 and row["met"]
    for results in figures["variants"].values():
        assert len(results) == 4 and all(result["CER"]["value"] >= 0 for result in results)
