"""Losses over supervised positions: pure functions of tensors."""

import os
from typing import Any

import torch
import torch.nn.functional as F


def supervised_positions(labels: torch.Tensor) -> torch.Tensor:
    """Positions whose logits predict a label in at least one row of the batch.

    Args:
        labels: (rows, tokens), −100 where a label does not count.

    Returns:
        Indices p, ascending, such that some row has a label at p + 1. Logits are needed there and
        nowhere else: the prompt and the picture are most of a batch.
    """
    counted = (labels[:, 1:] != -100).any(dim=0)
    return counted.nonzero(as_tuple=True)[0]


def cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, num_items: torch.Tensor | int | None = None
) -> torch.Tensor:
    """Cross entropy in nats, in float32, over the labels that are not −100.

    Args:
        logits: (rows, positions, vocabulary), at the positions that predict `labels`.
        labels: (rows, positions), −100 where a label does not count.
        num_items: labels to average over, as Trainer counts them over all accumulated batches;
            None averages over this batch.
    """
    total = F.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten(), ignore_index=-100, reduction="sum"
    )
    return total / (num_items if num_items is not None else (labels != -100).sum().clamp(min=1))


def supervised_loss(model: Any, batch: dict[str, Any], num_items: Any = None) -> Any:
    """Cross entropy of a batch, with logits at supervised positions only; the same on all backends.

    Args:
        batch: as the collator makes it, on the model's device.
        num_items: labels to average over; None averages over this batch.
    """
    # Unsloth resets this whenever it changes modes, and returns no logits without it.
    os.environ["UNSLOTH_RETURN_LOGITS"] = "1"
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    positions = supervised_positions(batch["labels"])
    outputs = model(**inputs, logits_to_keep=positions, use_cache=False)
    return cross_entropy(outputs.logits, batch["labels"][:, positions + 1], num_items)
