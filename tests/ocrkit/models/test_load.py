import copy
import inspect
import json
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ocrkit.config import TrainConfig
from ocrkit.errors import ConfigError, ModelError
from ocrkit.models.backend import choose_backend, inference_mode
from ocrkit.models.base import TINY, resolve_model
from ocrkit.models.budget import apply_pixel_budget
from ocrkit.models.load import load_model, lora_targets
from tests.helpers.architectures import build


def test_the_backend_is_chosen_without_torch(monkeypatch):
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


def test_a_driver_for_which_torch_was_not_built(config, monkeypatch, capsys):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr("ctypes.util.find_library", lambda name: "libcuda.so.1")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    load_model(config)
    said = capsys.readouterr().out
    assert "Backend: transformers (torch" in said and "sees none: install a torch" in said
    config.backend = "unsloth"
    with pytest.raises(ModelError, match=r"needs a GPU, and torch .* set backend=transformers"):
        load_model(config)


def test_what_unsloth_cannot_load_transformers_does(config, monkeypatch, capsys):
    def lacking(config, base, adapter):
        raise AttributeError("'Qwen9Config' object has no attribute 'vocab_size'")

    monkeypatch.setattr("ocrkit.models.load._load_unsloth", lacking)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr("ctypes.util.find_library", lambda name: "libcuda.so.1")
    monkeypatch.setenv("UNSLOTH_ALLOW_CPU", "1")
    model, _ = load_model(config)
    assert model.ocrkit_backend == "transformers"
    said = capsys.readouterr().out.splitlines()
    assert "Unsloth cannot load it ('Qwen9Config' object has no attribute 'vocab_size')" in said[1]
    assert said[0].startswith("Backend: unsloth") and said[2].startswith("Backend: transformers")
    # Asked for by name, nothing else is taken for it.
    config.backend = "unsloth"
    with pytest.raises(AttributeError, match="Qwen9Config"):
        load_model(config)


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
def test_weights_trained_whole_are_exact_on_a_gpu(
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


def test_adapters_over_half_precision_are_exact(config):
    config.dtype = "float16"
    model, _ = load_model(config)
    kinds = {(weight.requires_grad, weight.dtype) for weight in model.parameters()}
    assert kinds == {(True, torch.float32), (False, torch.float16)}


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


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"min_pixels": 10**9}, "above the 131072 pixels .* lower it, or set max_pixels as well"),
        ({"max_pixels": 300}, "below the 512 pixels .* raise it, or set min_pixels as well"),
        ({"min_pixels": 100, "max_pixels": 200}, "less than the 16 x 16 pixels of a single token"),
    ],
)
def test_a_budget_that_no_picture_meets_is_refused(processor, budget, message):
    with pytest.raises(ConfigError, match=message):
        apply_pixel_budget(copy.deepcopy(processor), TrainConfig(**budget))


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


def _linked(text: str, cause: str) -> OSError:
    """An error as transformers raises it, from one of huggingface_hub's of the given name."""
    error = OSError(text)
    error.__cause__ = type(cause, (Exception,), {})("401")
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (_linked("You are trying to access a gated repo.\nMake", "GatedRepoError"), "HF_TOKEN"),
        (_linked("We couldn't connect", "LocalEntryNotFoundError"), "Hub cannot be reached"),
        (_linked("x is not a local folder", "RepositoryNotFoundError"), "check the spelling"),
    ],
)
def test_what_the_hub_refuses_is_said_with_the_way_out(config, monkeypatch, error, message):
    def refuse(*args, **options):
        raise error

    monkeypatch.setattr("transformers.AutoProcessor.from_pretrained", refuse)
    config.model_name_or_path = "someone/model"
    with pytest.raises(ModelError, match=message) as raised:
        load_model(config)
    assert "\n" not in str(raised.value)


def test_a_name_that_is_not_there_without_network(config):
    config.model_name_or_path = "someone/no-such-model"
    with pytest.raises(ModelError, match="Hub cannot be reached"):
        load_model(config)


def test_a_model_that_reads_no_pictures(config, tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    settings = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 128}
    LlamaForCausalLM(LlamaConfig(**settings, **heads)).save_pretrained(tmp_path)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(TINY / "tokenizer.json"))
    tokenizer.save_pretrained(tmp_path)
    config.model_name_or_path = str(tmp_path)
    with pytest.raises(ModelError, match="reads no pictures; take a"):
        load_model(config)


