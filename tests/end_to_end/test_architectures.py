"""Architectures of the recipes, from loading to a merged model, with tiny random models."""

import json
import re

import pytest
import torch
from transformers import AutoModelForImageTextToText

from ocrkit.config import TrainConfig
from ocrkit.data.collate import Collator
from ocrkit.data.lengths import token_lengths
from ocrkit.data.rows import dataset_of
from ocrkit.errors import ConfigError
from ocrkit.models.load import load_model
from ocrkit.models.read import predict
from ocrkit.models.write import export
from ocrkit.training.losses import supervised_loss
from ocrkit.training.plan import plan
from ocrkit.training.train import train
from tests.helpers.architectures import ARCHITECTURES, build, numbered_rows, tiny_config

SIZES = [(64, 32), (40, 24), (128, 32), (90, 60), (33, 70), (64, 64)]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def folder(request, tmp_path_factory):
    """A model of one of the architectures."""
    return build(request.param, tmp_path_factory.mktemp("models") / request.param)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Six rows with pictures of unequal sizes, for training and for reading."""
    rows = numbered_rows(tmp_path_factory.mktemp("pictures"), SIZES)
    return {"train": dataset_of(rows), "test": dataset_of(rows)}


def _config(folder, output_dir, **changes) -> TrainConfig:
    own = {"attn_implementation": "eager", "max_steps": 2, "max_new_tokens": 12}
    return tiny_config(folder, output_dir, 6, **{**own, **changes})


def _tower_and_block(name: str) -> tuple[str, str]:
    """(tower, block) of a module name."""
    tower = "vision" if re.search("visual|vision_model", name) else "language"
    return tower, "mlp" if ".mlp." in name else "attention"


def test_finetune_flags_select_towers_and_blocks(folder, tmp_path):
    for towers in (("vision",), ("language",), ("vision", "language")):
        for blocks in (("attention",), ("mlp",), ("attention", "mlp")):
            flags = {f"finetune_{t}_layers": t in towers for t in ("vision", "language")}
            flags |= {f"finetune_{b}_modules": b in blocks for b in ("attention", "mlp")}
            model, _ = load_model(_config(folder, tmp_path, **flags))
            names = [n for n, _ in model.named_modules() if n.endswith(".lora_A.default")]
            assert {_tower_and_block(name) for name in names} == {
                (t, b) for t in towers for b in blocks
            }


def test_train_read_save_merge(folder, data, tmp_path):
    config = _config(folder, tmp_path / "run")
    model, processor = load_model(config)
    untrained = predict(model, processor, data["test"], config)
    result = train(model, processor, data, config)
    losses = [entry["loss"] for entry in result.history if "loss" in entry]
    assert len(losses) == 2 and losses[1] < losses[0]
    texts = predict(model, processor, data["test"], config)
    assert texts != untrained and len(set(texts)) > 1

    again = _config(result.adapter_dir, tmp_path / "again")
    assert predict(*load_model(again), data["test"], again) == texts

    # The merged weights are rounded to 16 bits, which may tip a close decision.
    merged = export(
        model,
        processor,
        tmp_path / "run" / "merged",
        format="merged_16bit",
        rows=data["test"],
        min_equal=5 / 6,
    )
    alone = _config(merged, tmp_path / "alone", use_peft=False)
    same = [a == b for a, b in zip(predict(*load_model(alone), data["test"], alone), texts)]
    assert sum(same) >= 5
    assert f"{sum(same)} of 6 rows are read the same" in (merged / "README.md").read_text()


def test_train_read_save_merge_in_4_bits(folder, data, tmp_path, monkeypatch):
    """The 4-bit path of transformers and PEFT, with bitsandbytes' CPU kernels."""
    monkeypatch.setattr("ocrkit.models.load.supports_4bit", lambda: True)
    # Settings of the recipes for a GPU.
    settings = {"load_in_4bit": True, "gradient_checkpointing": True, "optim": "adamw_8bit"}
    settings["attn_implementation"] = None
    config = _config(folder, tmp_path / "run", **settings)
    model, processor = load_model(config)
    assert model.is_loaded_in_4bit
    packed = {n: w for n, w in model.named_parameters() if hasattr(w, "quant_state")}
    assert packed and not any(weight.requires_grad for weight in packed.values())
    # Unsloth leaves the same modules in 16 bits.
    assert not [name for name in packed if "visual" in name or "multi_modal" in name]
    result = train(model, processor, data, config)
    losses = [entry["loss"] for entry in result.history if "loss" in entry]
    assert len(losses) == 2 and losses[1] < losses[0]
    texts = predict(model, processor, data["test"], config)
    assert len(set(texts)) > 1

    again = _config(result.adapter_dir, tmp_path / "again", **settings)
    assert predict(*load_model(again), data["test"], again) == texts

    # The adapters were trained over weights in 4 bits and are merged into those in 16.
    merged = export(
        model, processor, tmp_path / "run" / "merged", "merged_16bit", data["test"], min_equal=0
    )
    alone, _ = load_model(_config(merged, tmp_path / "alone", use_peft=False))
    name, layer = next((n, m) for n, m in model.named_modules() if hasattr(m, "lora_A"))
    name = name.removeprefix("base_model.model.")
    exact = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    expected = exact.get_submodule(name).weight + layer.get_delta_weight("default")
    torch.testing.assert_close(alone.get_submodule(name).weight, expected, rtol=0.01, atol=0.001)


