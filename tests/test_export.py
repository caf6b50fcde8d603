import sys

import pytest
import torch

from ocrkit.config import TrainConfig
from ocrkit.data import load_data
from ocrkit.export import export
from ocrkit.model import TINY, ModelError, load_model
from ocrkit.predict import predict
from ocrkit.train import train

# `ocrkit.export` is the function.
MODULE = sys.modules["ocrkit.export"]


def test_export_adapter_and_merged_read_like_the_trained_model(config, tmp_path):
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
    assert "of 10 rows are read the same by the exported and the trained model" in readme
    assert "## Data" in readme and "Rows: train 40" in readme
    assert "## Recipe" in readme and "lora_alpha: 32" in readme and "## Versions" in readme
    # Nothing of this machine.
    assert str(tmp_path) not in readme and str(TINY) not in readme


def test_a_merge_that_reads_otherwise_fails_after_it_is_written(config, tmp_path, monkeypatch):
    model, processor = load_model(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
    # As if the adapters had been lost on the way.
    monkeypatch.setattr(MODULE, "_merge", lambda model: model.get_base_model())
    monkeypatch.setattr(MODULE, "_read_alike", lambda model, *args: 7)
    with pytest.raises(ModelError, match="reads only 7 of 20 rows as the trained one does"):
        export(model, processor, tmp_path / "merged", format="merged_16bit")
    assert "7 of 20 rows" in (tmp_path / "merged" / "README.md").read_text()


def test_a_merge_is_compared_on_drawn_lines_where_no_rows_are_given(config, tmp_path, capsys):
    model, processor = load_model(config)
    export(model, processor, tmp_path / "merged", format="merged_16bit", config=config, samples=3)
    assert "3 of 3 rows are read the same" in capsys.readouterr().out


def test_a_disk_that_cannot_hold_the_model_is_refused_first(config, tmp_path, monkeypatch):
    model, processor = load_model(config)
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda place: usage(10**7, 9 * 10**6, 10**6))
    with pytest.raises(ModelError, match=r"its disk has 0\.00 GB free"):
        export(model, processor, tmp_path / "out" / "merged", format="merged_16bit")
    assert not (tmp_path / "out").exists()


def test_a_merge_does_not_go_beside_an_adapter(config, tmp_path):
    model, processor = load_model(config)
    export(model, processor, tmp_path / "export")
    with pytest.raises(ModelError, match="export holds an adapter, and a whole model beside it"):
        export(model, processor, tmp_path / "export", format="merged_16bit")
    assert not (tmp_path / "export" / "model.safetensors").exists()


def test_formats_that_only_unsloth_writes(config, tmp_path):
    model, processor = load_model(config)
    for format in ("gguf", "merged_4bit"):
        with pytest.raises(ModelError, match="written by Unsloth only"):
            export(model, processor, tmp_path, format=format)
    with pytest.raises(ModelError, match="not one of adapter, merged_16bit, merged_4bit, gguf"):
        export(model, processor, tmp_path, format="onnx")


def test_a_model_without_adapters_is_rounded_and_compared(config, tmp_path, capsys):
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


def test_a_merge_leaves_the_model_as_it_was(config, tmp_path):
    model, processor = load_model(config)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    export(model, processor, tmp_path / "merged", format="merged_16bit")
    assert all(torch.equal(before[name], weight) for name, weight in model.named_parameters())


def test_no_memory_for_a_second_model(config, tmp_path, monkeypatch):
    model, processor = load_model(config)

    def full(config):
        raise ModelError("It does not fit the memory of the GPU.")

    monkeypatch.setattr(MODULE, "load_model", full)
    with pytest.raises(ModelError, match=r"was not compared .* export with samples=0") as raised:
        export(model, processor, tmp_path / "merged", format="merged_16bit", config=config)
    assert "\n" not in str(raised.value)
    assert (tmp_path / "merged" / "model.safetensors").is_file()
