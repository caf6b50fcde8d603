"""Confidence of readings: of a whole text, and of its doubtful characters."""

import math
from collections.abc import Callable, Sequence

import torch

# Probability of a token under which its characters are doubtful.
DOUBTFUL = 0.8


class Confidence:
    """Logits processor that sums log-probabilities of the greedily chosen tokens.

    Keeping the logits of a long batch until its end would cost gigabytes. A row whose logits are
    NaN or infinite is ended at once, since any further token would be arbitrary.

    Args:
        end: token id that ends a turn.
        watch: called before each token with the ids so far, the prompt's too.
    """

    def __init__(self, end: int, watch: Callable[[torch.Tensor], None]) -> None:
        self.end, self.watch = end, watch
        self.steps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Note the best token of each row; end the rows whose logits are no numbers."""
        self.watch(input_ids)
        self.steps.append(best := scores.float().max(-1).values - scores.float().logsumexp(-1))
        ending = torch.full_like(scores[:1], -torch.inf)
        ending[:, self.end] = 0
        return torch.where(best.isfinite()[:, None], scores, ending)

    def mean(self, row: int, length: int) -> float:
        """Geometric mean of the probabilities of the row's first `length` tokens.

        NaN where the logits of any of these tokens are NaN or infinite.
        """
        if not length:
            return 0.0
        steps = torch.stack([step[row] for step in self.steps[:length]])
        return float(steps.mean().exp()) if steps.isfinite().all() else math.nan


def doubtful_spans(ends: Sequence[int], probabilities: Sequence[float]) -> list[list[int]]:
    """Spans (start, end) of the characters whose tokens have a probability under `DOUBTFUL`.

    Args:
        ends: number of characters of the text up to and with each token.
        probabilities: of each token.
    """
    spans: list[list[int]] = []
    start = 0
    for end, probability in zip(ends, probabilities):
        if end > start and probability < DOUBTFUL:
            if spans and spans[-1][1] == start:
                spans[-1][1] = end
            else:
                spans.append([start, end])
        start = max(start, end)
    return spans
