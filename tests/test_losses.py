import pytest
import torch
import torch.nn.functional as F

from ocrkit.collate import Collator
from ocrkit.data import load_data
from ocrkit.losses import cross_entropy, supervised_loss, supervised_positions
from ocrkit.model import load_model


def test_positions_are_those_before_a_label():
    labels = torch.tensor([[-100, -100, 5, 6, -100], [-100, -100, -100, -100, 7]])
    assert supervised_positions(labels).tolist() == [1, 2, 3]


def test_a_first_token_has_no_position_that_predicts_it():
    assert supervised_positions(torch.tensor([[5, -100]])).tolist() == []


def test_cross_entropy_averages_over_counted_labels():
    logits = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1, -100, 2], [3, 4, -100]])
    expected = F.cross_entropy(logits.reshape(-1, 7), labels.reshape(-1), ignore_index=-100)
    assert cross_entropy(logits, labels).item() == pytest.approx(expected.item(), abs=1e-6)
    assert cross_entropy(logits, labels, 8).item() == pytest.approx(expected.item() / 2, abs=1e-6)


def test_supervised_loss_is_the_models_own(config):
    """Logits at supervised positions only, and the same loss and gradients as with all of them."""
    data = load_data(config)["train"]
    model, processor = load_model(config)
    batch = Collator(processor, config.image_height)([data[i] for i in range(6)])
    theirs = model(**batch).loss
    theirs.backward()
    weights = [p for p in model.parameters() if p.requires_grad]
    gradients = [p.grad.clone() for p in weights]
    model.zero_grad()
    ours = supervised_loss(model, batch)
    ours.backward()
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    assert all(torch.allclose(p.grad, g, atol=1e-5) for p, g in zip(weights, gradients))
