import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from ocrkit.errors import ModelError
from ocrkit.models.base import TINY, adapter_on, check_memory, in_16_bits, resolve_model


def test_an_adapter_made_elsewhere_finds_the_embedded_model(tmp_path):
    base = "/somewhere/else/ocrkit/assets/tiny"
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    assert resolve_model(str(tmp_path)) == (str(TINY), str(tmp_path))


def test_an_adapter_that_names_no_base(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": null}')
    with pytest.raises(ModelError, match="does not say what was adapted"):
        resolve_model(str(tmp_path))


def test_an_adapter_without_its_base(tmp_path):
    missing = {"base_model_name_or_path": str(tmp_path / "gone")}
    (tmp_path / "adapter_config.json").write_text(json.dumps(missing))
    with pytest.raises(ModelError, match=r"was trained on .*gone', which does not exist"):
        resolve_model(str(tmp_path))


def test_unsloths_copies_in_4_bits_are_known(tmp_path, monkeypatch):
    for copy in ("unsloth/Qwen2-VL-2B-unsloth-bnb-4bit", "unsloth/Qwen2-VL-2B-bnb-4bit"):
        assert in_16_bits(copy) == "unsloth/Qwen2-VL-2B"
    # Of others nobody knows what they were made from.
    for name in ("unsloth/Qwen2-VL-2B", "someone/reader-bnb-4bit"):
        assert in_16_bits(name) == name
    monkeypatch.chdir(tmp_path)
    (tmp_path / "unsloth" / "mine-bnb-4bit").mkdir(parents=True)
    assert in_16_bits("unsloth/mine-bnb-4bit") == "unsloth/mine-bnb-4bit"


def test_an_adapter_is_handed_on_with_the_base_that_is_here(tmp_path):
    settings = {"base_model_name_or_path": "/somewhere/else", "r": 4}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    (tmp_path / "adapter_model.safetensors").write_text("weights")
    with adapter_on(str(tmp_path), "/here") as folder:
        names = json.loads((Path(folder) / "adapter_config.json").read_text())
        assert names == settings | {"base_model_name_or_path": "/here"}
        assert (Path(folder) / "adapter_model.safetensors").read_text() == "weights"
    with adapter_on(str(tmp_path), "/somewhere/else") as folder:
        assert folder == str(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text()) == settings


def test_the_memory_for_a_model_in_the_hubs_cache_is_looked_at(monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=8 * 10**6))
    cached = {"someone/reader": str(TINY / "config.json")}
    monkeypatch.setattr(
        "huggingface_hub.try_to_load_from_cache", lambda name, file: cached.get(name)
    )
    with pytest.raises(ModelError, match=r"someone/reader needs 0\.0 GB .*, take another\."):
        check_memory("someone/reader", 4, "take another")
    check_memory("someone/reader", 1, "take another")
    check_memory("someone/not-here", 4, "take another")
