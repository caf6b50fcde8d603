import json
import random

import pytest
import torch

from ocrkit.data.collate import Collator
from tests.tools.tiny_model.__main__ import main
from tests.tools.tiny_model.build import build_model, build_processor, build_tokenizer
from tests.tools.tiny_model.lines import FONTS, MAX_WIDTH, fonts
from tests.tools.tiny_model.train import (
    MOST_CLASSES,
    START,
    attend_apart,
    attend_together,
    harder,
    line_rows,
    loss_of,
    toy_rows,
)


@pytest.fixture(scope="module")
def built():
    tokenizer = build_tokenizer()
    return build_processor(tokenizer), build_model(tokenizer)


def latin_rows(count):
    known = {"en": fonts("en", FONTS["en"])[:3]}
    return line_rows(random.Random(0), {"en": 1.0}, known, count, 160, 200, 0.0)


def test_the_loss_is_that_of_the_model_itself(built):
    processor, model = built
    batch = Collator(processor)(latin_rows(3))
    torch.testing.assert_close(loss_of(model, batch), model(**batch).loss, rtol=1e-5, atol=1e-6)


def test_packed_pictures_attend_to_themselves_only(built):
    processor, model = built
    batch = Collator(processor)(latin_rows(3))
    apart = loss_of(model, batch)
    attend_together(model)
    together = loss_of(model, batch)
    attend_apart(model)
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(loss_of(model, batch), apart)


def test_pictures_of_a_batch_have_one_size():
    assert len({row["images"][0].size for row in latin_rows(8)}) == 1


def test_toys_are_rows_of_one_task_with_its_prompt():
    rows = toy_rows(random.Random(1), fonts("en", FONTS["en"])[:2], 3, 0.5)
    prompts = {row["prompt"][0]["content"] for row in rows}
    assert len(rows) == 3 and "Transcribe the text in the image." not in prompts


def test_training_level_rises_with_a_low_loss_up_to_the_hardest():
    level = dict(START)
    assert not harder(level, 1.3) and level == START
    assert harder(level, 1.1) and level["width"] > START["width"]
    assert level["classes"] == START["classes"]
    while harder(level, 0.5):
        assert not level["variety"] or level["width"] == MAX_WIDTH
    assert level == {"width": MAX_WIDTH, "classes": MOST_CLASSES, "variety": 0.9}


@pytest.mark.slow
def test_tiny_build_can_be_continued(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["build", "--steps", "2", "--out", "first"]) == 0
    assert main(["build", "--steps", "2", "--start", "first", "--out", "second"]) == 0
    curve = json.loads((tmp_path / "second" / "curve.json").read_text())["curve"]
    assert [entry["step"] for entry in curve] == [2, 4]
