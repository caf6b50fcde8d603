"""File names in labels that differ from those on disk in letters, endings or folders."""

import itertools
import unicodedata

from data_prep.dataset.split import official_split


def spelling(name: str) -> str:
    """Normalize a file name to NFC and its ending to lower case."""
    name, dot, ending = unicodedata.normalize("NFC", name).rpartition(".")
    return f"{name}{dot}{ending.lower()}"


def match_rank(path: str, wanted: list[str], folder: str) -> tuple[int, int] | None:
    """Rank how well a path fits the name in a label, by equal parts; None where it does not fit.

    The last parts are equal, and one of the two has no others, or only such as lead to the label's
    own folder.

    Args:
        path: of a file.
        wanted: the parts of the name in the label.
        folder: of the label.
    """
    parts, own = path.split("/"), folder.split("/") if folder else []
    same = 0
    for part, other in zip(reversed(parts), reversed(wanted)):
        if spelling(part) != spelling(other):
            break
        same += 1
    before = parts[: len(parts) - same]
    if same < len(wanted) and before != own[: len(before)]:
        return None
    shared = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(before, own))
    return same, sum(1 for _ in shared)


def fits_split(split: str | None, name: str) -> bool:
    """Whether a file's folders state no other split, in which a file may have the same name."""
    return split is None or official_split(name.rpartition("/")[0]) in (None, split)
