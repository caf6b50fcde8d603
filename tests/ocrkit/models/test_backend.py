import pytest
import torch

from ocrkit.config import TrainConfig
from ocrkit.models.backend import half_precision, products, weights_dtype


@pytest.mark.parametrize(
    ("dtype", "bf16", "half"),
    [
        ("auto", True, torch.bfloat16),
        ("auto", False, torch.float16),
        ("bfloat16", True, torch.bfloat16),
        ("float16", True, torch.float16),
        ("float32", True, None),
    ],
)
def test_a_gpu_multiplies_in_what_it_has(monkeypatch, dtype, bf16, half):
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *emulated: bf16)
    assert half_precision(TrainConfig(dtype=dtype)) == half


def test_a_cpu_multiplies_in_the_precision_of_the_weights():
    with products(TrainConfig(), "cpu"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_weights_have_the_dtype_that_is_asked_for():
    assert weights_dtype(TrainConfig(dtype="bfloat16"), embedded=True) == "bfloat16"
    assert weights_dtype(TrainConfig(), embedded=True) == "float32"
    assert weights_dtype(TrainConfig(), embedded=False) is None
    whole = TrainConfig(use_peft=False, load_in_4bit=False)
    assert weights_dtype(whole, embedded=False) == "float32"
