"""Read picture files: folders, globs and PDFs to lines of JSON or text files, resumable."""

import glob
import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm.auto import tqdm

from data_prep.dataset.command import expand_home
from data_prep.dataset.files import naming, write_whole
from data_prep.dataset.manifest import content_hash, note_files, read_manifest
from data_prep.dataset.pictures import Opened, PictureError, check_regular, count_pages, plain
from data_prep.dataset.schema import printable
from ocrkit.config import TrainConfig
from ocrkit.errors import ConfigError, DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".pdf")
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Pixels per inch at which pages of a PDF are drawn.
PDF_DPI = 200
# Pictures that are open at once.
_CHUNK = 64
# A picture that is higher than wide, and this many times as high as the lines that a model reads,
# is taken for a page.
_PAGE = 8


@dataclass(frozen=True)
class Picture:
    """A picture file, or the page (from 1) of a PDF or TIFF; `name` is its path under the input."""

    path: Path
    name: str
    page: int | None = None

    @property
    def id(self) -> str:
        """What it is called in predictions: the path, for a page with `#page=N`."""
        # A name that is no UTF-8 is written as escapes.
        path = printable(str(self.path))
        return f"{path}#page={self.page}" if self.page else path

    def open(self) -> Opened:
        """The picture, decoded and upright.

        Raises:
            PictureError, RuntimeError: it cannot be opened.
        """
        check_regular(self.path)
        if self.path.suffix.lower() != ".pdf":
            return Opened(self.path, self.page)
        import pypdfium2

        with pypdfium2.PdfDocument(self.path) as document:
            return Opened(document[self.page - 1].render(scale=PDF_DPI / 72).to_pil())


def list_pictures(inputs: list[str]) -> list[Picture]:
    """The pictures that files, folders (with what lies below), globs and PDFs stand for, once each.

    A file that is named itself is listed whatever its suffix. A PDF that cannot be opened is listed
    as one picture, and so is a FIFO, socket or device, so that each is counted as one that failed.

    Raises:
        DataError: a path that does not exist, or a folder or glob without a picture.
    """
    found: dict[str, Picture] = {}
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
                found.setdefault(picture.id, picture)
    return list(found.values())


def _pages(file: Path, name: str) -> list[Picture]:
    """A picture for each page of a PDF or TIFF; one for every other file."""
    if file.suffix.lower() == ".pdf":
        return [Picture(file, name, page) for page in range(1, _pdf_pages(file) + 1)]
    # Only a TIFF has pages, and a glance at the first bytes costs less than to open every file.
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


def read_pictures(
    model: Any,
    processor: Any,
    pictures: list[Picture],
    prompt: str,
    config: TrainConfig,
) -> Iterator[dict[str, Any]]:
    """Read pictures and yield `{id, prediction, confidence, finish_reason, error}` of each.

    Few are open at once, so a folder may be of any size; within these few the largest come first.
    The first picture that looks like a page, given to a model of lines, is named in a warning.
    """
    from ocrkit.models.read import predict_stream, warn_of_no_numbers, without_numbers

    # Reading leaves the batch size in it that fits the memory, for the next chunk.
    config = replace(config)
    warned, frames, broken = False, 0, 0
    for start in range(0, len(pictures), _CHUNK):
        rows = []
        for picture in pictures[start : start + _CHUNK]:
            try:
                opened = picture.open()
                image = plain(opened.image)
            except (OSError, ValueError, RuntimeError) as error:
                cause = " ".join(str(error).split())
                yield {
                    "id": picture.id,
                    "prediction": "",
                    "confidence": 0.0,
                    "finish_reason": "error",
                    "error": f"cannot be opened: {cause}",
                }
                continue
            frames += opened.frames > 1
            if not warned and (warned := _is_page(image, config.image_height)):
                tqdm.write(
                    f"{picture.id} has {image.width} x {image.height} pixels and is read "
                    f"{config.image_height} pixels high, as the lines that this model was trained "
                    "on: cut pages into lines first.",
                    file=sys.stderr,
                )
            message = {"role": "user", "content": prompt}
            rows.append({"id": picture.id, "prompt": [message], "images": [image]})
        for result in predict_stream(model, processor, rows, config, warn=False) if rows else ():
            broken += without_numbers(result)
            yield result
    if frames:
        print(f"{frames} pictures hold several frames; the first was read.", file=sys.stderr)
    if broken:
        warn_of_no_numbers(model, broken, len(pictures))


