"""A folder a class of isolated characters (BanglaLekha-Isolated, Ekush), named by a table.

`--classes` is a table `folder<TAB or comma>text`; without it a folder's own name is the text.
BanglaLekha's ink is light on dark: give `--invert`.
"""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

from data_prep.dataset.archive import Tree
from data_prep.dataset.schema import Item, Picture, Reject, UsageError
from data_prep.sources import IMAGES, folder_of, slug, stem

EXAMPLE = "BanglaLekha-Isolated/Images --classes classes.tsv --invert --out data/characters"
TASKS = ("transcription",)
OPTIONS = {"classes": None, "invert": False, "language": "bn"}


def rows(path: str, options: SimpleNamespace) -> Iterator[Item | Reject]:
    """One item per picture; its group is its file name, as no file states the writer."""
    tree = Tree(path, options)
    classes = read_classes(options.classes) if options.classes else None
    for name in tree.files(*IMAGES):
        folder = folder_of(name).rpartition("/")[2]
        text = folder if classes is None else classes.get(folder)
        if not folder or text is None:
            yield Reject(name, "unknown class", f"{folder or 'no folder'} stands for no text")
            continue
        yield Item(
            key=slug(stem(name)),
            where=name,
            text=text,
            pictures=[Picture(tree.loader(name), invert=options.invert)],
            group=stem(name),
            language=options.language,
            split=tree.split(folder_of(name)),
            meta={"class": folder},
        )


def read_classes(path: str) -> dict[str, str]:
    """{folder: text} of a table of two columns, without a header."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--classes {path} cannot be read: {error}.") from None
    classes = {}
    for number, line in enumerate(lines, start=1):
        folder, separator, text = line.partition("\t" if "\t" in line else ",")
        if separator:
            classes[folder.strip()] = text.strip()
        elif line.strip():
            raise UsageError(f"--classes {path}:{number} is {line!r}, but takes folder<TAB>text.")
    return classes
