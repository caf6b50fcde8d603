import inspect
import json
import re

import pytest
import torch

from ocrkit.config import ConfigError, TrainConfig
from ocrkit.data import load_data
from ocrkit.model import (
    TINY,
    ModelError,
    apply_pixel_budget,
    choose_backend,
    export,
    load_model,
    lora_targets,
    resolve_model,
)
from ocrkit.predict import predict
from ocrkit.train import train


def test_the_backend_is_chosen_without_torch(monkeypatch):
    assert choose_backend(TrainConfig(backend="unsloth")) == ("unsloth", "backend=unsloth")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert choose_backend(TrainConfig())[0] == "transformers"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr("ctypes.util.find_library", lambda name: "libcuda.so.1")
    assert choose_backend(TrainConfig()) == ("unsloth", "a CUDA driver is present")


def test_load_model_says_what_it_took(config, capsys):
    model, _ = load_model(config)
    assert "Backend: transformers" in capsys.readouterr().out
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained and all("lora_" in name for name in trained)


def test_four_bit_without_cuda_is_said(config, capsys):
    config.load_in_4bit = True
    load_model(config)
    assert "4-bit needs CUDA; the model is loaded in float32" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "inside", "outside"),
    [
        ({"finetune_vision_layers": False}, "language_model", "visual"),
        ({"finetune_language_layers": False}, "visual", "language_model"),
        ({"finetune_mlp_modules": False}, "attn", "mlp"),
        ({"finetune_attention_modules": False}, "mlp", "attn"),
    ],
)
def test_flags_choose_where_adapters_go(config, flags, inside, outside):
    plain, _ = load_model(TrainConfig(**{**config.to_dict(), "use_peft": False}))
    pattern = lora_targets(plain, TrainConfig(**{**config.to_dict(), **flags}))
    names = [name for name, _ in plain.named_modules() if re.fullmatch(pattern, name)]
    assert names and all(inside in name and outside not in name for name in names)


def test_flags_that_select_nothing_are_refused(config):
    plain, _ = load_model(TrainConfig(**{**config.to_dict(), "use_peft": False}))
    config.finetune_vision_layers = config.finetune_language_layers = False
    with pytest.raises(ConfigError, match="select no layer"):
        lora_targets(plain, config)


def test_the_pixel_budget_is_set_once_for_all(config):
    config.min_pixels, config.max_pixels = 1024, 4096
    _, processor = load_model(config)
    size = processor.image_processor.size
    assert (size["shortest_edge"], size["longest_edge"]) == (1024, 4096)


def test_a_budget_in_pixels_is_refused_where_tiles_count():
    class Tiles:
        def __init__(self):
            self.size = {"height": 560, "width": 560}

    class Processor:
        image_processor = Tiles()

    with pytest.raises(ConfigError, match="does not count pixels"):
        apply_pixel_budget(Processor(), TrainConfig(max_pixels=4096))


def test_what_cannot_be_loaded_is_said_in_one_sentence(tmp_path, config):
    with pytest.raises(ModelError, match="does not exist"):
        resolve_model(str(tmp_path / "nowhere"))
    (tmp_path / "config.json").write_text("{}")
    config.model_name_or_path = str(tmp_path)
    with pytest.raises(ModelError, match="cannot be loaded") as raised:
        load_model(config)
    assert "\n" not in str(raised.value)


def test_an_adapter_made_elsewhere_finds_the_embedded_model(tmp_path):
    base = "/somewhere/else/ocrkit/assets/tiny"
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    assert resolve_model(str(tmp_path)) == (str(TINY), str(tmp_path))


def test_export_adapter_and_merged_read_like_the_trained_model(config, tmp_path):
    data = load_data(config)
    model, processor = load_model(config)
    train(model, processor, data, config)
    texts = predict(model, processor, data["test"], config)
    for name, format in (("adapter", "adapter"), ("merged", "merged_16bit")):
        folder = export(model, processor, tmp_path / name, format=format)
        again = TrainConfig(**{**config.to_dict(), "model_name_or_path": str(folder)})
        again.use_peft = format == "adapter"
        loaded, loaded_processor = load_model(again)
        same = [
            a == b for a, b in zip(texts, predict(loaded, loaded_processor, data["test"], again))
        ]
        # The merged weights are rounded to 16 bits, which may tip a close decision.
        assert sum(same) >= (10 if format == "adapter" else 9), name
    with pytest.raises(ModelError, match="not one of adapter, merged_16bit"):
        export(model, processor, tmp_path, format="gguf")


def test_a_merge_leaves_the_model_as_it_was(config, tmp_path):
    model, processor = load_model(config)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    export(model, processor, tmp_path / "merged", format="merged_16bit")
    assert all(torch.equal(before[name], weight) for name, weight in model.named_parameters())


def test_peft_takes_the_arguments_that_are_passed():
    from peft import LoraConfig

    assert {"r", "lora_alpha", "lora_dropout", "use_rslora", "target_modules"} <= set(
        inspect.signature(LoraConfig).parameters
    )
