import inspect
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ocrkit.config import TrainConfig
from ocrkit.errors import ConfigError, ModelError
from ocrkit.models.adapters import add_lora
from ocrkit.models.backend import refuse_eager_in_float16
from ocrkit.models.base import TINY, resolve_model
from ocrkit.models.load import load_model
from tests.helpers.architectures import build
from tests.helpers.tiny_architectures import ENCODER_DECODERS, build_encoder_decoder


def test_gpu_driver_that_torch_was_not_built_for(config, monkeypatch, capsys):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr("ctypes.util.find_library", lambda name: "libcuda.so.1")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    load_model(config)
    printed = capsys.readouterr().out
    assert "Backend: transformers (torch" in printed and "sees none: install a torch" in printed
    config.backend = "unsloth"
    with pytest.raises(ModelError, match=r"needs a GPU, and torch .* set backend=transformers"):
        load_model(config)


def test_transformers_loads_what_unsloth_cannot(config, monkeypatch, capsys):
    def fail(config, base, adapter, dtype):
        raise AttributeError("'Qwen9Config' object has no attribute 'vocab_size'")

    monkeypatch.setattr("ocrkit.models.load.load_with_unsloth", fail)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr("ctypes.util.find_library", lambda name: "libcuda.so.1")
    monkeypatch.setenv("UNSLOTH_ALLOW_CPU", "1")
    model, _ = load_model(config)
    assert model.ocrkit_backend == "transformers"
    printed = capsys.readouterr().out.splitlines()
    assert (
        "Unsloth cannot load it ('Qwen9Config' object has no attribute 'vocab_size')" in printed[1]
    )
    assert printed[0].startswith("Backend: unsloth")
    assert printed[2].startswith("Backend: transformers")
    # backend=unsloth does not fall back to transformers.
    config.backend = "unsloth"
    with pytest.raises(AttributeError, match="Qwen9Config"):
        load_model(config)


def test_load_model_prints_the_backend_and_adds_adapters(config, capsys):
    model, _ = load_model(config)
    assert "Backend: transformers" in capsys.readouterr().out
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained and all("lora_" in name for name in trained)


def test_4_bit_without_cuda_prints_the_dtype_instead(config, capsys):
    config.load_in_4bit = True
    load_model(config)
    assert "4-bit needs CUDA; the model is loaded in float32" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "bf16", "dtype"),
    [
        ({"use_peft": False}, True, torch.float32),
        ({"use_peft": False}, False, torch.float32),
        ({"use_peft": False, "dtype": "bfloat16"}, True, torch.bfloat16),
        ({"model_name_or_path": "tiny"}, False, torch.float32),
        ({}, True, torch.bfloat16),
        ({}, False, torch.float16),
    ],
)
def test_weights_trained_without_adapters_are_float32_on_a_gpu(
    config, tmp_path, monkeypatch, settings, bf16, dtype
):
    class Loaded(Exception):
        pass

    def load(base, **options):
        raise Loaded(options["dtype"])

    shutil.copytree(TINY, tmp_path / "other")
    own = {"model_name_or_path": str(tmp_path / "other"), "dtype": "auto"}
    config = TrainConfig(**{**config.to_dict(), **own, **settings})
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *emulated: bf16)
    monkeypatch.setattr("torch.cuda.set_device", lambda device: None)
    monkeypatch.setattr("transformers.AutoModelForImageTextToText.from_pretrained", load)
    with pytest.raises(Loaded, match=str(dtype)):
        load_model(config)


def test_adapters_on_a_float16_base_are_float32(config):
    config.dtype = "float16"
    model, _ = load_model(config)
    kinds = {(weight.requires_grad, weight.dtype) for weight in model.parameters()}
    assert kinds == {(True, torch.float32), (False, torch.float16)}


def test_load_model_applies_the_pixel_budget(config):
    config.min_pixels, config.max_pixels = 1024, 4096
    _, processor = load_model(config)
    size = processor.image_processor.size
    assert (size["shortest_edge"], size["longest_edge"]) == (1024, 4096)


def test_load_errors_are_one_sentence(tmp_path, config):
    with pytest.raises(ModelError, match="does not exist"):
        resolve_model(str(tmp_path / "nowhere"))
    (tmp_path / "config.json").write_text("{}")
    config.model_name_or_path = str(tmp_path)
    with pytest.raises(ModelError, match="cannot be loaded") as raised:
        load_model(config)
    assert "\n" not in str(raised.value)


