"""Records of predictions: their type, validation, and the file `predictions.jsonl`."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Required, TypedDict, cast

if TYPE_CHECKING:
    from PIL.Image import Image

_REQUIRED_KEYS = {"id", "reference", "prediction"}
# Types of the values that a record may hold, apart from None.
_TYPES: dict[str, tuple[type, ...]] = {
    "id": (str, int),
    "reference": (str,),
    "prediction": (str,),
    "language": (str,),
    "group": (str, int),
    "confidence": (float, int),
}


class Record(TypedDict, total=False):
    """One sample: its truth, what a system read, and further columns to break rates down by.

    `group` is the document or the writer, `confidence` lies between 0 and 1, `answers` are the
    right texts where a question has several, and a function given as `image` returns the picture.
    """

    id: Required[str | int]
    reference: Required[str]
    prediction: str | None
    language: str | None
    group: str | int | None
    confidence: float | None
    finish_reason: str | None
    error: str | None
    task: str | None
    answers: list[str] | None
    image: "str | Path | Image | Callable[[], object] | None"


def is_missing(prediction: object) -> bool:
    """Tell whether there is no prediction: None, or the NaN of a table."""
    return prediction is None or prediction != prediction


def scored_text(record: Record) -> str:
    """Return the prediction of a record as it is scored: "" where it is missing."""
    prediction = record.get("prediction")
    return "" if prediction is None or is_missing(prediction) else prediction


def right_answers(record: Record) -> list[str]:
    """Return every text that counts as right: the answers to a question, else the reference."""
    return record.get("answers") or [record["reference"]]


def check_records(records: Iterable[Mapping[str, Any]], name: str) -> list[Record]:
    """Return valid records; NaN, which tables have in empty cells, becomes None.

    Raises:
        ValueError: there are no records, one lacks an id or a reference or holds what cannot be
            scored, or an id comes twice; the message names the record and `name`.
    """
    checked: list[Record] = []
    seen = set()
    for number, record in enumerate(records, 1):
        if any(map(_is_nan, record.values())):
            record = {key: None if _is_nan(value) else value for key, value in record.items()}
        _check(record, f"Record {number} of {name!r}")
        if record["id"] in seen:
            raise ValueError(f"Id {record['id']!r} comes twice in {name!r}: ids must be unique.")
        seen.add(record["id"])
        checked.append(cast("Record", record))
    if not checked:
        raise ValueError(f"Evaluation {name!r} has no records: there is nothing to score.")
    return checked


def _check(record: Mapping[str, Any], where: str) -> None:
    for key in ("id", "reference"):
        if record.get(key) is None:
            keys = ", ".join(record) or "none"
            cause = f"its {key} is null" if key in record else f"has the keys {keys}"
            raise ValueError(f"{where} needs an 'id' and a 'reference', but {cause}.")
    for key, types in _TYPES.items():
        value = record.get(key)
        if not (value is None or isinstance(value, types)) or isinstance(value, bool):
            wanted = " or ".join(kind.__name__ for kind in types)
            raise ValueError(f"{where}: {key}={value!r:.80} is no {wanted}.")
    answers = record.get("answers")
    if not (answers is None or (isinstance(answers, list) and all(map(_is_text, answers)))):
        raise ValueError(f"{where}: answers={answers!r:.80} is no list of texts.")
    if not 0 <= (record.get("confidence") or 0) <= 1:
        raise ValueError(
            f"{where}: confidence={record['confidence']!r} is no probability: "
            "give numbers from 0 to 1, percentages divided by 100."
        )


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def record_line(record: Record) -> str:
    """Return a record as one line of `predictions.jsonl`; of a picture only its path is kept."""
    kept: dict[str, object] = {key: value for key, value in record.items() if key != "image"}
    image = record.get("image")
    if isinstance(image, str | Path):
        # An absolute path, so that a report made from another folder opens the picture.
        kept["image"] = str(Path(image).absolute())
    return json.dumps(kept, ensure_ascii=False) + "\n"


def read_predictions(path: str | Path) -> list[dict[str, Any]]:
    """Read the `predictions.jsonl` of any system; picture paths are relative to the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is no JSON object or lacks a key; file and line are named.
    """
    records = list(_read_lines(Path(path)))
    for record in records:
        if isinstance(record.get("image"), str):
            record["image"] = str(Path(path).parent / record["image"])
    return records


def _read_lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: give a predictions.jsonl.")
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            try:
                line = raw.decode("utf-8-sig")
            except UnicodeDecodeError:
                raise ValueError(f"{path}:{number} is no UTF-8: write the file in UTF-8.") from None
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}:{number} is no JSON ({error}): mend the line.") from None
            if not isinstance(record, dict) or not record.keys() >= _REQUIRED_KEYS:
                raise ValueError(
                    f"{path}:{number} must be a JSON object with id, reference and prediction, "
                    f"but is {line.strip()[:80]!r}."
                )
            yield record
