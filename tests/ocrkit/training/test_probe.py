import pytest
import torch

from ocrkit import load_model
from ocrkit.data.collate import Collator
from ocrkit.data.read_rows import drawn_rows
from ocrkit.training.probe import out_of_memory, peak_memory, resident_memory, timed_steps


def test_probe_steps_change_no_weight_and_restore_the_mode(config):
    model, processor = load_model(config)
    model.eval()
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    batch = Collator(processor, config.image_height)(drawn_rows(2))
    steps = list(timed_steps(model, [batch, batch], config))
    assert len(steps) == 2 and all(wait >= 0 and step > 0 for wait, step in steps)
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    assert all(weight.grad is None for weight in model.parameters())
    assert not model.training


def test_running_out_of_memory_names_the_longest_sample():
    error = out_of_memory("at step 3", [10, 40, 20], ["a", "b", "c"])
    assert "at step 3 with a batch of 3, the longest sample b of 40 tokens" in str(error)


def test_memory_is_measured_in_bytes_and_gib():
    assert resident_memory() == pytest.approx(peak_memory(torch.device("cpu")) / 2**30, rel=0.9)
