import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict

from ocrkit.config import TrainConfig
from ocrkit.errors import ConfigError
from ocrkit.models.backend import (
    adapter_on,
    autocast,
    check_launcher,
    choose_backend,
    half_precision,
    inference_mode,
    strict_adapter_loading,
    weights_dtype,
)
from ocrkit.models.load import load_model


@pytest.mark.parametrize(
    ("dtype", "bf16", "half"),
    [
        ("auto", True, torch.bfloat16),
        ("auto", False, torch.float16),
        ("bfloat16", True, torch.bfloat16),
        ("float16", True, torch.float16),
        ("float32", True, None),
    ],
)
def test_half_precision_is_what_the_gpu_supports(monkeypatch, dtype, bf16, half):
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *emulated: bf16)
    assert half_precision(TrainConfig(dtype=dtype)) == half


def test_autocast_is_off_on_a_cpu():
    with autocast(TrainConfig(), "cpu"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_weights_dtype():
    assert weights_dtype(TrainConfig(dtype="bfloat16"), embedded=True) == "bfloat16"
    assert weights_dtype(TrainConfig(), embedded=True) == "float32"
    assert weights_dtype(TrainConfig(), embedded=False) is None
    whole = TrainConfig(use_peft=False, load_in_4bit=False)
    assert weights_dtype(whole, embedded=False) == "float32"


def test_choose_backend(monkeypatch):
    assert choose_backend(TrainConfig(backend="unsloth")) == ("unsloth", "backend=unsloth")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert choose_backend(TrainConfig())[0] == "transformers"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr("ctypes.util.find_library", lambda name: "libcuda.so.1")
    assert choose_backend(TrainConfig()) == ("unsloth", "a CUDA driver is present")
    assert choose_backend(TrainConfig(max_image_tiles=2))[0] == "transformers"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    backend, why = choose_backend(TrainConfig())
    assert backend == "transformers" and "unsloth is not installed" in why


class _FastVisionModel:
    """Stand-in for Unsloth's FastVisionModel: for_inference turns checkpointing off."""

    @staticmethod
    def for_inference(model):
        for module in model.modules():
            module.gradient_checkpointing = False


def test_inference_mode_restores_gradient_checkpointing_outside_training(config, monkeypatch):
    monkeypatch.setitem(sys.modules, "unsloth", SimpleNamespace(FastVisionModel=_FastVisionModel))
    model, _ = load_model(config)
    layer = model.get_base_model().model.language_model.layers[0]
    layer.gradient_checkpointing = True
    model.ocrkit_backend = "unsloth"
    model.eval()
    with inference_mode(model):
        assert not layer.gradient_checkpointing
    assert layer.gradient_checkpointing and not model.training


def test_adapter_on_names_another_base(tmp_path):
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


def test_keys_of_an_adapter_that_are_the_models_own_are_not_renamed(config, monkeypatch):
    def rename(model, peft_config, adapter_state_dict, adapter_name="default"):
        return {name.replace("layers", "blocks"): w for name, w in adapter_state_dict.items()}

    name = "convert_peft_adapter_state_dict_for_transformers"
    monkeypatch.setattr(f"peft.utils.transformers_weight_conversion.{name}", rename)
    model, _ = load_model(config)
    saved = get_peft_model_state_dict(model)

    def missing():
        return [n for n in set_peft_model_state_dict(model, saved).missing_keys if "lora_" in n]

    assert len(missing()) > 0
    with strict_adapter_loading():
        assert missing() == []


@pytest.mark.parametrize(
    "variable, settings, message",
    [
        ("ACCELERATE_USE_DEEPSPEED", {}, "given DeepSpeed, whose sharded weights"),
        ("ACCELERATE_USE_FSDP", {"load_in_4bit": True}, "cannot shard weights in 4 bits"),
        ("ACCELERATE_USE_FSDP", {"load_in_4bit": False, "backend": "unsloth"}, "Unsloth cannot do"),
    ],
)
def test_launchers_that_the_kit_cannot_export_from_are_refused(
    variable, settings, message, monkeypatch
):
    config = TrainConfig(**settings)
    check_launcher(config)
    monkeypatch.setenv(variable, "true")
    with pytest.raises(ConfigError, match=message):
        check_launcher(config)


def test_fsdp_takes_transformers(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr("ocrkit.models.backend.has_driver", lambda: True)
    backend, reason = choose_backend(TrainConfig(load_in_4bit=False))
    assert backend == "transformers"
    assert "FSDP shards the model" in reason or "not installed" in reason
    check_launcher(TrainConfig(load_in_4bit=False))
