"""Prediction files: write predictions to a .jsonl file or to text files, and resume from them."""

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from data_prep.dataset.files import json_lines, naming, to_bytes, write_whole
from data_prep.dataset.manifest import content_hash, note_files, read_manifest
from ocrkit.data.rows import Row
from ocrkit.errors import ConfigError, DataError
from ocrkit.models.read_files import Picture, PictureReader, read_pictures

# Keys of a line by version 0.1.0; later versions add a fingerprint and the picture's checksum.
_KEYS = {"id", "prediction", "confidence", "finish_reason", "error"}


def check_out(pictures: list[Picture], out: Path, overwrite: bool = False) -> None:
    """Check before a model is loaded that predictions can be written to `out`.

    Args:
        pictures: pictures that will be read.
        out: a .jsonl file, or a folder for text files.
        overwrite: whether a .jsonl file with other contents than predictions may be replaced.

    Raises:
        ConfigError: a file that is no .jsonl, or two pictures that would share a text file.
        DataError: a .jsonl file with a line that `predict` did not write.
    """
    is_jsonl = out.suffix == ".jsonl"
    # Pipes and devices are neither files nor folders.
    unusable = out.exists() and not (out.is_file() if is_jsonl else out.is_dir())
    if unusable or out.suffix in (".json", ".txt", ".csv"):
        raise ConfigError(f"--out {out} is neither a .jsonl file nor a folder for text files.")
    if is_jsonl:
        if not overwrite:
            _read_jsonl(out)
        return
    targets: dict[Path, Picture] = {}
    for picture in pictures:
        other = targets.setdefault(text_file(picture, out), picture)
        if other != picture:
            raise ConfigError(
                f"{other.id} and {picture.id} would both be written to {text_file(picture, out)}; "
                "write a .jsonl file, or read them into separate folders."
            )


def text_file(picture: Picture, out: Path) -> Path:
    """Path of a picture's text file in the folder `out`."""
    page = f"-{picture.page:04d}" if picture.page else ""
    return out / f"{picture.name}{page}.txt"


def write_predictions(
    reader: PictureReader,
    pictures: list[Picture],
    prompt: str,
    out: Path,
    overwrite: bool = False,
) -> tuple[int, int]:
    """Read pictures into a .jsonl file or a folder of text files; return how many it read, failed.

    Each prediction is written at once, so an interrupted run resumes where it stopped: pictures
    that the same model read with the same prompt and settings are skipped, unless they failed or
    changed since. Predictions of version 0.1.0, which carry no fingerprint, are kept, with a line
    on stderr. A picture that failed gets a line with its error, or no text file, and is named. At
    the end the lines are put in the order of the pictures.

    Args:
        reader: of a model or a server.
        pictures: pictures to read.
        prompt: the user's message for every picture.
        out: the .jsonl file or the folder.
        overwrite: read every picture, and replace earlier predictions.

    Raises:
        ConfigError, DataError: as `check_out`; or `out` holds predictions of another model, prompt
            or other settings.
        OSError: the disk is full or cannot be written; the file or folder is named.
    """
    check_out(pictures, out, overwrite)
    # As an evaluation's, of a row without a picture: weights, prompt and settings.
    row: Row = {"id": "", "prompt": [{"role": "user", "content": prompt}], "images": []}
    stamp = reader.fingerprint([row])
    checksums = _Checksums()
    is_jsonl = out.suffix == ".jsonl"
    with naming(out):
        (out.parent if is_jsonl else out).mkdir(parents=True, exist_ok=True)
    if overwrite:
        unread = pictures
        if is_jsonl:
            write_whole(out, "")
    elif is_jsonl:
        unread = _unread_in_jsonl(pictures, out, stamp, checksums)
    else:
        unread = _unread_in_folder(pictures, out, stamp, checksums)
    by_id = {picture.id: picture for picture in unread}
    failed = 0
    results = read_pictures(reader, unread, prompt)
    for result in tqdm(results, total=len(unread), desc="pictures"):
        if result["error"]:
            failed += 1
            tqdm.write(f"{result['id']} failed: {result['error']}")
        picture = by_id[result["id"]]
        marks = {"fingerprint": stamp, "picture": checksums[picture.path]}
        if is_jsonl:
            with naming(out), out.open("ab") as file:
                file.write(to_bytes(json_lines([{**result, **marks}])))
        elif not result["error"]:
            _write_text(text_file(picture, out), out, result["prediction"] + "\n", marks)
    if is_jsonl and unread:
        _sort_jsonl(out, pictures)
    return len(unread) - failed, failed


class _Checksums(dict):
    """Checksums of picture files, each computed once; None where a file cannot be read."""

    def __missing__(self, path: Path) -> str | None:
        try:
            self[path] = content_hash(path)[:16]
        except OSError:
            self[path] = None
        return self[path]


