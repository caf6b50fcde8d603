"""Which linear layers adapters go on, and what is printed of it."""

import re

import pytest
import torch
from transformers import AutoModelForImageTextToText

from ocrkit.config import TrainConfig
from ocrkit.errors import ConfigError
from ocrkit.models.adapters import add_lora, describe_adapters, lora_targets
from ocrkit.models.load import load_model
from tests.helpers.architectures import ARCHITECTURES, build
from tests.helpers.tiny_architectures import make


@pytest.mark.parametrize(
    ("flags", "inside", "outside"),
    [
        ({"finetune_vision_layers": False}, "language_model", "visual"),
        ({"finetune_language_layers": False}, "visual", "language_model"),
        ({"finetune_mlp_modules": False}, "attn", "mlp"),
        ({"finetune_attention_modules": False}, "mlp", "attn"),
    ],
)
def test_finetune_flags_select_lora_targets(config, flags, inside, outside):
    plain, _ = load_model(TrainConfig(**{**config.to_dict(), "use_peft": False}))
    names = lora_targets(plain, TrainConfig(**{**config.to_dict(), **flags}))
    assert names and all(inside in name and outside not in name for name in names)
    assert all(isinstance(plain.get_submodule(name), torch.nn.Linear) for name in names)


def test_finetune_flags_that_select_no_layer(config):
    plain, _ = load_model(TrainConfig(**{**config.to_dict(), "use_peft": False}))
    config.finetune_vision_layers = config.finetune_language_layers = False
    with pytest.raises(ConfigError, match="select no layer"):
        lora_targets(plain, config)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_full_names_select_what_the_pattern_of_version_0_1_selected(name, tmp_path):
    model = AutoModelForImageTextToText.from_pretrained(build(name, tmp_path))
    pattern = (
        r".*(?:vision|visual|image|patch|language|text).*(?:attn|attention|mlp|feed_forward|ffn)"
        r".*\..+"
    )
    expected = [
        path
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and re.fullmatch(pattern, path)
    ]
    adapted = add_lora(model, TrainConfig())
    layers = [path for path, module in adapted.named_modules() if hasattr(module, "lora_A")]
    assert [path.removeprefix("base_model.model.") for path in layers] == expected
    printed = describe_adapters(adapted, TrainConfig())
    new = describe_adapters(adapted, TrainConfig(), new=True)
    assert new.startswith("New LoRA adapters, without effect until they are trained: ")
    counts = re.findall(r"(\d+) layers of the (vision tower|language model)", printed)
    assert sum(int(count) for count, _ in counts) == len(expected) and len(counts) == 2
    assert "\n" not in printed


def test_experts_without_adapters_are_reported():
    _, model = make("qwen3_vl_moe")
    config = TrainConfig()
    printed = describe_adapters(add_lora(model, config), config).splitlines()
    assert printed[0] == (
        "LoRA adapters: 8 layers of the vision tower (4 attention, 4 feed-forward); "
        "8 layers of the language model (8 attention)"
    )
    assert printed[1] == "the finetune_* flags select no feed-forward layer of the language model"
    assert "experts of its mixture get no adapters (4 tensors" in printed[2]


def test_linear_layers_inside_wrappers_get_adapters():
    """Gemma 4's vision tower wraps its linear layers, which PEFT refuses to adapt as they are."""
    _, model = make("gemma4")
    printed = describe_adapters(add_lora(model, TrainConfig()), TrainConfig())
    assert re.search(r"[1-9]\d* layers of the vision tower", printed)


def test_unknown_layer_names_are_reported(config, capsys):
    config.lora_target_modules = ["q_proj", "w1"]
    load_model(config)
    assert "lora_target_modules: no layer is called 'w1'" in capsys.readouterr().out
