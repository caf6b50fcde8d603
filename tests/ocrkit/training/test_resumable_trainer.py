"""Sealed checkpoints; what a resumed run computes is tested in test_resume.py."""

from pathlib import Path

from ocrkit import load_data, load_model, train
from ocrkit.training.checkpoints import SEAL, damage


def test_a_run_seals_its_checkpoints_and_keeps_the_newest(config):
    config.max_steps, config.save_steps, config.save_total_limit = 2, 1, 1
    model, processor = load_model(config)
    train(model, processor, load_data(config), config)
    (checkpoint,) = Path(config.output_dir).glob("checkpoint-*")
    assert checkpoint.name == "checkpoint-2"
    assert (checkpoint / SEAL).is_file() and not damage(checkpoint)
    weights = next(checkpoint.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    assert damage(checkpoint)
