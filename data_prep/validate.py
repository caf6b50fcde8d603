"""Checks a dataset folder before training: `python -m data_prep.validate DIR`.

It takes all that convert writes: an imagefolder, `--layout messages` and `--format parquet`.
Errors are what would break or falsify a training run; warnings are what a person should look at.
Writes DIR/validation.json, and DIR/validation.png with the pictures' sizes and the characters.
"""

import argparse
import hashlib
import io
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.dataset.arithmetic import invoice_problems
from data_prep.dataset.command import COUNT, WORKERS, exit_code, expand_home, parse_arguments
from data_prep.dataset.files import check_own, write_folder
from data_prep.dataset.other_trainers import WRITERS
from data_prep.dataset.schema import (
    SPLITS,
    DataError,
    Row,
    UsageError,
    content_text,
    convert_line,
    dump_json,
    from_messages,
    one_line,
    parse_json,
    row_problems,
)
from data_prep.dataset.split import page_key, page_of
from data_prep.dataset.write import ordered_map

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

BATCH = 64
PARQUET_BATCH = 16
# Models write turns and pictures with tokens like these; a text that holds one may be left out.
CONTROL_TOKEN = re.compile(
    r"<[|｜][^<>|｜\s]{1,40}[|｜]>|</?s>|<(?:bos|eos|pad|image|video|image_soft_token)>"
    r"|<(?:start|end)_of_(?:turn|image)>|\[/?(?:INST|IMG)\]"
)
LONGEST_SIDE = 200  # times the shorter one; the processors of Qwen's models refuse more
EXAMPLES = 5  # places named for each kind of finding


class Findings:
    """Counts errors and warnings by kind, with the first places of each."""

    def __init__(self) -> None:
        self.errors: Counter[str] = Counter()
        self.warnings: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}

    def error(self, kind: str, place: str) -> None:
        """Note something that must be put right."""
        self._note(self.errors, kind, place)

    def warn(self, kind: str, place: str) -> None:
        """Note something to look at."""
        self._note(self.warnings, kind, place)

    def _note(self, counter: Counter, kind: str, place: str) -> None:
        counter[kind] += 1
        places = self.examples.setdefault(kind, [])
        if len(places) < EXAMPLES:
            places.append(place)

    def to_dict(self, rows: dict[str, int]) -> dict:
        """The content of validation.json."""
        return {
            "ok": not self.errors,
            "rows": rows,
            "errors": dict(self.errors.most_common()),
            "warnings": dict(self.warnings.most_common()),
            "examples": self.examples,
        }


def validate(
    dataset: str | Path,
    *,
    schema: str | Path | None = None,
    tokenizer: str | Path | None = None,
    max_characters: int = 4000,
    workers: int = 1,
    plot: bool = True,
    overwrite: bool = False,
) -> dict:
    """Check the folder `dataset`, of any layout; returns (and writes) validation.json.

    Args:
        schema: a JSON Schema that the completions of extraction rows must satisfy.
        tokenizer: a tokenizer.json; characters that it cannot give back are warned of.
        max_characters: completions longer than this are warned of.
        workers: processes that open pictures.
        plot: whether to draw validation.png.
        overwrite: replace files of these names that the kit did not write, too.

    Raises:
        UsageError: `max_characters` or `workers` is under 1.
        FileExistsError: the folder holds such a file.
        DataError: `dataset`, `schema` or `tokenizer` cannot be read at all.
    """
    for name, value in (("max-characters", max_characters), ("workers", workers)):
        if value < 1:
            raise UsageError(f"--{name} is {value}, but takes a count of 1 or more.")
    dataset, schema, tokenizer = map(expand_home, (Path(dataset), schema, tokenizer))
    check_own(dataset, ["validation.json", *["validation.png"] * plot], overwrite)
    layout, files = find_files(dataset)
    splits = list(files)
    checker = load_schema(schema) if schema else None
    findings = Findings()
    rows: Counter[str] = Counter()
    ids: set[bytes] = set()
    groups: dict[bytes, str] = {}
    pages: dict[int, str] = {}
    images: dict[bytes, tuple[str, str]] = {}
    characters = {split: Counter() for split in splits}
    sizes: Counter[tuple[int, int]] = Counter()
    for split in splits:
        root = dataset / split if layout == "imagefolder" else dataset
        work = partial(CHECKS[layout], folder=str(root))
        for results in ordered_map(work, batches(dataset, files[split]), workers):
            for place, row, problems, doubts, digests in results:
                rows[split] += 1
                for kind, detail in problems:
                    findings.error(kind, f"{place}: {detail}")
                for kind, detail in doubts:
                    findings.warn(kind, f"{place}: {detail}")
                if row is None:
                    continue
                if not row.completion[-1]["content"].strip():
                    note = findings.error if split == "train" else findings.warn
                    note("empty text", f"{place}: nothing is to be read")
                check_row(row, place, findings, checker, max_characters)
                if not add(ids, digest(row.id)):
                    findings.error("duplicate id", f"{place}: {row.id}")
                if groups.setdefault(digest(row.group), split) != split:
                    findings.error("group in two splits", f"{place}: {row.group}")
                elif pages.setdefault(page_key(row.group), split) != split:
                    # Of datasets whose groups were made without the patterns of names.
                    where = f"{place}: {row.group} is of the page {page_of(row.group)}"
                    findings.warn("page in two splits, as its name says", where)
                for one in digests:
                    text = row.completion[-1]["content"]
                    first, said = images.setdefault(one, (split, text))
                    if first != split:
                        findings.error("picture in two splits", f"{place}: also in {first}")
                    elif said != text and row.task == "transcription":
                        findings.warn("one picture with two texts", f"{place}: {text[:80]}")
                characters[split].update(row.completion[-1]["content"])
                sizes[row.width, row.height] += 1
    check_counts(dataset, rows, findings)
    check_characters(characters, tokenizer, findings)
    result = findings.to_dict(dict(rows))
    text = json.dumps(result, ensure_ascii=False, indent=1)
    contents: dict[str, str | bytes] = {}
    if plot and sizes:
        contents["validation.png"] = draw(sizes, sum(characters.values(), Counter()))
    write_folder(dataset, {**contents, "validation.json": text + "\n"}, overwrite)
    return result


