"""Divides rows into train, validation and test so that no document or writer is in two of them."""

import hashlib
import re
from collections.abc import Iterable, Sequence

from .schema import SPLITS, UsageError

DEFAULT_SHARES = (0.8, 0.1, 0.1)

# trn and tst are how CASIA names its parts.
_WORDS = {
    "train": ("train", "training", "trn"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "tst"),
}


def _pattern(words: Iterable[str]) -> re.Pattern:
    """A whole word, or a capitalised one behind another ("sroieTrain"), but not "latest"."""
    small = "|".join(words)
    capital = "|".join(word.capitalize() for word in words)
    return re.compile(f"((?<![A-Za-z])(?i:{small})|(?<=[a-z])({capital}))(?![a-z])")


_OFFICIAL = [(split, _pattern(words)) for split, words in _WORDS.items()]


def official_split(name: str) -> str | None:
    """The split that a file or folder name states ("HWDB2.0Train" is train), or None."""
    for part in reversed(name.replace("\\", "/").split("/")):
        for split, pattern in _OFFICIAL:
            if pattern.search(part):
                return split
    return None


def parse_shares(text: str) -> tuple[float, ...] | None:
    """Read `--split`: None for "source", otherwise the shares of train, validation and test."""
    if text == "source":
        return None
    try:
        shares = tuple(float(part) for part in text.split(","))
    except ValueError:
        shares = ()
    if len(shares) != 3 or not min(shares) >= 0 or not abs(sum(shares) - 1) < 1e-6:
        raise UsageError(
            f"--split is {text!r}, but takes 'source' or three shares of train, validation and "
            "test that add up to 1, such as 0.8,0.1,0.1."
        )
    return shares


def group_key(seed: int, group: str) -> int:
    """A group's place in the order that splits are dealt in: 64 bits of a hash of seed and id."""
    digest = hashlib.blake2b(f"{seed}\0{group}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def assign_splits(keys: Sequence[int], shares: Iterable[float] = DEFAULT_SHARES) -> Iterable[int]:
    """Give every row, named by its group's key, the index of its split in `SPLITS`.

    Groups go in ascending order of their keys, each as a whole to the split that is furthest below
    its share of the rows, which is the one filled to the lowest fraction of it (the first of equal
    ones). So every split with a share gets a group as long as there are as many groups.
    """
    import numpy as np

    groups, row_groups, counts = np.unique(
        np.asarray(keys, dtype=np.uint64), return_inverse=True, return_counts=True
    )
    wanted = [index for index, share in enumerate(shares) if share > 0]
    shares = list(shares)
    filled = [0] * len(SPLITS)
    dealt = np.empty(len(groups), dtype=np.uint8)
    for position, count in enumerate(counts.tolist()):
        split = min(wanted, key=lambda index: filled[index] / shares[index])
        dealt[position] = split
        filled[split] += count
    return dealt[row_groups]
