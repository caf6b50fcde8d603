"""Losses over supervised positions: pure functions of tensors.

Every loss is a sum over labels of `weight · alpha · (1 − p)^gamma · −log p`, p being the
probability that the model gives the label, divided by the sum of the weights. Plain cross entropy
has gamma 0 and all else 1; label smoothing replaces −log p by its mixture with the mean over all
tokens; focal loss (Lin et al. 2017) has a gamma above 0; confusion weighting sets the weights.
Dividing by the weights, not by their number, makes a constant weight change nothing.
"""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import torch

from ocrkit.config import TrainConfig
from ocrkit.metrics import edits as metrics
from ocrkit.models.checks import logits_at, supervised_positions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Elements of the float32 blocks in which losses are computed: 64 MB.
_BLOCK = 1 << 24


class LossTerms(TypedDict):
    """Parameters of `cross_entropy`."""

    gamma: float
    alpha: float
    smoothing: float


def loss_terms(config: TrainConfig) -> LossTerms:
    """The arguments of `cross_entropy` for `config.loss` and its settings."""
    focal = "focal" in config.loss
    return {
        "gamma": config.focal_gamma if focal else 0.0,
        "alpha": config.focal_alpha if focal else 1.0,
        "smoothing": config.label_smoothing_factor if config.loss == "label_smoothing" else 0.0,
    }


class _LogProbabilities(torch.autograd.Function):
    """−log p of each label, and the mean of −log p over the vocabulary, in float32.

    Computed in blocks: log_softmax in float32 would hold two more copies of the logits, which for a
    vocabulary of 150,000 tokens are most of a step's memory.
    """

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, labels: torch.Tensor) -> tuple:
        total = torch.empty(len(labels), dtype=_float32_or_wider(logits), device=logits.device)
        mean = torch.empty_like(total)
        for rows in _blocks(logits):
            block = logits[rows].to(total.dtype)
            total[rows] = block.logsumexp(dim=-1)
            mean[rows] = block.mean(dim=-1)
        counted = labels != -100
        index = labels.where(counted, 0)[:, None]
        chosen = logits.gather(1, index)[:, 0].to(total.dtype)
        ctx.save_for_backward(logits, labels, total)
        return torch.where(counted, total - chosen, 0), torch.where(counted, total - mean, 0)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple:
        chosen, mean = gradients
        logits, labels, total = ctx.saved_tensors
        counted = labels != -100
        index = labels.where(counted, 0)[:, None]
        chosen, mean = chosen.where(counted, 0), mean.where(counted, 0)
        gradient = torch.empty_like(logits)
        for rows in _blocks(logits):
            block = (logits[rows].to(total.dtype) - total[rows, None]).exp_()
            block *= (chosen + mean)[rows, None]
            block -= mean[rows, None] / logits.shape[1]
            gradient[rows] = block.scatter_add_(1, index[rows], -chosen[rows, None])
        return gradient, None


def _float32_or_wider(logits: torch.Tensor) -> torch.dtype:
    return torch.promote_types(logits.dtype, torch.float32)


def _blocks(logits: torch.Tensor) -> list[slice]:
    rows = max(1, _BLOCK // logits.shape[1])
    return [slice(start, start + rows) for start in range(0, len(logits), rows)]


def cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    num_items: torch.Tensor | float | None = None,
    weights: torch.Tensor | None = None,
    gamma: float = 0.0,
    alpha: float = 1.0,
    smoothing: float = 0.0,
) -> torch.Tensor:
    """Mean loss per label in nats, or per unit of weight; by default plain cross entropy.

    Args:
        logits: (rows, positions, vocabulary), at the positions that predict `labels`.
        labels: (rows, positions), −100 where a label does not count.
        num_items: divisor, the labels (or the sum of their weights) of all batches of a step; None
            takes this batch's own.
        weights: (rows, positions); None weighs every label 1.
        gamma: exponent of the focal loss, whose factor is (1 − p)^gamma.
        alpha: factor of the focal loss.
        smoothing: share of the target that is spread evenly over the vocabulary.
    """
    loss, uniform = _LogProbabilities.apply(logits.flatten(0, 1), labels.flatten())
    one_minus_p = -torch.expm1(-loss)
    if smoothing:
        loss = (1 - smoothing) * loss + smoothing * uniform
    if gamma:
        # The slope of x^gamma is infinite at 0 for a gamma below 1.
        loss = one_minus_p.clamp(min=1e-8) ** gamma * loss
    loss = alpha * loss.view_as(labels)
    if num_items is None:
        num_items = label_mass(labels, weights).clamp(min=1e-8)
    return (loss if weights is None else weights * loss).sum() / num_items