def find_files(dataset: Path) -> tuple[str, dict[str, list[Path]]]:
    """The layout of a dataset folder, and the files with the rows of each split it has.

    Raises:
        DataError: it has none.
    """
    format = told_format(dataset)
    if format in WRITERS:
        raise DataError(
            f"{dataset} holds what --format {format} wrote for other trainers; validate the "
            "dataset that convert makes without it."
        )
    for layout, pattern in (
        ("imagefolder", "{}/metadata.jsonl"),
        ("messages", "{}.jsonl"),
        ("parquet", "data/{}-*.parquet"),
    ):
        found = {split: sorted(dataset.glob(pattern.format(split))) for split in SPLITS}
        if any(found.values()):
            return layout, {split: files for split, files in found.items() if files}
    raise DataError(
        f"{dataset} has no <split>/metadata.jsonl, no <split>.jsonl and no data/<split>-*.parquet; "
        "name a folder convert made."
    )


def told_format(dataset: Path) -> object:
    """The --format that dataset.json states; None without any."""
    try:
        return parse_json((dataset / "dataset.json").read_bytes())["options"].get("format")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


Record = tuple[str, bytes | dict]  # the place of a row, and its line or its columns
Kinds = list[tuple[str, str]]  # (kind, detail) each
Checked = tuple[str, Row | None, Kinds, Kinds, list[bytes]]


def batches(dataset: Path, files: list[Path]) -> Iterator[list[Record]]:
    """The rows of files, some at a time."""
    for path in files:
        name = path.relative_to(dataset).as_posix()
        if path.suffix == ".parquet":
            yield from parquet_batches(path, name)
            continue
        batch: list[Record] = []
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                batch.append((f"{name}:{number}", line))
                if len(batch) == BATCH:
                    yield batch
                    batch = []
        if batch:
            yield batch


