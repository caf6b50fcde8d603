"""Read picture files: folders, globs and PDFs to lines of JSON or text files, resumable."""

import glob
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm.auto import tqdm

from data_prep.files import write_whole
from ocrkit.config import ConfigError, TrainConfig
from ocrkit.data import DataError, open_image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".pdf")
# Pixels per inch at which pages of a PDF are drawn.
PDF_DPI = 200
# Pictures that are open at once.
_CHUNK = 64
# A picture that is higher than wide, and this many times as high as the lines that a model reads,
# is taken for a page.
_PAGE = 8


@dataclass(frozen=True)
class Picture:
    """A picture file, or the page (from 1) of a PDF; `name` is its path under what was given."""

    path: Path
    name: str
    page: int | None = None

    @property
    def id(self) -> str:
        """What it is called in predictions: the path, for a page with `#page=N`."""
        return f"{self.path}#page={self.page}" if self.page else str(self.path)

    def open(self) -> Image.Image:
        """The picture, decoded and upright.

        Raises:
            OSError, RuntimeError, Image.DecompressionBombError: it cannot be opened.
        """
        if self.page is None:
            return open_image(str(self.path))
        import pypdfium2

        with pypdfium2.PdfDocument(self.path) as document:
            return document[self.page - 1].render(scale=PDF_DPI / 72).to_pil()


def list_pictures(inputs: list[str]) -> list[Picture]:
    """The pictures that files, folders (with what lies below), globs and PDFs stand for, once each.

    A file that is named itself is listed whatever its suffix; a PDF that cannot be opened is
    listed as one picture, so that it is counted as one that failed.

    Raises:
        DataError: a path that does not exist, or a folder or glob without a picture.
    """
    found: dict[str, Picture] = {}
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            files = [p for p in sorted(path.rglob("*")) if p.suffix.lower() in SUFFIXES]
            named = [(file, str(file.relative_to(path))) for file in files if file.is_file()]
        elif path.exists():
            named = [(path, path.name)]
        else:
            # Path.glob takes no absolute pattern.
            files = sorted(map(Path, glob.glob(text, recursive=True)))  # noqa: PTH207
            named = [(file, file.name) for file in files if file.is_file()]
        if not named:
            reason = "holds no picture" if path.is_dir() else "does not exist and matches no file"
            raise DataError(
                f"{text} {reason}; give pictures ({', '.join(SUFFIXES)}), folders of them or a "
                "glob in quotes."
            )
        for file, name in named:
            pdf = file.suffix.lower() == ".pdf"
            for picture in _pages(file, name) if pdf else [Picture(file, name)]:
                found.setdefault(picture.id, picture)
    return list(found.values())


def _pages(file: Path, name: str) -> list[Picture]:
    import pypdfium2

    try:
        with pypdfium2.PdfDocument(file) as document:
            return [Picture(file, name, page) for page in range(1, len(document) + 1)]
    except pypdfium2.PdfiumError:
        return [Picture(file, name, 1)]


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
    from ocrkit.predict import predict_stream

    # Reading leaves the batch size in it that fits the memory, for the next chunk.
    config = replace(config)
    warned = False
    for start in range(0, len(pictures), _CHUNK):
        rows = []
        for picture in pictures[start : start + _CHUNK]:
            try:
                image = picture.open()
            except (OSError, RuntimeError, Image.DecompressionBombError) as error:
                cause = " ".join(str(error).split())
                yield {
                    "id": picture.id,
                    "prediction": "",
                    "confidence": 0.0,
                    "finish_reason": "error",
                    "error": f"cannot be opened: {cause}",
                }
                continue
            if not warned and (warned := _is_page(image, config.image_height)):
                tqdm.write(
                    f"{picture.id} has {image.width} x {image.height} pixels and is read "
                    f"{config.image_height} pixels high, as the lines that this model was trained "
                    "on: cut pages into lines first.",
                    file=sys.stderr,
                )
            message = {"role": "user", "content": prompt}
            rows.append({"id": picture.id, "prompt": [message], "images": [image]})
        if rows:
            yield from predict_stream(model, processor, rows, config)


def _is_page(image: Image.Image, image_height: int | None) -> bool:
    return bool(image_height) and image.height > max(image.width, _PAGE * image_height)


def missing(pictures: list[Picture], out: Path) -> list[Picture]:
    """The pictures that `out` does not hold yet; those that failed before count as missing.

    Args:
        out: a .jsonl file, from which lines that failed or broke off are taken out, or a folder
            of text files.

    Raises:
        ConfigError: a file that is no .jsonl, or two pictures that would share a text file.
    """
    if out.suffix == ".jsonl":
        done = _good_lines(out)
        if out.is_file():
            write_whole(out, "".join(done.values()))
        return [picture for picture in pictures if picture.id not in done]
    if out.is_file() or out.suffix in (".json", ".txt", ".csv"):
        raise ConfigError(f"--out {out} is neither a .jsonl file nor a folder for text files.")
    targets: dict[Path, Picture] = {}
    for picture in pictures:
        other = targets.setdefault(text_file(picture, out), picture)
        if other != picture:
            raise ConfigError(
                f"{other.id} and {picture.id} would both be written to {text_file(picture, out)}; "
                "write a .jsonl file, or read them into folders of their own."
            )
    return [picture for target, picture in targets.items() if not target.is_file()]


def _good_lines(path: Path) -> dict[str, str]:
    lines: dict[str, str] = {}
    if not path.is_file():
        return lines
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            line = line.decode()
            record = json.loads(line)
            if line.endswith("\n") and not record["error"]:
                lines[record["id"]] = line
        except (ValueError, KeyError, TypeError):
            # A stop in the middle of a line; the picture is read again.
            continue
    return lines


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
) -> int:
    """Read pictures into a .jsonl file or a folder of text files; returns how many failed.

    Everything that was read is on the disk at once, so a run that is stopped goes on where it was.
    A picture that failed gets a line with its error, or no text file, and is named.
    """
    by_id = {picture.id: picture for picture in pictures}
    failed = 0
    lines = out.suffix == ".jsonl"
    (out.parent if lines else out).mkdir(parents=True, exist_ok=True)
    file = out.open("a", encoding="utf-8") if lines else None
    try:
        results = read_pictures(model, processor, pictures, prompt, config)
        for result in tqdm(results, total=len(pictures), desc="pictures"):
            if result["error"]:
                failed += 1
                tqdm.write(f"{result['id']} failed: {result['error']}")
            if file:
                file.write(json.dumps(result, ensure_ascii=False) + "\n")
                file.flush()
            elif not result["error"]:
                target = text_file(by_id[result["id"]], out)
                target.parent.mkdir(parents=True, exist_ok=True)
                write_whole(target, result["prediction"] + "\n")
    finally:
        if file:
            file.close()
    return failed