def test_padded_batch_reads_like_single_rows(folder, data, tmp_path):
    config = _config(folder, tmp_path)
    model, processor = load_model(config)
    together = predict(model, processor, data["test"], config)
    config.per_device_eval_batch_size = 1
    assert predict(model, processor, data["test"], config) == together


def test_padded_batch_has_the_loss_of_single_rows(folder, data, tmp_path):
    model, processor = load_model(_config(folder, tmp_path))
    collate = Collator(processor)
    rows = [data["train"][i] for i in range(4)]
    with torch.no_grad():
        together = supervised_loss(model, collate(rows), num_items=1)
        single = sum(supervised_loss(model, collate([row]), num_items=1) for row in rows)
    assert together.item() == pytest.approx(single.item(), rel=1e-4)


def test_loss_equals_cross_entropy_of_the_models_logits(folder, data, tmp_path):
    model, processor = load_model(_config(folder, tmp_path))
    batch = Collator(processor)([data["train"][i] for i in range(3)])
    with torch.no_grad():
        ours = supervised_loss(model, batch)
        labels = batch.pop("labels")
        logits = model(**batch).logits
    expected = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100
    )
    assert ours.item() == pytest.approx(expected.item(), rel=1e-4)


def test_sdpa_and_patch_embedding_give_the_stock_logits(folder, data, tmp_path):
    stock = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    config = _config(folder, tmp_path, use_peft=False, attn_implementation=None)
    model, processor = load_model(config)
    assert model.config._attn_implementation == "sdpa"
    # Llama's convolution slides over whole tiles, but is converted as well.
    converted = [m for m in model.modules() if type(m).__name__.startswith("_PatchConv")]
    assert len(converted) == 1
    batch = Collator(processor)([data["train"][i] for i in range(3)])
    batch.pop("labels")
    with torch.no_grad():
        ours, theirs = model(**batch).logits, stock(**batch).logits
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(ours[real], theirs[real], rtol=1e-4, atol=1e-4)


def test_token_lengths_equal_collated_lengths(folder, data, tmp_path):
    config = _config(folder, tmp_path)
    _, processor = load_model(config)
    images, texts = token_lengths(data["train"], processor, config)
    collate = Collator(processor)
    for row, image, text in zip(data["train"], images, texts):
        assert collate([row])["input_ids"].shape[1] == image + text


