"""Meter of simulated steps: live bytes by kind, kernels, and integers that stay real."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from ocrkit.training.meter import Meter, RealIntegers, register_costs, workspace


def _measured(run):
    """The meter after `run` on fake tensors of a vocabulary of 7."""
    register_costs()
    meter = Meter(vocabulary=7)
    with FakeTensorMode(allow_non_fake_inputs=True), RealIntegers():
        meter.reset()
        with meter:
            run()
    return meter


def test_the_peak_counts_what_is_alive_at_once():
    def run():
        for _ in range(3):  # each is freed before the next is made
            torch.ones(1024).mul(2.0)

    meter = _measured(run)
    assert meter.peak == 2 * 4096 and meter.total == 0


def test_views_take_no_memory_and_logits_are_counted_apart():
    def run():
        states = torch.ones(256, 8)
        logits = states @ torch.ones(7, 8).t()
        assert logits.view(-1, 7).t().shape == (7, 256)

    meter = _measured(run)
    assert meter.at_peak["logits"] == 256 * 7 * 4
    assert meter.at_peak["activations"] == 256 * 8 * 4 + 512


def test_products_are_counted_with_the_bytes_that_they_move():
    meter = _measured(lambda: torch.ones(16, 32) @ torch.ones(32, 64))
    operations, moved = meter.kernels[-1]
    assert operations == 2 * 16 * 32 * 64
    assert moved == 4 * (16 * 32 + 32 * 64 + 16 * 64)


def test_integers_are_real_and_masks_have_a_known_number_of_hits():
    with FakeTensorMode(allow_non_fake_inputs=True), RealIntegers():
        sizes = torch.tensor([2, 3]) * 2
        assert sizes.tolist() == [4, 6]
        values = torch.ones(4, 5)
        assert isinstance(values, FakeTensor)
        mask = torch.tensor([True, False, True, True])
        assert values[mask].shape == (3, 5)
        assert isinstance(sizes.float(), FakeTensor)


@pytest.mark.parametrize("rows, size", [(1536, 0), (1537, 64 * 32 * 2)])
def test_large_4_bit_products_expand_the_matrix(rows, size):
    class Packet:
        __name__ = "gemm_4bit"

    inputs = torch.empty(1, rows, 32, dtype=torch.bfloat16)
    assert workspace(Packet(), (inputs, None, (64, 32))) == size
