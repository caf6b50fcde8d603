import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ocrkit.config import TrainConfig
from ocrkit.data.load import load_data
from ocrkit.errors import ConfigError, ModelError
from ocrkit.metrics import cer
from ocrkit.models.base import TINY
from ocrkit.models.load import load_model
from ocrkit.models.read import predict
from ocrkit.models.write import export
from ocrkit.training.train import train

# `ocrkit.models.write` is the function.
MODULE = sys.modules["ocrkit.models.write"]


def test_exported_adapter_and_merge_read_like_the_trained_model(config, tmp_path):
    data = load_data(config)
    model, processor = load_model(config)
    train(model, processor, data, config)
    texts = predict(model, processor, data["test"], config)
    for name, format in (("adapter", "adapter"), ("merged", "merged_16bit")):
        folder = export(
            model, processor, tmp_path / name, format=format, rows=data["test"], config=config
        )
        again = TrainConfig(**{**config.to_dict(), "model_name_or_path": str(folder)})
        again.use_peft = format == "adapter"
        loaded, loaded_processor = load_model(again)
        same = [
            a == b for a, b in zip(texts, predict(loaded, loaded_processor, data["test"], again))
        ]
        # The merged weights are rounded to 16 bits, which may tip a close decision.
        assert sum(same) >= (10 if format == "adapter" else 9), name
    readme = (tmp_path / "merged" / "README.md").read_text()
    assert readme.startswith("---\npipeline_tag: image-text-to-text")
    assert "of 10 rows are read the same by the exported model in float32" in readme
    use = "predict pictures/ --model merged --prompt 'Transcribe the text in the image.'"
    use += " --image_height 32 --max_new_tokens 48\n"
    assert use in readme and "Others than ocrkit need pictures 32 pixels high" in readme
    assert "vllm serve merged" in readme
    assert "## Data" in readme and "Rows: train 40" in readme
    assert "## Recipe" in readme and "lora_alpha: 32" in readme and "## Versions" in readme
    # No paths of this machine.
    assert str(tmp_path) not in readme and str(TINY) not in readme


def test_adapters_trained_on_4_bits_are_merged_in_16_bits(config, tmp_path, monkeypatch):
    """With bitsandbytes' CPU kernels and the embedded model, which reads well enough to compare."""
    monkeypatch.setattr("ocrkit.models.load.supports_4bit", lambda: True)
    config.load_in_4bit, config.optim = True, "adamw_8bit"
    data = load_data(config)
    model, processor = load_model(config)
    assert model.is_loaded_in_4bit
    train(model, processor, data, config)
    merged = export(model, processor, tmp_path / "merged", "merged_16bit", data["test"], config)
    alone = TrainConfig(**{**config.to_dict(), "model_name_or_path": str(merged)})
    alone.load_in_4bit = alone.use_peft = False
    truths = [row["completion"][0]["content"] for row in data["test"]]
    assert cer(truths, predict(*load_model(alone), data["test"], alone)) < 0.5


def test_merge_that_reads_differently_fails_after_it_is_written(config, tmp_path, monkeypatch):
    model, processor = load_model(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
    # A merge without the adapters.
    monkeypatch.setattr(MODULE, "_merge", lambda model: model.unload())
    with pytest.raises(ModelError, match=r"reads in float32 only \d+% of the characters as the"):
        export(model, processor, tmp_path / "merged", format="merged_16bit", samples=4)
    assert "of 4 rows are read the same" in (tmp_path / "merged" / "README.md").read_text()


def test_long_readings_are_compared_by_their_characters(config, tmp_path, monkeypatch):
    """600 tokens that flip in 0.2 % of places agree in all places in 30 % of the rows."""
    model, processor = load_model(config)
    long, flipped = "a" * 600, "a" * 300 + "b" + "a" * 299
    monkeypatch.setattr(MODULE, "predict", lambda *args: [long] * 4)
    readings = {"float32": [flipped] * 4, "bfloat16": ["b" * 600] * 4}
    monkeypatch.setattr(MODULE, "_read_again", lambda rows, config: readings[config.dtype])
    export(model, processor, tmp_path / "merged", "merged_16bit", config=config, samples=4)
    card = (tmp_path / "merged" / "README.md").read_text()
    assert "0 of 4 rows are read the same by the exported model in float32" in card
    assert "99.8% of the characters" in card
    # Said, but no fault of the export.
    assert "in bfloat16 and the trained model, 0.0% of the characters" in card


def test_merge_is_compared_on_drawn_lines_by_default(config, tmp_path, capsys):
    model, processor = load_model(config)
    export(model, processor, tmp_path / "merged", format="merged_16bit", config=config, samples=3)
    printed = capsys.readouterr().out
    assert "3 of 3 rows are read the same by the exported model in float32" in printed
    assert "rows are read the same by the exported model in bfloat16" in printed


def test_full_disk_is_refused_before_writing(config, tmp_path, monkeypatch):
    model, processor = load_model(config)
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda place: usage(10**7, 9 * 10**6, 10**6))
    with pytest.raises(ModelError, match=r"its disk has 0\.00 GB free"):
        export(model, processor, tmp_path / "out" / "merged", format="merged_16bit")
    assert not (tmp_path / "out").exists()