def test_plan_counts_tokens_or_tiles(folder, data, tmp_path, capsys):
    config = _config(folder, tmp_path)
    model, processor = load_model(config)
    result = plan(config, data, model, processor, probe_steps=1)
    assert result.samples == 6 and result.samples_per_second > 0
    printed = capsys.readouterr().out
    if "mllama" in str(folder):
        assert result.tiles[2] == 4 and result.tile_tokens == 17
        assert result.image_tokens == (1, 1, 1)
        assert "a tile is 17 tokens beside the text" in printed
    else:
        assert result.tiles is None and result.image_tokens[0] >= 4


def test_picture_budget_in_pixels_or_tiles(folder, tmp_path):
    tiled = "mllama" in str(folder)
    wrong = {"max_pixels": 4096} if tiled else {"max_image_tiles": 2}
    right = {"max_image_tiles": 2} if tiled else {"max_pixels": 4096}
    with pytest.raises(ConfigError, match="set max_image_tiles" if tiled else "set max_pixels"):
        load_model(_config(folder, tmp_path, **wrong))
    _, processor = load_model(_config(folder, tmp_path, **right))
    pictures = processor.image_processor
    assert (pictures.max_image_tiles if tiled else pictures.size["longest_edge"]) in (2, 4096)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return build("mllama", tmp_path_factory.mktemp("models") / "mllama")


def test_completions_attend_to_the_tiles_of_their_prompt(llama, data, tmp_path):
    _, processor = load_model(_config(llama, tmp_path))
    rows = [data["train"][i] for i in (1, 2)]
    batch = Collator(processor)(rows)
    mask = batch["cross_attention_mask"]
    assert mask.shape[:2] == batch["input_ids"].shape
    for row, tiles in enumerate(((40, 24), (128, 32))):
        length = int(batch["attention_mask"][row].sum())
        start = batch["input_ids"][row].tolist().index(processor.image_token_id)
        looking = {40: 2, 128: 4}[tiles[0]]
        assert mask[row, start:length, 0].sum(-1).unique().tolist() == [looking]
        assert not mask[row, :start].any() and not mask[row, length:].any()
    left = Collator(processor, generation=True)(rows)
    for row in range(2):
        padding = int((left["attention_mask"][row] == 0).sum())
        start = left["input_ids"][row].tolist().index(processor.image_token_id)
        assert start > padding and not left["cross_attention_mask"][row, :start].any()
        assert left["cross_attention_mask"][row, start:].any(dim=(1, 2)).all()


def test_fewer_tiles_keep_the_embeddings_of_their_layouts(llama, data, tmp_path):
    from transformers.models.mllama.image_processing_mllama import get_all_supported_aspect_ratios

    full, _ = load_model(_config(llama, tmp_path, use_peft=False))
    config = _config(llama, tmp_path, use_peft=False, max_image_tiles=2)
    narrow, processor = load_model(config)
    vision = narrow.config.vision_config
    assert vision.max_num_tiles == 2
    assert list(map(tuple, vision.supported_aspect_ratios)) == get_all_supported_aspect_ratios(2)
    before = full.model.vision_model.pre_tile_positional_embedding.embedding.weight
    after = narrow.model.vision_model.pre_tile_positional_embedding.embedding.weight
    # (2, 1) is the fifth layout of four tiles and the third of two.
    assert torch.equal(after[3], before[5, :128]) and torch.equal(after[2], before[2, :128])
    texts = predict(narrow, processor, data["test"], config)
    narrow.save_pretrained(tmp_path / "narrow")
    processor.save_pretrained(tmp_path / "narrow")
    kept = json.loads((tmp_path / "narrow" / "config.json").read_text())
    assert kept["vision_config"]["max_num_tiles"] == 2
    again = _config(tmp_path / "narrow", tmp_path, use_peft=False)
    assert predict(*load_model(again), data["test"], again) == texts
    with pytest.raises(ConfigError, match="more than the 4 tiles"):
        load_model(_config(llama, tmp_path, max_image_tiles=5))
