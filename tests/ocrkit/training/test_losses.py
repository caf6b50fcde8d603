import math
from types import MappingProxyType, SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from ocrkit.config import TrainConfig
from ocrkit.config.names import LOSSES
from ocrkit.data.collate import Collator
from ocrkit.data.load import load_data
from ocrkit.models.load import load_model
from ocrkit.training import losses
from ocrkit.training.losses import cross_entropy, loss_terms, supervised_loss, supervised_positions

# What makes each loss plain cross entropy.
PLAIN = {"focal_gamma": 0.0, "focal_alpha": 1.0, "label_smoothing_factor": 0.0}


def _case(seed=0, rows=3, positions=5, vocabulary=11, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rows, positions, vocabulary, generator=generator)
    labels = torch.randint(vocabulary, (rows, positions), generator=generator)
    labels[torch.rand(rows, positions, generator=generator) < 0.3] = -100
    weights = 1 + 2 * torch.rand(rows, positions, generator=generator)
    return logits.to(dtype).requires_grad_(), labels, weights


def _gradient(loss, logits):
    return torch.autograd.grad(loss, logits)[0]


def test_positions_are_those_before_a_label():
    labels = torch.tensor([[-100, -100, 5, 6, -100], [-100, -100, -100, -100, 7]])
    assert supervised_positions(labels).tolist() == [1, 2, 3]


def test_a_first_token_has_no_position_that_predicts_it():
    assert supervised_positions(torch.tensor([[5, -100]])).tolist() == []


def test_cross_entropy_averages_over_counted_labels():
    logits, labels, _ = _case()
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
    assert cross_entropy(logits, labels).item() == pytest.approx(expected.item(), abs=1e-6)
    count = (labels != -100).sum()
    half = cross_entropy(logits, labels, 2 * count).item()
    assert half == pytest.approx(expected.item() / 2, abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("block", [1 << 24, 30])
def test_every_loss_without_its_settings_is_cross_entropy(name, block, monkeypatch):
    """Gradients included, and whether the logits are worked through at once or in blocks."""
    monkeypatch.setattr(losses, "_BLOCK", block)
    config = TrainConfig(loss=name, eval_steps=5, **PLAIN)
    logits, labels, _ = _case()
    weights = torch.full(labels.shape, 2.5) if "confusion" in name else None
    ours = cross_entropy(logits, labels, weights=weights, **loss_terms(config))
    theirs = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
    assert torch.allclose(_gradient(ours, logits), _gradient(theirs, logits), atol=1e-6)


def test_label_smoothing_equals_torch():
    logits, labels, _ = _case()
    terms = loss_terms(TrainConfig(loss="label_smoothing", label_smoothing_factor=0.2))
    ours = cross_entropy(logits, labels, **terms)
    theirs = F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=-100, label_smoothing=0.2
    )
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
    assert torch.allclose(_gradient(ours, logits), _gradient(theirs, logits), atol=1e-6)