def parquet_batches(path: Path, name: str) -> Iterator[list[Record]]:
    """The rows of a parquet file, a few at a time, for they carry their pictures."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        number = 0
        with pq.ParquetFile(path) as file:
            for found in file.iter_batches(PARQUET_BATCH):
                rows = found.to_pylist()
                yield [(f"{name} row {number + i}", row) for i, row in enumerate(rows, start=1)]
                number += len(rows)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} cannot be read as parquet ({reason}).") from None


def check_lines(records: list[Record], folder: str) -> list[Checked]:
    """(place, row if it is one, its errors, its warnings, digests of its pictures) of lines."""
    read = partial(read_picture, folder)
    return [(place, *check_line(line, lambda value: value, read)) for place, line in records]


def check_messages(records: list[Record], folder: str) -> list[Checked]:
    """The same of lines with messages, as ms-swift and LLaMA-Factory read them."""
    read = partial(read_picture, folder)
    return [(place, *check_line(line, from_messages, read)) for place, line in records]


def check_columns(records: list[Record], folder: str) -> list[Checked]:
    """The same of rows of a parquet file, which hold their pictures."""
    results = []
    for place, columns in records:
        pictures = [one if isinstance(one, dict) else {} for one in columns.pop("images", ()) or ()]
        columns["images_file_names"] = [one.get("path") or "a picture" for one in pictures]
        data = [one.get("bytes") for one in pictures]
        results.append((place, *check_value(columns, lambda index, name, data=data: data[index])))
    return results


CHECKS = {"imagefolder": check_lines, "messages": check_messages, "parquet": check_columns}


def read_picture(folder: str, index: int, name: str) -> bytes:
    """A picture's bytes by its name; which of the row's pictures it is does not matter."""
    return Path(folder, name).read_bytes()


Outcome = tuple[Row | None, Kinds, Kinds, list[bytes]]


def check_line(line: bytes, canonical: Callable, read: Callable[[int, str], bytes]) -> Outcome:
    """One line of JSON, made a row by `canonical`, with its pictures opened."""
    try:
        value = parse_json(line)
    except ValueError as error:
        return None, [("broken line", str(error))], [], []
    try:
        return check_value(canonical(value), read)
    except ValueError as error:
        return None, [("invalid row", str(error))], [], []


def check_value(value: object, read: Callable[[int, str], bytes | None]) -> Outcome:
    """A row's fields, and its pictures, which `read` gives by their number and name."""
    from data_prep.dataset.pictures import Opened, PictureError

    if found := row_problems(value, blank=True):
        line = convert_line(value, "FILE")
        text = f"of another tool, which {line} reads" if line else "; ".join(found)
        return None, [("invalid row", text)], [], []
    row = Row.from_json(dump_json(value), blank=True)
    problems, doubts, digests = [], [], []
    for index, name in enumerate(row.images_file_names):
        try:
            data = read(index, name)
            if not data:
                raise FileNotFoundError
            opened = Opened(data)
            image = opened.image
        except OSError:
            problems.append(("missing image", name))
        except PictureError as error:
            problems.append((error.reason, f"{name}: {error.detail}"))
        else:
            if opened.frames > 1:
                detail = f"{name} has {opened.frames}, of which the first is taken"
                doubts.append(("several frames", detail))
            if max(image.size) > LONGEST_SIDE * min(image.size):
                detail = "{} is {}x{}; some models refuse it".format(name, *image.size)
                doubts.append(("long picture", detail))
            digests.append(hashlib.blake2b(data, digest_size=16).digest())
            if index == 0 and image.size != (row.width, row.height):
                found_size = "{}x{}".format(*image.size)
                detail = f"{name} is {found_size}, stated {row.width}x{row.height}"
                problems.append(("size differs", detail))
    return row, problems, doubts, digests


def check_row(
    row: Row,
    place: str,
    findings: Findings,
    checker: "Validator | None",
    max_characters: int,
) -> None:
    """What a row's texts can have wrong."""
    answer = row.completion[-1]["content"]
    asked = "\n".join(content_text(message["content"]) for message in row.prompt)
    for text in (asked, answer):
        if token := CONTROL_TOKEN.search(text):
            findings.warn("control token in a text", f"{place}: {token[0]} in {text[:80]!r}")
    if len(answer) > max_characters:
        findings.warn("long text", f"{place}: {len(answer)} characters")
    # Short answers such as "2" occur anywhere.
    if len(answer) >= 8 and answer in asked:
        findings.warn("answer stands in the prompt", f"{place}: {answer[:80]}")
    if row.task != "extraction":
        return
    try:
        value = parse_json(answer)
    except ValueError as error:
        findings.error("completion is no JSON", f"{place}: {error}")
        return
    for error in checker.iter_errors(value) if checker else ():
        path = "/".join(str(part) for part in error.absolute_path)
        findings.error("completion breaks the schema", f"{place}: {path}: {error.message}"[:300])
    for broken in invoice_problems(value):
        findings.warn("arithmetic", f"{place}: {broken}")


