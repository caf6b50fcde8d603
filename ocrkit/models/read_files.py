"""Read picture files: list files, folders, globs and PDFs, and read them one after another."""

import glob
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from PIL import Image
from tqdm.auto import tqdm

from data_prep.dataset.command import expand_home
from data_prep.dataset.pictures import Opened, PictureError, check_regular, count_pages, plain
from data_prep.dataset.schema import printable
from ocrkit.config import TrainConfig
from ocrkit.data.rows import Message, Row
from ocrkit.errors import DataError

if TYPE_CHECKING:
    from ocrkit.models.read import Prediction

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".pdf")
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Resolution at which the pages of a PDF are rendered, in pixels per inch.
PDF_DPI = 200
# A picture that is higher than wide, and higher than this many of the lines that a model reads, is
# taken for a page.
_LINES_OF_PAGE = 8


@dataclass(frozen=True)
class Picture:
    """Picture file, or a page (from 1) of a PDF or TIFF; `name` is its path under the input."""

    path: Path
    name: str
    page: int | None = None

    @property
    def id(self) -> str:
        """Id in predictions: the path, for a page with `#page=N`."""
        # A file name that is not UTF-8 is written with escapes.
        path = printable(str(self.path))
        return f"{path}#page={self.page}" if self.page else path

    def open(self) -> Opened:
        """Decode the picture, upright.

        Raises:
            PictureError, RuntimeError: it cannot be opened.
        """
        check_regular(self.path)
        if self.path.suffix.lower() != ".pdf":
            return Opened(self.path, self.page)
        import pypdfium2

        with pypdfium2.PdfDocument(self.path) as document:
            page = document[(self.page or 1) - 1]
            return Opened(page.render(scale=PDF_DPI / 72).to_pil())


def list_pictures(inputs: list[str]) -> list[Picture]:
    """List the pictures in files, folders (recursively), globs and PDFs, without duplicates.

    A file that is named itself is listed whatever its suffix. A PDF that cannot be opened is listed
    as a single picture, and so is a FIFO, socket or device, so that each is counted as failed.

    Raises:
        DataError: a path that does not exist, or a folder or glob without a picture.
    """
    pictures: dict[str, Picture] = {}
    for text in map(expand_home, inputs):
        path = Path(text)
        if path.is_dir():
            files = [p for p in sorted(path.rglob("*")) if p.suffix.lower() in SUFFIXES]
            named = [(file, str(file.relative_to(path))) for file in files if not file.is_dir()]
        elif path.exists():
            named = [(path, path.name)]
        else:
            # Path.glob takes no absolute pattern.
            files = sorted(map(Path, glob.glob(text, recursive=True)))  # noqa: PTH207
            named = [(file, file.name) for file in files if not file.is_dir()]
        if not named:
            reason = "holds no picture" if path.is_dir() else "does not exist and matches no file"
            raise DataError(
                f"{text} {reason}; give pictures ({', '.join(SUFFIXES)}), folders of them or a "
                "glob in quotes."
            )
        for file, name in named:
            for picture in _pages(file, name):
                pictures.setdefault(picture.id, picture)
    return list(pictures.values())


def _pages(file: Path, name: str) -> list[Picture]:
    """A picture for each page of a PDF or TIFF; a single picture for every other file."""
    if file.suffix.lower() == ".pdf":
        return [Picture(file, name, page) for page in range(1, _pdf_pages(file) + 1)]
    # Only TIFF files have pages, and reading the magic bytes is cheaper than opening every file.
    count = count_pages(file) if _is_tiff(file) else 1
    return [Picture(file, name, page if count > 1 else None) for page in range(1, count + 1)]


def _pdf_pages(file: Path) -> int:
    import pypdfium2

    try:
        check_regular(file)
        with pypdfium2.PdfDocument(file) as document:
            return len(document)
    except (pypdfium2.PdfiumError, PictureError, OSError):
        return 1


def _is_tiff(file: Path) -> bool:
    try:
        check_regular(file)
        with file.open("rb") as opened:
            return opened.read(4) in TIFF_MAGIC
    except (OSError, PictureError):
        return False


class PictureReader(Protocol):
    """What reads rows: a model (`ocrkit.models.read.Reader`) or a server."""

    config: TrainConfig

    def read_stream(self, rows: Iterable[Row]) -> "Iterator[Prediction]":
        """Read rows as they come, and yield a prediction for each, in any order."""
        ...

    def fingerprint(self, rows: Sequence[Row]) -> str:
        """Checksum of all that the predictions of these rows depend on."""
        ...


def read_pictures(
    reader: PictureReader, pictures: list[Picture], prompt: str
) -> "Iterator[Prediction]":
    """Read pictures and yield a prediction for each.

    Pictures are opened as the reader takes them, so a folder may be of any size. The first picture
    that looks like a page, given to a model that reads lines, is named in a warning.
    """
    unread: list[Prediction] = []
    for result in reader.read_stream(_open_rows(pictures, prompt, reader.config, unread)):
        yield from unread
        unread.clear()
        yield result
    yield from unread


def _open_rows(
    pictures: list[Picture], prompt: str, config: TrainConfig, unread: "list[Prediction]"
) -> Iterator[Row]:
    """A row for each picture; one that cannot be opened is appended to `unread` as failed."""
    warned, animated = False, 0
    for picture in pictures:
        try:
            opened = picture.open()
            image = plain(opened.image)
        except (OSError, ValueError, RuntimeError) as error:
            cause = " ".join(str(error).split())
            failed: Prediction = {
                "id": picture.id,
                "prediction": "",
                "confidence": 0.0,
                "finish_reason": "error",
                "error": f"cannot be opened: {cause}",
            }
            unread.append(failed)
            continue
        animated += opened.frames > 1
        if not warned and (warned := _is_page(image, config.image_height)):
            tqdm.write(
                f"{picture.id} has {image.width} x {image.height} pixels and is read "
                f"{config.image_height} pixels high, as the lines that this model was trained "
                "on: cut pages into lines first.",
                file=sys.stderr,
            )
        message: Message = {"role": "user", "content": prompt}
        yield {"id": picture.id, "prompt": [message], "images": [image]}
    if animated:
        print(f"{animated} pictures hold several frames; the first was read.", file=sys.stderr)


def _is_page(image: Image.Image, image_height: int | None) -> bool:
    return bool(image_height) and image.height > max(image.width, _LINES_OF_PAGE * image_height)