def test_merge_into_an_adapter_folder_is_refused(config, tmp_path):
    model, processor = load_model(config)
    export(model, processor, tmp_path / "export")
    with pytest.raises(ModelError, match="export holds an adapter, and a whole model beside it"):
        export(model, processor, tmp_path / "export", format="merged_16bit")
    assert not (tmp_path / "export" / "model.safetensors").exists()


def test_formats_that_need_unsloth(config, tmp_path):
    model, processor = load_model(config)
    for format in ("gguf", "merged_4bit"):
        with pytest.raises(ModelError, match="written by Unsloth only"):
            export(model, processor, tmp_path, format=format)
    with pytest.raises(ConfigError, match="not one of adapter, merged_16bit, merged_4bit, gguf"):
        export(model, processor, tmp_path, format="onnx")


@pytest.mark.parametrize(
    "options", [{"samples": -1}, {"min_equal": math.nan}, {"min_equal": 1.5}, {"min_equal": -0.1}]
)
def test_samples_and_min_equal_out_of_range(options, tmp_path):
    with pytest.raises(ConfigError, match=r"min_equal=.* a share from 0 to 1"):
        export(None, None, tmp_path, **options)


def test_model_without_adapters_is_rounded_and_compared(config, tmp_path, capsys):
    from safetensors.torch import load_file

    config.use_peft = False
    model, processor = load_model(config)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    for format, dtype in (("adapter", torch.float32), ("merged_16bit", torch.bfloat16)):
        folder = export(model, processor, tmp_path / format, format, config=config, samples=3)
        saved = load_file(folder / "model.safetensors")
        assert {weight.dtype for weight in saved.values()} == {dtype}
        card = (folder / "README.md").read_text()
        assert "A fine-tuned model made from" in card and "library_name: transformers" in card
    assert "3 of 3 rows are read the same" in capsys.readouterr().out
    assert all(torch.equal(before[name], weight) for name, weight in model.named_parameters())


def test_merge_does_not_change_the_model(config, tmp_path):
    model, processor = load_model(config)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    export(model, processor, tmp_path / "merged", format="merged_16bit")
    assert all(torch.equal(before[name], weight) for name, weight in model.named_parameters())


def test_no_memory_for_the_comparison(config, tmp_path, monkeypatch):
    model, processor = load_model(config)

    def full(config):
        raise ModelError("It does not fit the memory of the GPU.")

    monkeypatch.setattr(MODULE, "load_model", full)
    with pytest.raises(ModelError, match=r"was not compared .* export with samples=0") as raised:
        export(model, processor, tmp_path / "merged", format="merged_16bit", config=config)
    assert "\n" not in str(raised.value)
    assert (tmp_path / "merged" / "model.safetensors").is_file()


def _by_unsloth(config, in_4_bits: bool = True):
    """Model with the attributes that Unsloth's loading leaves for an export."""
    model, processor = load_model(config)
    model.ocrkit_backend = "unsloth"
    if in_4_bits:
        model.config.quantization_config = {"load_in_4bit": True}
    return model, processor


def test_merge_into_4_bits_is_compared_with_the_model_before_the_merge(
    config, tmp_path, monkeypatch
):
    model, processor = _by_unsloth(config)
    model.merged = False
    loaded = []

    def save_pretrained_merged(folder, processor, save_method):
        # Unsloth merges into the model itself.
        assert save_method == "merged_4bit_forced"
        model.merged = True

    def predict(model, processor, rows, config):
        return ["rounded" if model.merged else "trained"] * len(rows)

    def load(config):
        loaded.append(config)
        return SimpleNamespace(merged=True), processor

    model.save_pretrained_merged = save_pretrained_merged
    monkeypatch.setattr(MODULE, "predict", predict)
    monkeypatch.setattr(MODULE, "load_model", load)
    with pytest.raises(ModelError, match="only 43% of the characters as the trained model"):
        export(model, processor, tmp_path / "merged", "merged_4bit", config=config, samples=3)
    assert loaded[0].load_in_4bit and loaded[0].backend == "unsloth"