def test_weights_are_those_of_a_weighted_mean():
    """As torch weighs classes: divided by the weights of the labels, not by their number."""
    logits, labels, _ = _case()
    by_token = 1 + torch.arange(11) / 5
    ours = cross_entropy(logits, labels, weights=by_token[labels.clamp(min=0)])
    theirs = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), by_token, ignore_index=-100)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
    assert torch.allclose(_gradient(ours, logits), _gradient(theirs, logits), atol=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_equals_its_formula(gamma):
    logits, labels, weights = _case()
    p = logits.softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    counted = labels != -100
    expected = (weights * 0.25 * (1 - p) ** gamma * -p.log())[counted].sum()
    expected = expected / weights[counted].sum()
    ours = cross_entropy(logits, labels, weights=weights, gamma=gamma, alpha=0.25)
    assert ours.item() == pytest.approx(expected.item(), abs=1e-6)
    assert torch.allclose(_gradient(ours, logits), _gradient(expected, logits), atol=1e-6)
    sure = torch.tensor([[[80.0, 0.0]]], requires_grad=True)
    gradient = _gradient(cross_entropy(sure, torch.tensor([[0]]), gamma=gamma), sure)
    assert gradient.isfinite().all()
    assert gradient.abs().max() < 1e-6


def test_loss_gradients_equal_finite_differences():
    logits, labels, weights = _case(rows=1, positions=4, vocabulary=5, dtype=torch.float64)
    labels[0, 0], labels[0, 1] = 3, -100

    def loss(x):
        return cross_entropy(x, labels, None, weights.double(), gamma=1.5, smoothing=0.1)

    assert torch.autograd.gradcheck(loss, (logits,))


def test_half_precision_logits_are_worked_on_in_float32():
    logits, labels, _ = _case(vocabulary=4000)
    exact = cross_entropy(logits, labels)
    half = logits.detach().bfloat16().requires_grad_()
    ours = cross_entropy(half, labels)
    theirs = cross_entropy(half.detach().float(), labels)
    assert ours.dtype == torch.float32
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
    assert torch.allclose(_gradient(ours, half).float(), _gradient(exact, logits), atol=1e-3)


def test_loss_without_labels_is_0():
    logits, labels, _ = _case()
    ours = cross_entropy(logits, torch.full_like(labels, -100))
    assert ours.item() == 0
    assert not _gradient(ours, logits).any()


@pytest.mark.parametrize("name", LOSSES)
def test_accumulated_batches_are_one_batch(name):
    """Divided by the weights of all of them, the losses and gradients of parts add up exactly."""
    logits, labels, weights = _case(rows=4)
    weights = weights if "confusion" in name else None
    terms = loss_terms(TrainConfig(loss=name, eval_steps=5))
    whole = cross_entropy(logits, labels, weights=weights, **terms)
    total = losses.label_mass(labels, weights)
    parts = sum(
        cross_entropy(
            logits[part], labels[part], total, None if weights is None else weights[part], **terms
        )
        for part in (slice(0, 1), slice(1, 4))
    )
    assert parts.item() == pytest.approx(whole.item(), abs=1e-6)
    assert torch.allclose(_gradient(parts, logits), _gradient(whole, logits), atol=1e-6)


def test_supervised_loss_is_the_models_own(config):
    """Logits at supervised positions only, and the same loss and gradients as with all of them."""
    data = load_data(config)["train"]
    model, processor = load_model(config)
    rows = [data[i] for i in range(6)]
    batch = Collator(processor, config.image_height)(rows)
    theirs = model(**batch).loss
    theirs.backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    gradients = [p.grad.clone() for p in trained]
    weights = torch.full(batch["labels"].shape, 3.0)
    for terms in ({}, {"weights": weights, "gamma": 0.0, "alpha": 1.0}):
        model.zero_grad()
        batch = Collator(processor, config.image_height, characters=bool(terms))(rows)
        ours = supervised_loss(model, batch, **terms)
        ours.backward()
        assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
        assert all(torch.allclose(p.grad, g, atol=1e-5) for p, g in zip(trained, gradients))


def test_positions_are_a_list_for_a_model_on_several_cards():
    """A tensor on the first card cannot index hidden states on the last."""
    seen = []

    class Model:
        hf_device_map = MappingProxyType({"tower": 0, "layers": 1})

        def __call__(self, logits_to_keep, **inputs):
            seen.append(logits_to_keep)
            return SimpleNamespace(logits=torch.zeros(1, 4, 9)[:, logits_to_keep])

    labels = torch.tensor([[-100, -100, 3, 4]])
    loss = supervised_loss(Model(), {"input_ids": labels, "labels": labels})
    assert seen == [[1, 2]] and loss == pytest.approx(math.log(9))
    Model.hf_device_map = MappingProxyType({"": 0})
    assert supervised_loss(Model(), {"input_ids": labels, "labels": labels}) == loss
    assert isinstance(seen[1], torch.Tensor)
