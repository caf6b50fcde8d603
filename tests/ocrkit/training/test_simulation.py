"""Simulated steps, held to the events of torch's allocator on a CPU."""

import pytest
import torch

from ocrkit import TrainConfig
from ocrkit.config.names import OPTIMIZERS
from ocrkit.data.collate import Collator
from ocrkit.models.base import TINY
from ocrkit.models.load import load_configs, load_model
from ocrkit.training.simulation import FakeModel, state_bytes
from tests.benchmarks.forecasting import blank_rows, step_and_peak


@pytest.mark.parametrize(
    ("use_peft", "batches"),
    [(True, 1), (False, 1), (False, 2)],
    ids=["adapters", "whole", "whole, accumulated"],
)
def test_the_embedded_models_peak_is_within_5_percent_of_the_allocators(use_peft, batches):
    settings = {"use_peft": use_peft, "gradient_accumulation_steps": batches}
    config = TrainConfig.from_recipe("quickstart", backend="transformers", **settings)
    step, real = step_and_peak(config, [(300, 32), (180, 32), (90, 32)], completion=40)
    assert step.peak == pytest.approx(real, rel=0.05)
    assert sum(step.parts.values()) == step.peak
    weights = sum(weight.numel() for weight in load_model(config)[0].parameters())
    assert step.parts["weights"] + step.parts.get("adapters", 0) >= 4 * weights
    state = step.parts["optimizer"]
    trained = step.parts["adapters"] if use_peft else step.parts["weights"]
    assert state == pytest.approx(2 * trained, rel=0.35)


@pytest.mark.slow
def test_the_peak_of_16_rows_follows_from_those_of_1_and_2(tmp_path):
    from tests.benchmarks.geometry import write_config

    write_config("mid_qwen2_vl", tmp_path)
    config = TrainConfig(model_name_or_path=str(tmp_path), backend="transformers")
    model_config, processor = load_configs(str(tmp_path), config)
    model, collate = FakeModel(config, model_config), Collator(processor)
    peaks = {n: model.step(collate(blank_rows([(640, 480)] * n, 60))).peak for n in (1, 2, 16)}
    assert peaks[16] == pytest.approx(peaks[1] + 15 * (peaks[2] - peaks[1]), rel=0.01)


def test_every_optimizer_has_a_state():
    sizes = {name: state_bytes(name) for name in OPTIMIZERS}
    assert sizes["adamw_torch"] == sizes["paged_adamw_32bit"] == 8
    assert sizes["adamw_8bit"] == sizes["paged_adamw_8bit"] == 2.03
    assert sizes["lion_8bit"] == 1.02 and sizes["lion_32bit"] == 4 and sizes["sgd"] == 0


def test_embeddings_keep_32_bits_of_state_where_others_have_8(tmp_path):
    from tests.benchmarks.geometry import write_config

    write_config("tiny_qwen2_vl", tmp_path)
    settings = {"model_name_or_path": str(tmp_path), "backend": "transformers"}
    config = TrainConfig(**settings, use_peft=False, load_in_4bit=False, optim="adamw_8bit")
    model = FakeModel(config, load_configs(str(tmp_path), config)[0])
    wide = model.model.get_input_embeddings().weight.numel()
    count = sum(weight.numel() for weight in model.trained)
    wanted = 2.03 * (count - wide) + 8 * wide
    assert model.meter.alive["optimizer"] == pytest.approx(wanted, rel=0.01)


def test_weights_in_4_bits_take_half_a_byte_and_their_scales(tmp_path):
    from tests.benchmarks.geometry import write_config

    write_config("mid_qwen2_vl", tmp_path)
    settings = {"model_name_or_path": str(tmp_path), "backend": "transformers"}
    packed, plain = (
        FakeModel(
            TrainConfig(**settings, load_in_4bit=in_4_bits),
            load_configs(str(tmp_path), TrainConfig(**settings))[0],
        )
        for in_4_bits in (True, False)
    )
    # The language model's layers alone; embeddings, tower and norms stay in 16 bits.
    layers = [w for w in packed.model.parameters() if w.dtype == torch.uint8]
    count = sum(2 * w.numel() for w in layers)
    saved = plain.meter.alive["weights"] - packed.meter.alive["weights"]
    assert saved == pytest.approx(count * (2 - 0.5 - 1 / 64 - 1 / 64 / 64), rel=0.01)


def test_weight_averaging_holds_the_trained_weights_once_more():
    sizes = []
    for share in (0.0, 0.2):
        config = TrainConfig(backend="transformers", weight_averaging=share)
        model = FakeModel(config, load_configs(str(TINY), config)[0], embedded=True)
        sizes.append((model.meter.alive["optimizer"], model.meter.alive["adapters"]))
    assert sizes[1][0] - sizes[0][0] == sizes[0][1] > 0


def test_copied_rows_cost_what_as_many_collated_rows_do():
    config = TrainConfig.from_recipe("tiny", backend="transformers")
    model_config, processor = load_configs(str(TINY), config)
    model, collate = FakeModel(config, model_config, embedded=True), Collator(processor)
    row, *_ = rows = blank_rows([(300, 32)] * 2, 20)
    copied, collated = model.step(collate([row]), copies=2), model.step(collate(rows))
    assert (copied.samples, copied.tokens) == (collated.samples, collated.tokens)
    assert copied.kernels == collated.kernels
    assert copied.peak == pytest.approx(collated.peak, rel=0.001)