def test_merge_into_4_bits_needs_adapters_on_a_4_bit_base(config, tmp_path, monkeypatch):
    monkeypatch.setattr(MODULE, "reserve", lambda *args: pytest.fail("a repository was made"))
    settings = {"format": "merged_4bit", "push_to_hub": "someone/receipts"}
    model, processor = _by_unsloth(config, in_4_bits=False)
    with pytest.raises(ModelError, match="this model was not; load it with load_in_4bit=True"):
        export(model, processor, tmp_path / "merged", **settings)
    config.use_peft = False
    model, processor = _by_unsloth(config)
    with pytest.raises(ModelError, match="this model has no adapters"):
        export(model, processor, tmp_path / "merged", **settings)
    assert not (tmp_path / "merged").exists()


def test_gguf_folder_holds_no_merged_weights(config, tmp_path):
    model, processor = _by_unsloth(config)

    def save_pretrained_gguf(folder, processor, quantization_method):
        # As Unsloth does: the merge in `folder`, the GGUF files in a folder beside it.
        merged, gguf = Path(folder), Path(f"{folder}_gguf")
        for path in (merged / "model.safetensors", gguf / "m.Q8_0.gguf", gguf / "m-mmproj.gguf"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(path.name)
        (gguf / "Modelfile").write_text("FROM .")
        return {
            "save_directory": folder,
            "gguf_directory": str(gguf),
            "gguf_files": [str(gguf / "m.Q8_0.gguf"), str(gguf / "m-mmproj.gguf")],
            "modelfile_location": str(gguf / "Modelfile"),
        }

    model.save_pretrained_gguf = save_pretrained_gguf
    folder = export(model, processor, tmp_path / "out" / "gguf", format="gguf", samples=0)
    names = {path.name for path in folder.iterdir()}
    assert {"m.Q8_0.gguf", "m-mmproj.gguf", "Modelfile", "README.md"} <= names
    assert "model.safetensors" not in names
    assert [path.name for path in folder.parent.iterdir()] == ["gguf"]


def test_adapters_on_unsloths_4_bit_copy_are_merged_into_the_16_bit_original(
    config, tmp_path, monkeypatch
):
    from transformers import AutoModelForImageTextToText

    model, processor = load_model(config)
    copy = "unsloth/Qwen3-VL-2B-Instruct-unsloth-bnb-4bit"
    model.peft_config["default"].base_model_name_or_path = copy
    names, load = [], AutoModelForImageTextToText.from_pretrained

    def from_pretrained(name, **options):
        names.append(name)
        return load(TINY, **options)

    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", from_pretrained)
    folder = export(model, processor, tmp_path / "merged", "merged_16bit", samples=0)
    assert names == ["unsloth/Qwen3-VL-2B-Instruct"]
    assert "base_model: unsloth/Qwen3-VL-2B-Instruct\n" in (folder / "README.md").read_text()


def test_merge_that_does_not_fit_the_memory_is_refused(config, tmp_path, monkeypatch):
    model, processor = load_model(config)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=8 * 10**6))
    with pytest.raises(ModelError, match="or merge on a machine with more of it"):
        export(model, processor, tmp_path / "merged", "merged_16bit")
    assert not (tmp_path / "merged").exists()


def test_adapter_from_another_machine_is_merged(config, tmp_path):
    model, processor = load_model(config)
    settings = export(model, processor, tmp_path / "adapter") / "adapter_config.json"
    moved = json.loads(settings.read_text()) | {
        "base_model_name_or_path": "/somewhere/else/ocrkit/assets/tiny"
    }
    settings.write_text(json.dumps(moved))
    config.model_name_or_path = str(tmp_path / "adapter")
    model, processor = load_model(config)
    folder = export(model, processor, tmp_path / "merged", "merged_16bit", samples=0)
    assert (folder / "model.safetensors").is_file()


@pytest.mark.parametrize("layer", ["embed_tokens", "lm_head"])
def test_adapters_on_tied_embeddings_are_not_merged(layer, config, tmp_path):
    kept = replace(config, lora_target_modules=["q_proj", layer])
    model, processor = load_model(kept)
    embeddings = (model.get_input_embeddings(), model.get_output_embeddings())
    source, target = (getattr(layer, "base_layer", layer) for layer in embeddings)
    target.weight = source.weight
    with pytest.raises(ModelError, match=f"adapters on {layer} cannot be merged"):
        export(model, processor, tmp_path / "merged", format="merged_16bit", config=kept)
    export(model, processor, tmp_path / "adapter", format="adapter", config=kept)