def _linked(text: str, cause: str) -> OSError:
    """transformers' OSError with a huggingface_hub error of the named class as its cause."""
    error = OSError(text)
    error.__cause__ = type(cause, (Exception,), {})("401")
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (_linked("You are trying to access a gated repo.\nMake", "GatedRepoError"), "HF_TOKEN"),
        (_linked("We couldn't connect", "LocalEntryNotFoundError"), "Hub cannot be reached"),
        (_linked("x is not a local folder", "RepositoryNotFoundError"), "check the spelling"),
        (
            ValueError(
                "The checkpoint you are trying to load has model type `qwen9_vl` but Transformers "
                "does not recognize this architecture. This could be because"
            ),
            r"transformers \d+\.\d+\.\d+ does not have its qwen9_vl: the model is newer",
        ),
        (
            ValueError("Unrecognized image processor in x. Should have a `image_processor_type`"),
            "does not have its processor: the model is newer",
        ),
        (
            ImportError(
                "Package `num2words` is required to run SmolVLM processor. Install it with `pip "
                "install num2words`."
            ),
            "wants the package num2words, which is not installed; install it with `pip",
        ),
    ],
)
def test_hub_errors_name_the_way_out(config, monkeypatch, error, message):
    def refuse(*args, **options):
        raise error

    monkeypatch.setattr("transformers.AutoProcessor.from_pretrained", refuse)
    config.model_name_or_path = "someone/model"
    with pytest.raises(ModelError, match=message) as raised:
        load_model(config)
    assert "\n" not in str(raised.value)


def test_model_id_without_network(config):
    config.model_name_or_path = "someone/no-such-model"
    with pytest.raises(ModelError, match="Hub cannot be reached"):
        load_model(config)


def test_text_only_model(config, tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    settings = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 128}
    LlamaForCausalLM(LlamaConfig(**settings, **heads)).save_pretrained(tmp_path)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(TINY / "tokenizer.json"))
    tokenizer.save_pretrained(tmp_path)
    config.model_name_or_path = str(tmp_path)
    with pytest.raises(ModelError, match=r"LlamaConfig\) reads no pictures; take a"):
        load_model(config)


@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_encoder_decoder_is_refused(config, tmp_path, monkeypatch, name):
    config.model_name_or_path = str(build_encoder_decoder(name, tmp_path))
    monkeypatch.delattr("transformers.AutoModelForImageTextToText.from_pretrained")
    with pytest.raises(ModelError, match=r"is an encoder-decoder \(\w+\), which") as raised:
        load_model(config)
    assert "\n" not in str(raised.value)


def test_model_without_a_chat_template_is_refused(config, tmp_path):
    shutil.copytree(TINY, tmp_path / "base")
    (tmp_path / "base" / "chat_template.jinja").unlink()
    config.model_name_or_path = str(tmp_path / "base")
    with pytest.raises(ModelError, match="has no chat template, so it does not say"):
        load_model(config)


def test_model_that_does_not_fit_the_memory(config, monkeypatch):
    # The embedded model has 2.3 million weights of 4 bytes.
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=8 * 10**6))
    with pytest.raises(ModelError, match="set dtype=bfloat16, or take a smaller model"):
        load_model(config)
    monkeypatch.undo()

    def full(*args, **options):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore.")

    monkeypatch.setattr("transformers.AutoModelForImageTextToText.from_pretrained", full)
    with pytest.raises(ModelError, match="does not fit the memory of the GPU") as raised:
        load_model(config)
    assert "\n" not in str(raised.value)


