"""A folder of pictures whose names hold their text, found by `--pattern`.

The default reads TextRecognitionDataGenerator's `<text>_<index>.jpg`; MJSynth's
`<n>_<word>_<n>.jpg` is `--pattern '\\d+_(?P<text>.+)_\\d+'`.
"""

import re
from collections.abc import Iterator
from types import SimpleNamespace

from data_prep.dataset.archive import Tree
from data_prep.dataset.schema import Item, Picture, Reject, UsageError
from data_prep.sources import IMAGES, slug, stem

EXAMPLE = r"words/ --pattern '(?P<text>.+)_\d+' --language en --out data/words"
TASKS = ("transcription",)
OPTIONS = {"pattern": r"(?P<text>.+)_\d+", "language": "und"}


def rows(path: str, options: SimpleNamespace) -> Iterator[Item | Reject]:
    """One item per picture; `pattern` must match its whole name without the extension."""
    try:
        pattern = re.compile(options.pattern)
    except re.error as error:
        raise UsageError(f"--pattern {options.pattern!r} is no pattern: {error}.") from None
    if "text" not in pattern.groupindex:
        raise UsageError(f"--pattern {options.pattern!r} has no group named text: (?P<text>...).")
    tree = Tree(path, options)
    numbers: set[int] | None = set()  # all texts so far, as long as all are numbers
    for name in tree.files(*IMAGES):
        base = stem(name).rpartition("/")[2]
        match = pattern.fullmatch(base)
        if not match or match["text"] is None:
            yield Reject(name, "no text in the name", f"{base} does not match {options.pattern}")
            continue
        if numbers is not None and match["text"].isdecimal() and len(match["text"]) < 9:
            numbers.add(int(match["text"]))
        else:
            numbers = None
        # Files of one group, if the pattern names it, share a writer or a document.
        group = match["group"] if "group" in pattern.groupindex else None
        yield Item(
            key=slug(name),
            where=name,
            text=match["text"],
            pictures=[Picture(tree.loader(name))],
            group=group or name,
            language=options.language,
            split=tree.split(name),
        )
    low, high = (min(numbers), max(numbers)) if numbers else (2, 2)
    if numbers and low < 2 and 0 < high - low < len(numbers):
        options.notes.append(
            f"{path}: all texts are running numbers ({low} to {high}), as where "
            "the text stands behind the number; --pattern '\\d+_(?P<text>.+)' reads such names."
        )
