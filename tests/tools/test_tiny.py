import json

import torch
from datasets import Dataset
from PIL import Image

from ocrkit.models.base import TINY
from tests.tools.tiny_model.__main__ import card
from tests.tools.tiny_model.build import build_model, build_processor, build_tokenizer, sample_row
from tests.tools.tiny_model.lines import SCRIPTS, characters
from tests.tools.tiny_model.measure import rows_of_known_scripts


def test_tiny_tokenizer_has_a_token_for_every_character():
    tokenizer = build_tokenizer()
    for text in characters().values():
        ids = tokenizer(text)["input_ids"]
        assert len(ids) == len(text) and tokenizer.decode(ids) == text
    for text in ("é € 漢字 ㅋㅋ", "tab\tline\n", "<td>9.00</td>"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer("TOTAL 9.00")["input_ids"]) == 10


def test_the_shipped_model_is_small_and_of_the_real_architecture():
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(TINY)
    assert type(model).__name__ == "Qwen3VLForConditionalGeneration"
    assert 2e6 <= sum(weight.numel() for weight in model.parameters()) <= 8e6
    assert (TINY / "model.safetensors").stat().st_size <= 16e6


def test_the_shipped_model_was_measured_in_every_script():
    measured = json.loads((TINY / "measured.json").read_text(encoding="utf-8"))
    card = (TINY / "README.md").read_text(encoding="utf-8")
    for script in SCRIPTS:
        for kind in ("known", "unseen"):
            figure = measured["model"][f"{kind}/{script}"]["cer"]
            assert figure["low"] <= figure["value"] <= figure["high"] < 0.5
            assert "{value:.1%} [{low:.1%}, {high:.1%}]".format(**figure) in card


def test_model_card_shows_engines_and_scripts_without_a_model():
    measured = json.loads((TINY / "measured.json").read_text(encoding="utf-8"))
    history = json.loads((TINY / "curve.json").read_text(encoding="utf-8"))
    assert (TINY / "README.md").read_text(encoding="utf-8") == card(history, measured)
    assert set(measured["tesseract"]) == set(measured["model"])
    scripts = {kind.partition("/")[2] for kind in measured["rapidocr"]}
    assert scripts == {"en", "zh"}
    rows = card(history, measured).splitlines()
    assert sum("| no model |" in row for row in rows) == 2
    del measured["rapidocr"]
    rows = card(history, measured).splitlines()
    assert sum("| not measured |" in row for row in rows) == len(SCRIPTS)


def test_rapidocr_rows_are_of_scripts_its_model_can_write():
    texts = {"en": "TOTAL 9.00", "bn": "বাংলা", "ko": "한국어", "zh": "中文"}
    rows = [
        {"id": str(n), "language": language, "completion": [{"role": "assistant", "content": text}]}
        for n, (language, text) in enumerate(list(texts.items()) * 2)
    ]
    chosen = rows_of_known_scripts(Dataset.from_list(rows))
    assert sorted(chosen["language"]) == ["en", "en", "zh", "zh"]


def test_tiny_processor_maps_white_to_zero():
    processor = build_processor(build_tokenizer())
    picture = processor.image_processor([Image.new("RGB", (64, 32), "white")], return_tensors="pt")
    assert picture["pixel_values"].abs().max() == 0


def test_the_same_seed_builds_the_same_model():
    tokenizer = build_tokenizer()
    first, again = (build_model(tokenizer, seed=1).state_dict() for _ in range(2))
    other = build_model(tokenizer, seed=2).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_row_is_what_the_collator_takes():
    row = sample_row("x", Image.new("RGB", (32, 32)))
    assert row["completion"][0]["content"] == "x" and len(row["images"]) == 1