def test_a_model_that_does_not_fit_the_memory(config, monkeypatch):
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


def test_weights_that_are_cut_off(config, tmp_path):
    shutil.copytree(TINY, tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    config.model_name_or_path = str(tmp_path / "cut")
    with pytest.raises(ModelError, match="weights is cut off or damaged") as raised:
        load_model(config)
    assert "\n" not in str(raised.value)


def test_an_adapter_of_another_model(config, tmp_path):
    model, _ = load_model(config)
    model.save_pretrained(tmp_path / "adapter")
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    # One whose layers have other shapes, and one whose layers have other names.
    for name in ("qwen3_vl", "mllama"):
        settings["base_model_name_or_path"] = str(build(name, tmp_path / name))
        (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
        config.model_name_or_path = str(tmp_path / "adapter")
        with pytest.raises(ModelError, match="was made for another model than") as raised:
            load_model(config)
        assert "\n" not in str(raised.value)


def test_peft_takes_the_arguments_that_are_passed():
    from peft import LoraConfig

    assert {"r", "lora_alpha", "lora_dropout", "use_rslora", "target_modules"} <= set(
        inspect.signature(LoraConfig).parameters
    )


class _Unsloth:
    """FastVisionModel as far as the kit calls it; remembers what was asked."""

    def __init__(self, base: str = ""):
        self.asked, self.base = {}, base

    def from_pretrained(self, name, **options):
        from ocrkit.models.load import _load_transformers

        recorded = json.loads((Path(name) / "adapter_config.json").read_text())
        self.asked = options | {"base": recorded["base_model_name_or_path"]}
        return _load_transformers(TrainConfig(dtype="float32"), self.asked["base"], name)

    def for_inference(self, model):
        for module in model.modules():
            module.gradient_checkpointing = False

    def for_training(self, model):
        pass


@pytest.fixture
def unsloth(monkeypatch):
    stand_in = _Unsloth()
    monkeypatch.setitem(sys.modules, "unsloth", SimpleNamespace(FastVisionModel=stand_in))
    monkeypatch.setenv("UNSLOTH_ALLOW_CPU", "1")
    monkeypatch.setattr("ocrkit.models.kernels.try_kernels", lambda *args: None)
    return stand_in


def test_unsloth_is_given_an_adapter_on_the_base_that_is_here(config, tmp_path, unsloth):
    model, _ = load_model(config)
    model.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = "/somewhere/else/ocrkit/assets/tiny"
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    config.model_name_or_path, config.backend, config.use_peft = str(tmp_path), "unsloth", False
    load_model(config)
    assert unsloth.asked["base"] == str(TINY)
    # Told to train every weight, Unsloth would make the base trainable under the adapter.
    assert unsloth.asked["full_finetuning"] is False


def test_reading_leaves_checkpointing_of_a_model_that_does_not_train(config, unsloth):
    model, _ = load_model(config)
    layer = model.get_base_model().model.language_model.layers[0]
    layer.gradient_checkpointing = True
    model.ocrkit_backend = "unsloth"
    model.eval()
    with inference_mode(model):
        assert not layer.gradient_checkpointing
    assert layer.gradient_checkpointing and not model.training


def test_kernels_that_run_out_of_memory_are_said_in_one_sentence(config, monkeypatch, unsloth):
    from ocrkit.models.load import _load_transformers

    def full(*args):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore.")

    monkeypatch.setattr("ocrkit.models.load._load_unsloth", _load_transformers)
    monkeypatch.setattr("ocrkit.models.kernels.try_kernels", full)
    config.backend = "unsloth"
    with pytest.raises(ModelError, match="does not fit the memory of the GPU") as raised:
        load_model(config)
    assert "\n" not in str(raised.value)


def test_unsloths_copy_in_4_bits_is_not_loaded_on_a_cpu(config, monkeypatch):
    asked = []

    def refuse(name, **options):
        asked.append(name)
        raise OSError("stop here")

    monkeypatch.setattr("transformers.AutoProcessor.from_pretrained", refuse)
    config.model_name_or_path = "unsloth/Qwen3-VL-2B-Instruct-unsloth-bnb-4bit"
    with pytest.raises(ModelError, match="stop here"):
        load_model(config)
    assert asked == ["unsloth/Qwen3-VL-2B-Instruct"]


def test_weights_in_4_bits_are_not_repacked_on_a_cpu(config, monkeypatch):
    """bitsandbytes would, at the first evaluation, on a processor with AVX512-BF16."""
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