def _read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Predictions in a .jsonl file, without a last line that is incomplete.

    Raises:
        DataError: a line is no prediction; file and line are named.
    """
    if not path.exists():
        return []
    records = []
    *lines, last = path.read_bytes().split(b"\n")
    if last and not _is_incomplete(last):
        lines.append(last)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        record = _parse_prediction(line)
        if record is None:
            raise DataError(
                f"{path}:{number} was not written by predict: give another --out, or replace the "
                "file with --overwrite."
            )
        records.append(record)
    return records


def _sort_jsonl(out: Path, pictures: list[Picture]) -> None:
    """Put lines in the order of the pictures, whatever was read first; others come last."""
    order = {picture.id: number for number, picture in enumerate(pictures)}
    records = _read_jsonl(out)
    write_whole(out, json_lines(sorted(records, key=lambda r: order.get(r["id"], len(order)))))


def _is_incomplete(line: bytes) -> bool:
    """Whether a kill or a full disk cut a line off: it begins as predictions do, and is no JSON."""
    begin = b'{"id": '
    with suppress(ValueError, RecursionError):
        json.loads(line)
        return False
    return begin.startswith(line[: len(begin)])


def _parse_prediction(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
        keys = set(record)
        # Lines of an evaluation hold the reference as well.
        is_prediction = keys >= _KEYS and "reference" not in keys
        if is_prediction and (keys == _KEYS or isinstance(record.get("fingerprint"), str)):
            return record if isinstance(record["id"], str) else None
    except (ValueError, TypeError, RecursionError):
        pass
    return None


def _unread_in_jsonl(
    pictures: list[Picture], out: Path, stamp: str, checksums: _Checksums
) -> list[Picture]:
    """Pictures without a valid line in `out`; their failed and stale lines are deleted from it."""
    by_id = {picture.id: picture for picture in pictures}
    kept: dict[str | int, dict[str, Any]] = {}
    unmarked = 0
    for number, record in enumerate(_read_jsonl(out)):
        mark, picture = record.get("fingerprint", stamp), by_id.get(record["id"])
        if mark != stamp and not record["error"]:
            raise _other_model(f"{out} holds a prediction for {record['id']}")
        if picture:
            checksum = checksums[picture.path]
            if record["error"] or record.get("picture", checksum) != checksum:
                continue
        unmarked += "fingerprint" not in record
        kept[record["id"] if picture else number] = record
    _warn_of_unmarked(unmarked, out)
    content = to_bytes(json_lines(kept.values()))
    if out.is_file() and content != out.read_bytes():
        write_whole(out, content)
    return [picture for picture in pictures if picture.id not in kept]


def _unread_in_folder(
    pictures: list[Picture], out: Path, stamp: str, checksums: _Checksums
) -> list[Picture]:
    """Pictures without a valid text file in the folder `out`."""
    manifest: dict[str, list[dict]] = {}
    for line in read_manifest(out):
        manifest.setdefault(line["file"], []).append(line)
    unread, unmarked = [], 0
    for picture in pictures:
        path = text_file(picture, out)
        if not path.is_file():
            unread.append(picture)
            continue
        entries = manifest.get(path.relative_to(out).as_posix())
        if entries is None:
            unmarked += 1
            continue
        if entries[-1].get("fingerprint") != stamp:
            raise _other_model(f"{path} holds a prediction")
        changed = entries[-1].get("picture") != checksums[picture.path]
        by_hand = content_hash(path) not in {line["sha256"] for line in entries}
        if changed and by_hand:
            raise DataError(
                f"{path} was changed by hand, and so was {picture.path} since it was read: delete "
                "the text to have it read anew, or read all anew with --overwrite."
            )
        # A kill between the manifest's entry and the text can leave the older text.
        if changed or not (by_hand or content_hash(path) == entries[-1]["sha256"]):
            unread.append(picture)
    _warn_of_unmarked(unmarked, out)
    return unread


def _other_model(start: str) -> DataError:
    return DataError(
        f"{start} by another model, or with another prompt or other settings: give another --out, "
        "or read all anew with --overwrite."
    )


def _warn_of_unmarked(count: int, out: Path) -> None:
    if count:
        print(
            f"{count} predictions in {out} carry no fingerprint of model, prompt and settings, as "
            "those of version 0.1.0: they are kept; --overwrite reads all anew.",
            file=sys.stderr,
        )


def _write_text(path: Path, out: Path, text: str, marks: dict[str, Any]) -> None:
    content = to_bytes(text)
    name = path.relative_to(out).as_posix()
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    note_files(out, [{"file": name, "sha256": content_hash(content), **marks}])
    write_whole(path, content)
