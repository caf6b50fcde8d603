import json
from types import SimpleNamespace

import pytest

from ocrkit.errors import ModelError
from ocrkit.models.base import TINY, check_memory, in_16_bits, resolve_model


def test_adapter_from_another_machine_resolves_to_the_embedded_model(tmp_path):
    base = "/somewhere/else/ocrkit/assets/tiny"
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    assert resolve_model(str(tmp_path)) == (str(TINY), str(tmp_path))


def test_adapter_config_without_base_model(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": null}')
    with pytest.raises(ModelError, match="names no base model"):
        resolve_model(str(tmp_path))


def test_adapter_whose_base_does_not_exist(tmp_path):
    missing = {"base_model_name_or_path": str(tmp_path / "gone")}
    (tmp_path / "adapter_config.json").write_text(json.dumps(missing))
    with pytest.raises(ModelError, match=r"was trained on .*gone', which does not exist"):
        resolve_model(str(tmp_path))


def test_a_folder_without_a_model_names_its_last_checkpoint(tmp_path):
    (tmp_path / "adapter").mkdir()
    with pytest.raises(ModelError, match=r"holds no model: .* name another folder"):
        resolve_model(str(tmp_path))
    for number in (5, 6):
        (tmp_path / f"checkpoint-{number}").mkdir()
    (tmp_path / "checkpoint-5" / "complete.json").touch()
    with pytest.raises(ModelError, match=r"name its checkpoint .*checkpoint-5, or a model id"):
        resolve_model(str(tmp_path))


def test_in_16_bits_names_the_original_of_unsloths_4_bit_copy(tmp_path, monkeypatch):
    for copy in ("unsloth/Qwen2-VL-2B-unsloth-bnb-4bit", "unsloth/Qwen2-VL-2B-bnb-4bit"):
        assert in_16_bits(copy) == "unsloth/Qwen2-VL-2B"
    # The original of other copies is unknown.
    for name in ("unsloth/Qwen2-VL-2B", "someone/reader-bnb-4bit"):
        assert in_16_bits(name) == name
    monkeypatch.chdir(tmp_path)
    (tmp_path / "unsloth" / "mine-bnb-4bit").mkdir(parents=True)
    assert in_16_bits("unsloth/mine-bnb-4bit") == "unsloth/mine-bnb-4bit"


def test_check_memory_reads_the_hub_cache(monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=8 * 10**6))
    cached = {"someone/reader": str(TINY / "config.json")}
    monkeypatch.setattr(
        "huggingface_hub.try_to_load_from_cache", lambda name, file: cached.get(name)
    )
    with pytest.raises(ModelError, match=r"someone/reader needs 0\.0 GB .*, take another\."):
        check_memory("someone/reader", 4, "take another")
    check_memory("someone/reader", 1, "take another")
    check_memory("someone/not-here", 4, "take another")