def check_counts(dataset: Path, rows: Counter, findings: Findings) -> None:
    """Whether dataset.json tells what is there."""
    try:
        told = parse_json((dataset / "dataset.json").read_bytes())["rows"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        findings.error("dataset.json cannot be read", str(error))
        return
    if told != dict(rows):
        findings.error("dataset.json counts otherwise", f"{told}, but {dict(rows)} are here")


def check_characters(
    characters: dict[str, Counter], tokenizer: str | Path | None, findings: Findings
) -> None:
    """Characters that training never shows, and those that the tokenizer cannot give back."""
    if "train" in characters:
        for split in characters.keys() - {"train"}:
            for character in sorted(characters[split].keys() - characters["train"].keys()):
                name = f"{character} U+{ord(character):04X}"
                findings.warn("character that training never shows", f"{split}: {name}")
    if tokenizer:
        for character in unspelt(tokenizer, sum(characters.values(), Counter())):
            name = f"{character} U+{ord(character):04X}"
            findings.warn("character that the tokenizer cannot spell", name)


def unspelt(tokenizer: str | Path, characters: Counter) -> list[str]:
    """Characters that do not come back from a tokenizer's ids."""
    from tokenizers import Tokenizer

    try:
        model = Tokenizer.from_file(str(tokenizer))
    except Exception as error:  # its errors are bare Exceptions
        raise DataError(f"{tokenizer} cannot be read as a tokenizer.json ({error}).") from None
    # Between letters, for some decoders trim what stands at an end.
    return [
        c
        for c in sorted(characters)
        if c not in model.decode(model.encode(f"a{c}a", add_special_tokens=False).ids)
    ]


def load_schema(path: str | Path) -> "Validator":
    """A validator of the JSON Schema in a file."""
    import jsonschema

    try:
        schema = parse_json(Path(path).read_bytes())
        kind = jsonschema.validators.validator_for(schema)
        kind.check_schema(schema)
    except (OSError, ValueError, jsonschema.SchemaError) as error:
        message = getattr(error, "message", error)
        raise DataError(f"{path} cannot be read as a JSON Schema ({message}).") from None
    return kind(schema)


def digest(text: str) -> bytes:
    """A short stand-in for a text that is only compared."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).digest()


def add(known: set[bytes], one: bytes) -> bool:
    """Add to a set; False if it was there."""
    before = len(known)
    known.add(one)
    return len(known) > before


def draw(sizes: Counter, characters: Counter) -> bytes:
    """A PNG of the pictures' sizes and the characters' frequencies, side by side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    widths, heights = zip(*sizes)
    counts = [sizes[size] for size in sizes]
    left.scatter(widths, heights, s=[4 + count**0.5 for count in counts], alpha=0.4, linewidths=0)
    left.set(xscale="log", yscale="log", xlabel="width, pixels", ylabel="height, pixels")
    left.set_title(f"{sum(counts):,} pictures")
    ranked = [count for _, count in characters.most_common()]
    right.plot(range(1, len(ranked) + 1), ranked, marker=".")
    right.set(xscale="log", yscale="log", xlabel="rank of the character", ylabel="times")
    right.set_title(f"{len(ranked):,} characters, {sum(c == 1 for c in ranked):,} of them once")
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100)
    return buffer.getvalue()


def describe(result: dict, dataset: str) -> str:
    """The findings as a table for a person."""
    splits = ", ".join(f"{split} {count:,}" for split, count in result["rows"].items())
    lines = [f"{dataset}: {sum(result['rows'].values()):,} rows ({splits})"]
    for level in ("errors", "warnings"):
        for kind, count in result[level].items():
            lines.append(f"  {level[:-1]:<8}{count:>9,}  {kind}")
            lines += [f"{'':<21}{one_line(place)}"[:160] for place in result["examples"][kind][:2]]
    lines.append("valid" if result["ok"] else "not valid: see validation.json")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; exit code 1 where the dataset has an error."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.validate",
        description="Check a dataset folder; writes validation.json and validation.png into it.",
    )
    add_argument = parser.add_argument
    add_argument("dataset", metavar="DIR")
    add_argument("--schema", metavar="FILE", help="JSON Schema of extraction completions")
    add_argument("--tokenizer", metavar="FILE", help="tokenizer.json that must spell the texts")
    add_argument("--max-characters", type=COUNT, default=4000, metavar="N")
    add_argument("--workers", type=WORKERS, default=os.cpu_count() or 1)
    add_argument(
        "--overwrite", action="store_true", help="replace files that ocrkit did not write, too"
    )
    given = parse_arguments(parser, arguments)

    def work() -> int:
        result = validate(
            given.dataset,
            schema=given.schema,
            tokenizer=given.tokenizer,
            max_characters=given.max_characters,
            workers=given.workers,
            overwrite=given.overwrite,
        )
        print(describe(result, given.dataset))
        return 0 if result["ok"] else 1

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