def _is_page(image: Image.Image, image_height: int | None) -> bool:
    return bool(image_height) and image.height > max(image.width, _PAGE * image_height)


# --- written answers


def check_out(pictures: list[Picture], out: Path, overwrite: bool = False) -> None:
    """Refuse an output that cannot take answers, before a model is loaded.

    Args:
        pictures: what will be read.
        out: a .jsonl file, or a folder of text files.
        overwrite: let a .jsonl file be replaced that holds other than answers of this kit.

    Raises:
        ConfigError: a file that is no .jsonl, or two pictures that would share a text file.
        DataError: a .jsonl file with a line that this kit did not write.
    """
    lines = out.suffix == ".jsonl"
    # A pipe or a device is neither.
    taken = out.exists() and not (out.is_file() if lines else out.is_dir())
    if taken or out.suffix in (".json", ".txt", ".csv"):
        raise ConfigError(f"--out {out} is neither a .jsonl file nor a folder for text files.")
    if lines:
        if not overwrite:
            _answers(out)
        return
    targets: dict[Path, Picture] = {}
    for picture in pictures:
        other = targets.setdefault(text_file(picture, out), picture)
        if other != picture:
            raise ConfigError(
                f"{other.id} and {picture.id} would both be written to {text_file(picture, out)}; "
                "write a .jsonl file, or read them into folders of their own."
            )


# Keys of a line that version 0.1.0 wrote; later ones hold a fingerprint and the picture's hash.
_LINE = {"id", "prediction", "confidence", "finish_reason", "error"}


def _answers(path: Path) -> list[dict[str, Any]]:
    """The lines of a .jsonl file of answers, without one that was broken off at its end.

    Raises:
        DataError: a line is no answer of this kit; file and line are named.
    """
    if not path.exists():
        return []
    records = []
    *lines, last = path.read_bytes().split(b"\n")
    if last and not _is_torn(last):
        lines.append(last)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        record = _answer(line)
        if record is None:
            raise DataError(
                f"{path}:{number} was not written by predict: give another --out, or replace the "
                "file with --overwrite."
            )
        records.append(record)
    return records


def _is_torn(line: bytes) -> bool:
    """Whether a kill or a full disk broke a line off: it begins as answers do, and is no JSON."""
    begin = b'{"id": '
    with suppress(ValueError, RecursionError):
        json.loads(line)
        return False
    return begin.startswith(line[: len(begin)])