def label_mass(labels: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Number of labels that are not −100, or the sum of their weights."""
    counted = labels != -100
    return counted.sum() if weights is None else weights.where(counted, 0).sum()


def supervised_loss(
    model: "PreTrainedModel",
    batch: dict[str, torch.Tensor],
    num_items: torch.Tensor | float | None = None,
    weights: torch.Tensor | None = None,
    **terms: Any,
) -> torch.Tensor:
    """Loss of a batch, with logits at supervised positions only; the same on all backends.

    Args:
        model: takes `logits_to_keep`.
        batch: as the collator makes it, on the model's device.
        num_items: divisor, as `cross_entropy` takes it.
        weights: (rows, tokens), of the labels; None weighs every label 1.
        terms: `gamma`, `alpha` and `smoothing` of `cross_entropy`.
    """
    # Without labels in its inputs a model of any backend returns its logits.
    inputs = {name: value for name, value in batch.items() if not name.startswith("label")}
    positions = supervised_positions(batch["labels"])
    logits = logits_at(model, inputs, positions)
    labels = batch["labels"][:, positions + 1].to(logits.device)
    if weights is not None:
        weights = weights[:, positions + 1]
    return cross_entropy(logits, labels, num_items, weights, **terms)


# Correct readings added to every character's count, so that a single misreading of a rare character
# does not give a share of errors of 1.
_PSEUDO_COUNT = 2


def update_weights(
    weights: dict[str, float],
    references: Sequence[str],
    predictions: Sequence[str | None],
    max_weight: float,
    smoothing: float,
) -> dict[str, float]:
    """Character weights after an evaluation; a character that is not listed weighs 1.

    A character's share of errors is the number of times that it was misread, left out, or read in
    place of another, among all the times that it is in the truth or was read in place of another. A
    share of 0 makes a weight of 1, a share of 1 would make `max_weight`; `smoothing` is the share
    of the old weight that is kept. Insertions are no confusion.

    Args:
        weights: of the last evaluation.
        references: the truth.
        predictions: of the model.
        max_weight: at least 1.
        smoothing: between 0 (only this evaluation counts) and 1 (nothing changes).
    """
    references, predictions = metrics.pairs(references, predictions)
    seen, wrong = Counter("".join(references)), Counter()
    for (true, read), count in metrics.char_confusions(references, predictions).items():
        if true:
            wrong[true] += count
            if read:
                wrong[read] += count
                seen[read] += count
    shares = {char: count / (seen[char] + _PSEUDO_COUNT) for char, count in wrong.items()}
    updated = {
        char: smoothing * weights.get(char, 1.0)
        + (1 - smoothing) * (1 + (max_weight - 1) * shares.get(char, 0.0))
        for char in {**weights, **shares}
    }
    return {char: weight for char, weight in sorted(updated.items()) if weight > 1.0001}


def heaviest(weights: dict[str, float], most: int = 12) -> dict[str, float]:
    """The `most` largest weights, rounded for a log."""
    chosen = sorted(weights.items(), key=lambda item: (-item[1], item[0]))[:most]
    return {char: round(weight, 3) for char, weight in chosen}


def weight_table(weights: dict[str, float]) -> torch.Tensor:
    """Weights by code point, float32 of shape (0x110000,); entry 0, the padding, is 0."""
    table = torch.ones(0x110000)
    for char, weight in weights.items():
        table[ord(char)] = weight
    table[0] = 0
    return table


def label_weights(characters: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Weight of each label: the largest among its characters, and 1 where it has none.

    Args:
        characters: (rows, tokens, most), code points, 0 for none, as the collator's
            `label_characters`.
        table: of `weight_table`.
    """
    return table[characters.long()].amax(dim=-1).masked_fill((characters == 0).all(dim=-1), 1)
