"""Names of files beside those that labels give them: whose letters, endings or folders differ."""

import itertools
import unicodedata

from data_prep.dataset.split import official_split


def spelling(name: str) -> str:
    """A file's name in NFC, its ending in small letters: equal for names of one file."""
    name, dot, ending = unicodedata.normalize("NFC", name).rpartition(".")
    return f"{name}{dot}{ending.lower()}"


def kinship(path: str, wanted: list[str], folder: str) -> tuple[int, int] | None:
    """How near a file is to what a label in `folder` names; None where their folders differ.

    Their last parts are equal, and what one of them has before these is nothing, or leads to the
    label's own folder.
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


def may_be_of(split: str | None, name: str) -> bool:
    """Whether a file's folders do not state another split, where names may be the same."""
    return split is None or official_split(name.rpartition("/")[0]) in (None, split)
