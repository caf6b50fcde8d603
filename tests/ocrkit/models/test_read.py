import shutil

import pytest
import torch
from PIL import Image

from ocrkit.data.load import load_data
from ocrkit.data.rows import text_of
from ocrkit.metrics import cer
from ocrkit.models.load import load_model
from ocrkit.models.read import fingerprint, predict, predict_stream, weights_fingerprint


@pytest.fixture
def loaded(config):
    data = load_data(config)["test"]
    return *load_model(config), data, config


def test_batches_read_like_single_rows(loaded):
    model, processor, data, config = loaded
    together = predict(model, processor, data, config)
    config.per_device_eval_batch_size = 1
    assert predict(model, processor, data, config) == together
    assert len(together) == len(data)


def test_the_embedded_model_reads_clean_lines(config, tmp_path):
    from data_prep.synthetic.receipts import printed_receipts

    printed_receipts(tmp_path / "printed", receipts=4, seed=9, progress=False)
    config.dataset = str(tmp_path / "printed")
    data = load_data(config)["test"]
    truths = [text_of(completion) for completion in data["completion"]]
    assert cer(truths, predict(*load_model(config), data, config)) < 0.2


def test_predictions_hold_confidence_and_finish_reason(loaded):
    model, processor, data, config = loaded
    results = list(predict_stream(model, processor, data, config))
    assert {result["id"] for result in results} == set(data["id"])
    assert all(0 < result["confidence"] <= 1 for result in results)
    config.max_new_tokens = 1
    short = list(predict_stream(model, processor, data, config))
    assert {result["finish_reason"] for result in short} == {"length"}


def test_confidence_is_the_geometric_mean_of_token_probabilities(loaded):
    model, processor, data, config = loaded
    row = data[0]
    result = next(predict_stream(model, processor, [row], config))
    from ocrkit.data.collate import Collator

    completion = {**row, "completion": [{"role": "assistant", "content": result["prediction"]}]}
    batch = Collator(processor, config.image_height)([completion])
    labels = batch.pop("labels")[0, 1:]
    with torch.no_grad():
        log_probabilities = model(**batch).logits[0, :-1].log_softmax(-1)
    counted = labels != -100
    chosen = log_probabilities[counted].gather(1, labels[counted, None])
    assert result["confidence"] == pytest.approx(chosen.mean().exp().item(), abs=1e-3)


def test_a_bad_row_fails_alone(loaded):
    model, processor, data, config = loaded
    rows = [data[i] for i in range(4)]
    expected = predict(model, processor, rows, config)
    # The processor refuses a strip of more than 200 times its height.
    rows[1] = {**rows[1], "images": [Image.new("L", (9000, 32), 255)]}
    results = {r["id"]: r for r in predict_stream(model, processor, rows, config)}
    bad = results[rows[1]["id"]]
    assert (bad["prediction"], bad["finish_reason"]) == ("", "error")
    assert "aspect ratio" in bad["error"]
    for i in (0, 2, 3):
        assert results[rows[i]["id"]]["prediction"] == expected[i]


def test_out_of_memory_halves_the_batch(loaded, monkeypatch, capsys):
    model, processor, data, config = loaded
    config.per_device_eval_batch_size = 8
    expected, generate = predict(model, processor, data, config), model.generate

    def small_only(**kwargs):
        if len(kwargs["input_ids"]) > 2:
            raise torch.cuda.OutOfMemoryError
        return generate(**kwargs)

    monkeypatch.setattr(model, "generate", small_only)
    assert predict(model, processor, data, config) == expected
    assert "going on with 2 samples" in capsys.readouterr().out
    # The caller's config is not changed.
    assert config.per_device_eval_batch_size == 8


def test_training_mode_is_restored(loaded):
    model, processor, data, config = loaded
    model.train()
    predict(model, processor, data.select(range(1)), config)
    assert model.training


def test_fingerprint_changes_with_settings_rows_prompts_and_weights(loaded):
    model, processor, data, config = loaded
    first = fingerprint(model, processor, data, config)
    assert fingerprint(model, processor, data, config) == first
    others = set()
    config.max_new_tokens += 1
    others.add(fingerprint(model, processor, data, config))
    config.max_new_tokens -= 1
    others.add(fingerprint(model, processor, data.select(range(3)), config))
    prompts = [[{"role": "user", "content": "OCR:"}]] * len(data)
    prompted = data.remove_columns("prompt").add_column("prompt", prompts)
    others.add(fingerprint(model, processor, prompted, config))
    config.load_in_4bit = not config.load_in_4bit
    others.add(fingerprint(model, processor, data, config))
    config.load_in_4bit = not config.load_in_4bit
    weight = next(w for n, w in model.named_parameters() if "lora_B" in n)
    with torch.no_grad():
        weight += 1e-3
    others.add(fingerprint(model, processor, data, config))
    assert len(others | {first}) == 6


def test_fingerprint_changes_with_pictures_but_not_with_their_folder(config, thermal, tmp_path):
    model, processor = load_model(config)
    fingerprints = []
    for name in ("first", "moved", "redrawn"):
        config.dataset = str(shutil.copytree(thermal, tmp_path / name))
        if name == "redrawn":
            path = sorted((tmp_path / name / "test").rglob("*.png"))[0]
            with Image.open(path) as picture:
                Image.new(picture.mode, picture.size).save(path)
        fingerprints.append(fingerprint(model, processor, load_data(config)["test"], config))
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def _trained(model):
    """Change the trainable weights, as training does."""
    for index, weight in enumerate(w for w in model.parameters() if w.requires_grad):
        weight.data += 1e-3 * (index % 7 + 1)


def test_weights_fingerprint_survives_saving_and_loading(config, tmp_path):
    model, _ = load_model(config)
    config.use_peft = False
    base, _ = load_model(config)
    # New adapters change nothing, and their random matrices do not count.
    assert weights_fingerprint(model) == weights_fingerprint(base)
    _trained(model)
    trained = weights_fingerprint(model)
    assert trained != weights_fingerprint(base)
    model.save_pretrained(tmp_path / "adapter")
    for config.use_peft in (True, False):
        config.model_name_or_path = str(tmp_path / "adapter")
        again, _ = load_model(config)
        assert weights_fingerprint(again) == trained
    # Weights saved in 16 bits have the same fingerprint when loaded in 32.
    for weight in model.parameters():
        weight.data = weight.data.to(torch.bfloat16) if weight.requires_grad else weight.data
    half = weights_fingerprint(model)
    assert half != trained
    model.save_pretrained(tmp_path / "half")
    config.model_name_or_path = str(tmp_path / "half")
    again, _ = load_model(config)
    assert weights_fingerprint(again) == half
    again.peft_config["default"].lora_alpha *= 2
    assert weights_fingerprint(again) != half


def test_weights_fingerprint_covers_every_value(config, tmp_path):
    config.use_peft = False
    model, processor = load_model(config)
    _trained(model)
    whole = weights_fingerprint(model)
    model.save_pretrained(tmp_path / "whole")
    processor.save_pretrained(tmp_path / "whole")
    config.model_name_or_path = str(tmp_path / "whole")
    for config.use_peft in (False, True):
        again, _ = load_model(config)
        assert weights_fingerprint(again) == whole
    weight = max(model.parameters(), key=lambda w: w.numel()).data.flatten()
    weight[-2] += 1
    assert weights_fingerprint(model) != whole
