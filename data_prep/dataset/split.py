"""Splits of a dataset: train, validation and test, with no document or writer in two of them."""

import functools
import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from data_prep.dataset.command import parse_float
from data_prep.dataset.schema import SPLITS, UsageError

if TYPE_CHECKING:
    import numpy as np

DEFAULT_SHARES = (0.8, 0.1, 0.1)

# Patterns of picture names that state the page they are cut from. The whole name without its
# ending must match; PPOCRLabel keeps its crops in a folder crop_img beside their pages.
GROUP_PATTERNS = (
    r"(?P<page>.*[^_-])[_-]crop[_-]\d+",
    r"(?P<page>.*[^_-])[_-]line[_-]\d+",
    r"(?P<page>.*[^_-])-p\d+",
)
CROP_FOLDER = "crop_img"
_PAGE = [re.compile(pattern, re.IGNORECASE) for pattern in GROUP_PATTERNS]
_PICTURE_ENDING = re.compile(
    r"\.(jpe?g|png|bmp|tiff?|webp|gif|jfif|avif|jp2|heic|pdf)$", re.IGNORECASE
)

# CASIA calls its splits trn and tst.
_WORDS = {
    "train": ("train", "training", "trn"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "tst"),
}


def _pattern(words: Iterable[str]) -> re.Pattern:
    """Match a whole word, or a capitalized one after another ("sroieTrain"), but not "latest"."""
    small = "|".join(words)
    capital = "|".join(word.capitalize() for word in words)
    return re.compile(f"((?<![A-Za-z])(?i:{small})|(?<=[a-z])({capital}))(?![a-z])")


# Words in names of label files that state the kind of file, not its topic.
_KINDS = set(
    "gt label labels list img image images id ids data dataset annotation annotations info "
    "metadata rec det text txt json of v with qt file files lmdb set split".split()
)
_OFFICIAL = [(split, _pattern(words)) for split, words in _WORDS.items()]


@functools.lru_cache(maxsize=4096)  # the rows of a file repeat its name
def official_split(name: str) -> str | None:
    """The split that a file or folder name states ("HWDB2.0Train" is train), or None."""
    for part in reversed(name.replace("\\", "/").split("/")):
        for split, pattern in _OFFICIAL:
            if pattern.search(part):
                return split
    return None


@functools.lru_cache(maxsize=4096)
def file_split(name: str) -> str | None:
    """The split that a label file's name states as its first or last word, or None.

    `rec_gt_train.txt` and `test-00000-of-00001.parquet` do. So does `scut_test_img_id_gt.txt`, as
    words for the kind of file are skipped. `Acme-train-ticket.csv` does not.
    """
    stem = name.rpartition("/")[2].rsplit(".", 1)[0]
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", stem)
    words = [word for word in words if word.lower() not in _KINDS]
    return official_split(words[0]) or official_split(words[-1]) if words else None


def page_of(name: str) -> str:
    """The page from which a picture was cut, by its name; the name itself where it states none.

    That of `scans/crop_img/a_crop_0.jpg` is `scans/a`, that of `report-p2.png` is `report`.
    """
    folder, _, base = name.rpartition("/")
    stem = _PICTURE_ENDING.sub("", base)
    for pattern in _PAGE:
        if match := pattern.fullmatch(stem):
            if folder.rpartition("/")[2] == CROP_FOLDER:
                folder = folder.rpartition("/")[0]
            return f"{folder}/{match['page']}" if folder else match["page"]
    return name


def page_key(name: str) -> int:
    """Hash of a picture's page, equal for the page itself and for the pictures cut from it."""
    return group_key(0, _PICTURE_ENDING.sub("", page_of(name)))


def parse_shares(text: str) -> tuple[float, ...] | None:
    """Parse `--split`: None for "source", otherwise the shares of train, validation and test."""
    if text == "source":
        return None
    try:
        shares = tuple(parse_float(part) for part in text.split(","))
    except ValueError:
        shares = ()
    if len(shares) != 3 or not min(shares) >= 0 or not abs(sum(shares) - 1) < 1e-6:
        raise UsageError(
            f"--split is {text!r}, but takes 'source' or three shares of train, validation and "
            "test that add up to 1, such as 0.8,0.1,0.1."
        )
    return shares


def drawn_shares(text: str) -> tuple[float, ...]:
    """Parse `--split` of a synthetic dataset, which has no splits of its own."""
    shares = parse_shares(text)
    if shares is None:
        raise UsageError(f"--split is {text!r}, but drawn data has no splits: give 0.8,0.1,0.1.")
    return shares


def group_key(seed: int, group: str) -> int:
    """Key by which groups are ordered before they are dealt: 64 bits of a hash of seed and id."""
    digest = hashlib.blake2b(f"{seed}\0{group}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def join_groups(
    keys: Sequence[int], rows: Sequence[int], links: Sequence[int]
) -> "np.ndarray | None":
    """Join groups that share a link; returns the first row of its group for every row.

    Args:
        keys: of each row's group.
        rows: numbers of rows that have the links.
        links: such as the hash of a picture.

    Returns:
        An array of row numbers; None where no link joins two groups.
    """
    import numpy as np

    _, first, group = np.unique(
        np.asarray(keys, dtype=np.uint64), return_index=True, return_inverse=True
    )
    _, link, counts = np.unique(
        np.asarray(links, dtype=np.uint64), return_inverse=True, return_counts=True
    )
    shared = counts[link] > 1
    link, linked = link[shared], group[np.asarray(rows, dtype=np.int64)[shared]]
    root = first.copy()  # of each group
    while True:
        lowest = np.full(len(counts), len(group))
        np.minimum.at(lowest, link, root[linked])
        joined = root.copy()
        np.minimum.at(joined, linked, lowest[link])
        if (joined == root).all():
            break
        root = joined
    return None if (root == first).all() else root[group]


def assign_splits(keys: Sequence[int], shares: Iterable[float] = DEFAULT_SHARES) -> Iterable[int]:
    """Assign rows to splits by the keys of their groups; returns indices in `SPLITS`.

    Groups go in ascending order of their keys, each as a whole to the split that is filled to the
    lowest fraction of its share (the first of equal ones). So every split with a share gets a
    group, if there are as many groups.
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