def _answer(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
        keys = set(record)
        # Lines of an evaluation hold the truth as well.
        own = keys >= _LINE and "reference" not in keys
        if own and (keys == _LINE or isinstance(record.get("fingerprint"), str)):
            return record if isinstance(record["id"], str) else None
    except (ValueError, TypeError, RecursionError):
        pass
    return None


def text_file(picture: Picture, out: Path) -> Path:
    """Where in the folder `out` the text of a picture goes."""
    page = f"-{picture.page:04d}" if picture.page else ""
    return out / f"{picture.name}{page}.txt"


def write_predictions(
    model: Any,
    processor: Any,
    pictures: list[Picture],
    prompt: str,
    config: TrainConfig,
    out: Path,
    overwrite: bool = False,
) -> tuple[int, int]:
    """Read pictures into a .jsonl file or a folder of text files; returns how many it read, failed.

    Everything that was read is on the disk at once, so a run that is stopped goes on where it was:
    pictures that were read by the same model with the same prompt and settings are not read again,
    but for those that failed or that were changed since. Answers of version 0.1.0, which do not
    say what read them, are kept, with a line on stderr. A picture that failed gets a line with its
    error, or no text file, and is named.

    Args:
        model: what `load_model` returned.
        processor: likewise.
        pictures: what to read.
        prompt: what to ask for.
        config: settings of the reading.
        out: the .jsonl file or the folder.
        overwrite: read all anew, and replace what is there.

    Raises:
        ConfigError, DataError: as `check_out`; or answers are there that another model read, or
            with another prompt or other settings.
        OSError: the disk is full or cannot be written; the file or folder is named.
    """
    from ocrkit.models.read import fingerprint

    check_out(pictures, out, overwrite)
    # One row without a picture: weights, prompt and settings, as evaluations are marked.
    asked = {"id": "", "prompt": [{"role": "user", "content": prompt}], "images": []}
    stamp = fingerprint(model, processor, [asked], config)
    hashes = _Hashes()
    lines = out.suffix == ".jsonl"
    with naming(out):
        (out.parent if lines else out).mkdir(parents=True, exist_ok=True)
    missing = _missing_lines if lines else _missing_texts
    left = pictures if overwrite else missing(pictures, out, stamp, hashes)
    if overwrite and lines:
        write_whole(out, "")
    by_id = {picture.id: picture for picture in left}
    failed = 0
    for result in tqdm(
        read_pictures(model, processor, left, prompt, config), total=len(left), desc="pictures"
    ):
        if result["error"]:
            failed += 1
            tqdm.write(f"{result['id']} failed: {result['error']}")
        picture = by_id[result["id"]]
        marks = {"fingerprint": stamp, "picture": hashes[picture.path]}
        if lines:
            line = json.dumps({**result, **marks}, ensure_ascii=False) + "\n"
            with naming(out), out.open("ab") as file:
                file.write(line.encode("utf-8", "backslashreplace"))
        elif not result["error"]:
            _write_text(text_file(picture, out), out, result["prediction"] + "\n", marks)
    return len(left) - failed, failed


class _Hashes(dict):
    """Hashes of picture files, each taken once; None where a file cannot be read."""

    def __missing__(self, path: Path) -> str | None:
        try:
            self[path] = content_hash(path)[:16]
        except OSError:
            self[path] = None
        return self[path]


def _missing_lines(
    pictures: list[Picture], out: Path, stamp: str, hashes: _Hashes
) -> list[Picture]:
    """The pictures without a valid line in `out`, whose other lines of theirs are taken out."""
    records = _answers(out)
    by_id = {picture.id: picture for picture in pictures}
    kept, unmarked = {}, 0
    for number, record in enumerate(records):
        mark, picture = record.get("fingerprint", stamp), by_id.get(record["id"])
        if mark != stamp and not record["error"]:
            raise _other_reading(f"{out} holds an answer for {record['id']}")
        stale = picture and record.get("picture", hashes[picture.path]) != hashes[picture.path]
        if picture and (record["error"] or stale):
            continue
        unmarked += "fingerprint" not in record
        kept[record["id"] if picture else number] = record
    _tell_unmarked(unmarked, out)
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in kept.values())
    text = text.encode("utf-8", "backslashreplace")
    if out.is_file() and text != out.read_bytes():
        write_whole(out, text)
    return [picture for picture in pictures if picture.id not in kept]


def _missing_texts(
    pictures: list[Picture], out: Path, stamp: str, hashes: _Hashes
) -> list[Picture]:
    """The pictures without a valid text file in the folder `out`."""
    noted: dict[str, list[dict]] = {}
    for line in read_manifest(out):
        noted.setdefault(line["file"], []).append(line)
    left, unmarked = [], 0
    for picture in pictures:
        path = text_file(picture, out)
        if not path.is_file():
            left.append(picture)
            continue
        notes = noted.get(path.relative_to(out).as_posix())
        if notes is None:
            unmarked += 1
            continue
        if notes[-1].get("fingerprint") != stamp:
            raise _other_reading(f"{path} holds an answer")
        changed = notes[-1].get("picture") != hashes[picture.path]
        by_hand = content_hash(path) not in {line["sha256"] for line in notes}
        if changed and by_hand:
            raise DataError(
                f"{path} was changed by hand, and so was {picture.path} since it was read: delete "
                "the text to have it read anew, or read all anew with --overwrite."
            )
        # A kill may have left an older text under a newer note.
        if changed or not (by_hand or content_hash(path) == notes[-1]["sha256"]):
            left.append(picture)
    _tell_unmarked(unmarked, out)
    return left


def _other_reading(what: str) -> DataError:
    return DataError(
        f"{what} that another model gave, or that was asked or set otherwise: give another --out, "
        "or read all anew with --overwrite."
    )


def _tell_unmarked(count: int, out: Path) -> None:
    if count:
        print(
            f"{count} answers in {out} do not say which model, prompt and settings they are from, "
            "as none of version 0.1.0 does: they are kept; --overwrite reads all anew.",
            file=sys.stderr,
        )


def _write_text(path: Path, out: Path, text: str, marks: dict[str, Any]) -> None:
    content = text.encode("utf-8", "backslashreplace")
    name = path.relative_to(out).as_posix()
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    note_files(out, [{"file": name, "sha256": content_hash(content), **marks}])
    write_whole(path, content)