def test_weights_of_another_architecture(config, tmp_path):
    shutil.copytree(TINY, tmp_path / "mixed")
    build("qwen2_vl", tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.safetensors", tmp_path / "mixed" / "model.safetensors")
    config.model_name_or_path = str(tmp_path / "mixed")
    with pytest.raises(ModelError, match="another architecture") as raised:
        load_model(config)
    assert "\n" not in str(raised.value)


def test_truncated_weights(config, tmp_path):
    shutil.copytree(TINY, tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    config.model_name_or_path = str(tmp_path / "cut")
    with pytest.raises(ModelError, match="weights is cut off or damaged") as raised:
        load_model(config)
    assert "\n" not in str(raised.value)


def test_adapter_of_another_model(config, tmp_path):
    model, _ = load_model(config)
    model.save_pretrained(tmp_path / "adapter")
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    # qwen3_vl has layers of other shapes, mllama layers of other names.
    for name in ("qwen3_vl", "mllama"):
        settings["base_model_name_or_path"] = str(build(name, tmp_path / name))
        (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
        config.model_name_or_path = str(tmp_path / "adapter")
        with pytest.raises(ModelError, match="was made for another model than") as raised:
            load_model(config)
        assert "\n" not in str(raised.value)


def test_peft_has_the_arguments_that_are_passed():
    from peft import LoraConfig

    assert {"r", "lora_alpha", "lora_dropout", "use_rslora", "target_modules"} <= set(
        inspect.signature(LoraConfig).parameters
    )


class _Unsloth:
    """Stand-in for FastVisionModel that records the options of `from_pretrained`."""

    def __init__(self, base: str = ""):
        self.asked, self.base = {}, base

    def from_pretrained(self, name, **options):
        from ocrkit.models.load import _load_with_transformers

        recorded = json.loads((Path(name) / "adapter_config.json").read_text())
        self.asked = options | {"base": recorded["base_model_name_or_path"]}
        return _load_with_transformers(TrainConfig(), self.asked["base"], name, "float32")


@pytest.fixture
def unsloth(monkeypatch):
    stand_in = _Unsloth()
    monkeypatch.setitem(sys.modules, "unsloth", SimpleNamespace(FastVisionModel=stand_in))
    monkeypatch.setenv("UNSLOTH_ALLOW_CPU", "1")
    monkeypatch.setattr("ocrkit.models.load.try_kernels", lambda *args: None)
    return stand_in


def test_unsloth_loads_an_adapter_with_the_local_base(config, tmp_path, unsloth):
    model, _ = load_model(config)
    model.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = "/somewhere/else/ocrkit/assets/tiny"
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    config.model_name_or_path, config.backend, config.use_peft = str(tmp_path), "unsloth", False
    load_model(config)
    assert unsloth.asked["base"] == str(TINY)
    # full_finetuning would make the base trainable under the adapter.
    assert unsloth.asked["full_finetuning"] is False


def test_out_of_memory_in_trying_kernels_is_one_sentence(config, monkeypatch, unsloth):
    from ocrkit.models.load import _load_with_transformers

    def full(*args):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore.")

    monkeypatch.setattr("ocrkit.models.load.load_with_unsloth", _load_with_transformers)
    monkeypatch.setattr("ocrkit.models.load.try_kernels", full)
    config.backend = "unsloth"
    with pytest.raises(ModelError, match="does not fit the memory of the GPU") as raised:
        load_model(config)
    assert "\n" not in str(raised.value)


def test_cpu_loads_the_16_bit_original_of_unsloths_4_bit_copy(config, monkeypatch):
    asked = []

    def refuse(name, **options):
        asked.append(name)
        raise OSError("stop here")

    monkeypatch.setattr("transformers.AutoProcessor.from_pretrained", refuse)
    config.model_name_or_path = "unsloth/Qwen3-VL-2B-Instruct-unsloth-bnb-4bit"
    with pytest.raises(ModelError, match="stop here"):
        load_model(config)
    assert asked == ["unsloth/Qwen3-VL-2B-Instruct"]


def test_4_bit_weights_are_not_repacked_on_a_cpu(config, monkeypatch):
    """bitsandbytes repacks them at the first evaluation on a CPU with AVX512-BF16."""
    from bitsandbytes.nn import Linear4bit
    from transformers import AutoModelForImageTextToText

    load = AutoModelForImageTextToText.from_pretrained
    packed = Linear4bit(8, 8)
    packed.support_avx512bf16_for_cpu = True

    def from_pretrained(*args, **options):
        model, loaded = load(*args, **options)
        model.packed = packed
        return model, loaded

    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", from_pretrained)
    config.use_peft = False
    load_model(config)
    assert packed.support_avx512bf16_for_cpu is False


def test_a_4_bit_models_vision_tower_keeps_its_dtype(config):
    """PEFT's preparation for 4 bits would make it float32, 1.9 GiB more for Qwen2-VL-2B."""
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(TINY, dtype=torch.bfloat16)
    model.is_loaded_in_4bit = True
    adapted = add_lora(model, config)
    frozen = {w.dtype for w in adapted.parameters() if not w.requires_grad}
    trained = {w.dtype for w in adapted.parameters() if w.requires_grad}
    assert (frozen, trained) == ({torch.bfloat16}, {torch.float32})


def test_eager_attention_in_float16_is_refused_for_qwen2_vl(config, tmp_path):
    from tests.benchmarks.geometry import write_config

    write_config("tiny_qwen2_vl", tmp_path)
    config.attn_implementation = "eager"
    with pytest.raises(ConfigError, match="'eager' overflows in float16 for Qwen2-VL"):
        refuse_eager_in_float16(str(tmp_path), config, "float16")
    refuse_eager_in_float16(str(tmp_path), config, "bfloat16")
    refuse_eager_in_float16(str(TINY), config, "float16")
