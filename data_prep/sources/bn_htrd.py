"""BN-HTRd: Bangla handwriting as words, `N/N.xlsx` with columns Id and Word beside `N/Words/`."""

import io
from collections.abc import Iterator
from types import SimpleNamespace

from data_prep.dataset.archive import Tree, picture_tree
from data_prep.dataset.pictures import PictureError
from data_prep.dataset.schema import Item, Picture, Reject
from data_prep.sources import IMAGES, folder_of, slug, stem

EXAMPLE = "BN-HTRd_Dataset --out data/bn-htrd"
TASKS = ("words",)
OPTIONS = {"images": None}


def rows(path: str, options: SimpleNamespace) -> Iterator[Item | Reject]:
    """One item per row of a folder's sheet; the group is the folder, a writer's document."""
    tree = Tree(path, options)
    pictures = picture_tree(tree, options)
    for name in tree.files("*.xlsx"):
        folder = folder_of(name)
        base = stem(name).rpartition("/")[2]
        if base.startswith("~"):  # what Excel leaves beside an open file
            continue
        images: dict[str, str] = {}
        under = f"{folder}/Words".lstrip("/") if pictures is tree else ""
        for image in pictures.files(*IMAGES, under=under):
            images[stem(image).rpartition("/")[2]] = image
        for number, record in read_sheet(tree, name):
            where = f"{name}:{number}"
            if isinstance(record, Reject):
                yield record
                continue
            word_id, text = record
            if word_id not in images:
                yield Reject(where, "missing image", f"no picture is called {word_id}")
                continue
            yield Item(
                key=f"{slug(stem(name))}-{number:05d}",
                where=where,
                text=text,
                pictures=[Picture(pictures.loader(images[word_id]))],
                group=folder or base,
                language="bn",
                split=tree.split(name),
                meta={"id": word_id},
            )


def read_sheet(tree: Tree, name: str) -> Iterator[tuple[int, tuple[str, str] | Reject]]:
    """(row number, (id, word)) of the first sheet with the two columns."""
    import openpyxl

    try:
        book = openpyxl.load_workbook(io.BytesIO(tree.read(name)), read_only=True, data_only=True)
        lines = list(enumerate(book.worksheets[0].iter_rows(values_only=True), start=1))
    except PictureError as error:
        yield 0, Reject(name, "unreadable sheet", error.detail)
        return
    except Exception as error:  # zipfile, XML parsers and openpyxl raise errors of any type
        yield 0, Reject(name, "unreadable sheet", f"{type(error).__name__}: {error}"[:200])
        return
    header = [str(value or "").strip().lower() for value in lines[0][1]] if lines else []
    if "id" not in header or "word" not in header:
        yield 0, Reject(name, "unreadable sheet", f"columns are {', '.join(header)}"[:200])
        return
    id_at, word_at = header.index("id"), header.index("word")
    for number, values in lines[1:]:
        values = [*values, *[None] * len(header)]
        if values[id_at] is None and values[word_at] is None:
            continue
        word_id, word = str(values[id_at]).strip(), values[word_at]
        yield number, (word_id, "" if word is None else str(word))
