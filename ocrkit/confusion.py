"""Weights of the characters that a model mixes up, and the characters that a token touches.

Weights belong to characters (code points), because confusions do; a token takes the largest weight
among the characters that its bytes touch. Which ones these are depends on the text, not on the
token: a byte-level token may be a third of a character, and end one and begin the next.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from ocrkit import metrics

# Right readings that every character is credited with, so that one seen once and misread does not
# come out as always misread.
_CREDIT = 2


def update_weights(
    weights: dict[str, float],
    references: Sequence[str],
    predictions: Sequence[str | None],
    max_weight: float,
    smoothing: float,
) -> dict[str, float]:
    """Character weights after an evaluation; a character that is not listed weighs 1.

    A character's share of errors is how often it was misread, left out, or read where another
    stood, among all the times that it stood in the truth or was read for another. A share of 0
    makes a weight of 1, a share of 1 would make `max_weight`; `smoothing` is the part of the old
    weight that is kept. Characters inserted where nothing stood are no confusion.

    Args:
        weights: as the last evaluation left them.
        references: the truth.
        predictions: what was read.
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
    shares = {char: count / (seen[char] + _CREDIT) for char, count in wrong.items()}
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
        characters: (rows, tokens, most), code points, 0 for none, as `touched` lists them.
        table: as `weight_table` gives it.
    """
    return table[characters.long()].amax(dim=-1).masked_fill((characters == 0).all(dim=-1), 1)


def touched(tokenizer: Any, text: str, split: bool = False) -> list[list[int]]:
    """Code points that each token of `text` touches with at least one byte, each one once.

    Taken from where the tokenizer says that its tokens lie in the text, not from what they decode
    to: a token that is part of a character decodes to nothing.

    Args:
        tokenizer: a fast one, which knows its offsets.
        text: as it is tokenized, without adding special tokens.
        split: control tokens in the text are spelt as text.
    """
    split = {"split_special_tokens": True} if split else {}
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, **split)
    found, reached = [], 0
    for start, stop in offsets["offset_mapping"]:
        # Some tokenizers leave white space out of the offsets of the token that holds it, which
        # then begin after the last one's end or are empty.
        start, reached = min(start, reached), max(stop, reached)
        found.append(sorted({ord(char) for char in text[start : max(stop, start + 1)]}))
    return found
