import json

import pytest
import torch

from ocrkit.model import TINY
from ocrkit.tiny import (
    CHARACTERS,
    build_model,
    build_processor,
    build_tokenizer,
    main,
    sample_row,
)


def test_every_character_is_a_token_and_nothing_is_unspeakable():
    tokenizer = build_tokenizer()
    for text in (CHARACTERS, "é € 한글 বাংলা", "tab\tline\n"):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids) == text
    assert len(tokenizer("TOTAL 9.00")["input_ids"]) == 10


def test_the_shipped_model_is_small_and_of_the_real_architecture():
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(TINY)
    assert type(model).__name__ == "Qwen3VLForConditionalGeneration"
    assert 2e6 <= sum(weight.numel() for weight in model.parameters()) <= 4e6
    assert (TINY / "model.safetensors").stat().st_size <= 8e6
    curve = json.loads((TINY / "curve.json").read_text())["curve"]
    assert curve[-1]["cer_plain"] < 0.1


def test_white_paper_is_zero():
    from PIL import Image

    processor = build_processor(build_tokenizer())
    picture = processor.image_processor([Image.new("RGB", (64, 32), "white")], return_tensors="pt")
    assert picture["pixel_values"].abs().max() == 0


def test_the_same_seed_builds_the_same_model():
    tokenizer = build_tokenizer()
    first, again = (build_model(tokenizer, seed=1).state_dict() for _ in range(2))
    other = build_model(tokenizer, seed=2).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.slow
def test_build_and_go_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["build", "--steps", "2", "--out", "first"]) == 0
    assert main(["build", "--steps", "2", "--start", "first", "--out", "second"]) == 0
    curve = json.loads((tmp_path / "second" / "curve.json").read_text())["curve"]
    assert [entry["step"] for entry in curve] == [2, 4]


def test_a_row_is_what_the_collator_takes():
    row = sample_row("x", None)
    assert row["completion"][0]["content"] == "x" and len(row["images"]) == 1
