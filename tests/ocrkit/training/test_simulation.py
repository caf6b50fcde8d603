"""Simulated steps, held to the events of torch's allocator on a CPU."""

import pytest
import torch
from PIL import Image

from ocrkit import TrainConfig
from ocrkit.config.names import OPTIMIZERS
from ocrkit.data.collate import Collator
from ocrkit.models.base import TINY
from ocrkit.models.load import load_configs, load_model
from ocrkit.training.simulation import FakeModel, state_bytes
from tests.benchmarks.geometry import build
from tests.helpers.allocated import allocated_peak


def _rows(sizes, characters):
    return [
        {
            "id": str(number),
            "prompt": [{"role": "user", "content": "Transcribe the text in the image."}],
            "completion": [{"role": "assistant", "content": "x" * characters}],
            "sizes": [size],
            "images": [Image.new("L", size, 255)],
        }
        for number, size in enumerate(sizes)
    ]


def _both(config: TrainConfig, sizes, characters=40):
    """(simulated step, bytes of the real one) of a batch of pictures of these sizes."""
    base = str(TINY) if config.model_name_or_path == "tiny" else config.model_name_or_path
    model_config, processor = load_configs(base, config)
    batch = Collator(processor, config.image_height)(_rows(sizes, characters))
    batch = {name: value for name, value in batch.items() if torch.is_tensor(value)}
    step = FakeModel(config, model_config, base == str(TINY), cuda=False).step(batch)
    model, _ = load_model(config)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, foreach=config.optim == "adamw_torch")
    return step, allocated_peak(model, batch, config, optimizer)


@pytest.mark.parametrize("use_peft", [True, False], ids=["adapters", "whole"])
def test_the_embedded_models_peak_is_within_5_percent_of_the_allocators(use_peft):
    config = TrainConfig.from_recipe("quickstart", use_peft=use_peft, backend="transformers")
    step, real = _both(config, [(300, 32), (180, 32), (90, 32)])
    assert step.peak == pytest.approx(real, rel=0.05)
    assert sum(step.parts.values()) == step.peak
    weights = sum(weight.numel() for weight in load_model(config)[0].parameters())
    assert step.parts["weights"] + step.parts.get("adapters", 0) >= 4 * weights
    state = step.parts["optimizer"]
    trained = step.parts["adapters"] if use_peft else step.parts["weights"]
    assert state == pytest.approx(2 * trained, rel=0.35)


# (geometry, settings, sizes of the batch's pictures)
REAL = {
    "qwen2_vl, checkpoints": ("mid_qwen2_vl", {"gradient_checkpointing": True}, [(640, 480)]),
    "qwen2_vl, batch 4": ("mid_qwen2_vl", {}, [(640, 480), (420, 420), (800, 140), (300, 300)]),
    "qwen2_5_vl": ("mid_qwen2_5_vl", {}, [(640, 480), (420, 420)]),
    "qwen2_5_vl, checkpoints": (
        "mid_qwen2_5_vl",
        {"gradient_checkpointing": True},
        [(640, 480), (640, 480), (640, 480)],
    ),
    "qwen3_vl": ("mid_qwen3_vl", {}, [(640, 480), (640, 480)]),
    "qwen3_vl, checkpoints": ("mid_qwen3_vl", {"gradient_checkpointing": True}, [(960, 720)]),
    "qwen2_vl, whole": ("mid_qwen2_vl", {"use_peft": False}, [(640, 480), (640, 480)]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_peaks_of_real_configurations_are_within_5_percent_of_the_allocators(name, tmp_path):
    geometry, changes, sizes = REAL[name]
    build(geometry, tmp_path / "model", torch.float32)
    settings = {"dtype": "float32", "load_in_4bit": False, "gradient_checkpointing": False}
    config = TrainConfig(
        model_name_or_path=str(tmp_path / "model"),
        backend="transformers",
        **settings | {"min_pixels": 50_176, "max_pixels": 602_112} | changes,
    )
    step, real = _both(config, sizes, characters=60)
    print(f"{name}: simulated {step.peak / 2**20:.1f} MiB, real {real / 2**20:.1f} MiB")
    assert step.peak == pytest.approx(real, rel=0.05)


@pytest.mark.slow
def test_the_peak_of_16_rows_follows_from_those_of_1_and_2(tmp_path):
    from tests.benchmarks.geometry import write_config

    write_config("mid_qwen2_vl", tmp_path)
    config = TrainConfig(model_name_or_path=str(tmp_path), backend="transformers")
    model_config, processor = load_configs(str(tmp_path), config)
    model, collate = FakeModel(config, model_config), Collator(processor)
    peaks = {n: model.step(collate(_rows([(640, 480)] * n, 60))).peak for n in (1, 2, 16)}
    assert peaks[16] == pytest.approx(peaks[1] + 15 * (peaks[2] - peaks[1]), rel=0.01)


def test_every_optimizer_has_a_state():
    sizes = {name: state_bytes(name) for name in OPTIMIZERS}
    assert sizes["adamw_torch"] == sizes["paged_adamw_32bit"] == 8
    assert sizes["adamw_8bit"] == sizes["paged_adamw_8bit"] == 2.03
    assert sizes["lion_8bit"] == 1.02 and sizes["lion_32bit"] == 4 and sizes["sgd"] == 0


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
