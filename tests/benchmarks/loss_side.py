"""One loss with its gradient, in a process of its own: SIDE ROWS TOKENS LABELS VOCABULARY.

Rows end apart by up to as many tokens as they have labels, so that labels do not all stand at the
same positions.
"""

import json
import sys
import time
from types import SimpleNamespace
from typing import Any

import torch

from ocrkit.training.losses import supervised_loss
from tests.benchmarks.measure import peak_memory

WIDTH = 64


class Head(torch.nn.Module):
    """The end of a language model: hidden states to logits, all of them or those asked for."""

    def __init__(self, vocabulary: int):
        super().__init__()
        self.embed = torch.nn.Embedding(1000, WIDTH)
        self.lm_head = torch.nn.Linear(WIDTH, vocabulary, bias=False)

    def forward(
        self, input_ids: torch.Tensor, logits_to_keep: torch.Tensor | None = None, **ignored: Any
    ) -> SimpleNamespace:
        """Logits of shape (rows, positions, vocabulary) as the attribute `logits`."""
        hidden = self.embed(input_ids)
        if logits_to_keep is not None:
            hidden = hidden[:, logits_to_keep]
        return SimpleNamespace(logits=self.lm_head(hidden))


def main(side: str, rows: int, tokens: int, labels: int, vocabulary: int) -> dict:
    """Seconds of a step, and MB above what the process had before it."""
    from transformers.loss.loss_utils import ForCausalLMLoss

    model = Head(vocabulary)

    def step(rows: int, tokens: int, labels: int) -> float:
        seeded = torch.Generator().manual_seed(0)
        ids = torch.randint(0, 1000, (rows, tokens), generator=seeded)
        targets = torch.full_like(ids, -100)
        ends = tokens - torch.randint(0, labels, (rows,), generator=seeded)
        for row, end in enumerate(ends.tolist()):
            targets[row, end - labels : end] = ids[row, end - labels : end]
        began = time.perf_counter()
        if side == "supervised":
            loss = supervised_loss(model, {"input_ids": ids, "labels": targets})
        else:
            loss = ForCausalLMLoss(model(ids).logits, targets, vocabulary)
        loss.backward()
        return time.perf_counter() - began

    step(1, 4, 2)
    before = peak_memory()
    seconds = step(rows, tokens, labels)
    return {"seconds": seconds, "MB": peak_memory() - before}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], *map(int, sys.argv[2:]))))
