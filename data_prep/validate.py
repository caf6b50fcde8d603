"""Checks a dataset folder before training: `python -m data_prep.validate DIR`.

It reads an imagefolder, `--layout messages` and `--format parquet`. Errors would break or falsify
a training run; warnings are for a person to look at.
Writes DIR/validation.json, and DIR/validation.png with the pictures' sizes and the characters.
"""

import argparse
import contextlib
import hashlib
import importlib
import io
import json
import os
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.dataset.check import ERROR, batches, check_batch, completion_of, load_schema
from data_prep.dataset.command import COUNT, WORKERS, exit_code, expand_home, parse_arguments
from data_prep.dataset.manifest import check_own, write_folder
from data_prep.dataset.other_trainers import WRITERS
from data_prep.dataset.schema import (
    SPLITS,
    DataError,
    Row,
    UsageError,
    one_line,
    parse_json,
)
from data_prep.dataset.split import page_key, page_of
from data_prep.dataset.workers import ordered_map

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from tqdm.auto import tqdm

EXAMPLES = 5  # places listed for each kind of finding


class Findings:
    """Counts errors and warnings by kind, with the first places of each."""

    def __init__(self) -> None:
        self.errors: Counter[str] = Counter()
        self.warnings: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}

    def error(self, kind: str, place: str) -> None:
        """Note an error."""
        self._note(self.errors, kind, place)

    def warn(self, kind: str, place: str) -> None:
        """Note a warning."""
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
    progress: bool = True,
) -> dict:
    """Check the folder `dataset`, of any layout; returns (and writes) validation.json.

    Args:
        dataset: the folder that convert or synthesize made.
        schema: a JSON Schema that the completions of extraction rows must satisfy.
        tokenizer: a tokenizer.json; characters that it cannot give back are warned of.
        max_characters: completions longer than this are warned of.
        workers: processes that open pictures.
        plot: whether to draw validation.png.
        overwrite: replace files of these names that the kit did not write, too.
        progress: whether to draw a progress bar on stderr.

    Raises:
        UsageError: `max_characters` or `workers` is under 1.
        FileExistsError: the folder holds such a file.
        DataError: `dataset`, `schema` or `tokenizer` cannot be read at all.
    """
    for name, value in (("max-characters", max_characters), ("workers", workers)):
        if value < 1:
            raise UsageError(f"--{name} is {value}, but takes a count of 1 or more.")
    dataset, schema, tokenizer = map(expand_home, (Path(dataset), schema, tokenizer))
    check_own(dataset, ["validation.json", *(["validation.png"] if plot else [])], overwrite)
    layout, files = find_files(dataset)
    checked = {"schema": load_schema(schema) if schema else None, "max_characters": max_characters}
    findings = Findings()
    rows: Counter[str] = Counter()
    seen = Seen()
    characters: dict[str, Counter[str]] = {split: Counter() for split in files}
    sizes: Counter[tuple[int, int]] = Counter()
    if plot:
        threading.Thread(target=_import_matplotlib, daemon=True).start()
    bar = progress_bar(dataset, progress)
    with bar:
        for split in files:
            folder = str(dataset / split if layout == "imagefolder" else dataset)
            work = partial(check_batch, layout=layout, folder=folder, split=split, **checked)
            for results in ordered_map(work, batches(dataset, files[split]), workers):
                for place, check in results:
                    rows[split] += 1
                    for level, kind, detail in check.problems:
                        note = findings.error if level == ERROR else findings.warn
                        note(kind, f"{place}: {detail}")
                    if check.row is None:
                        continue
                    seen.check(check.row, check.digests, place, split, findings)
                    characters[split].update(completion_of(check.row))
                    sizes[check.row.width, check.row.height] += 1
                bar.update(len(results))
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
    """Find the layout of a dataset folder, and the files with the rows of each split.

    Raises:
        DataError: it holds no rows, or rows for other trainers.
    """
    format = stated_format(dataset)
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
        files = {split: sorted(dataset.glob(pattern.format(split))) for split in SPLITS}
        if any(files.values()):
            return layout, {split: paths for split, paths in files.items() if paths}
    raise DataError(
        f"{dataset} has no <split>/metadata.jsonl, no <split>.jsonl and no data/<split>-*.parquet; "
        "name a folder that convert made."
    )


def stated_format(dataset: Path) -> object:
    """The --format that dataset.json states; None without any."""
    try:
        return read_summary(dataset)["options"].get("format")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def progress_bar(dataset: Path, shown: bool) -> "tqdm":
    """Make the progress bar of a check; its total is the count of rows in dataset.json."""
    from tqdm.auto import tqdm

    try:
        total = sum(read_summary(dataset)["rows"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        total = None
    return tqdm(desc="validate", total=total, unit=" rows", disable=not shown, mininterval=0.5)


class Seen:
    """Ids, groups and pictures of the rows checked so far, to find those that occur twice."""

    def __init__(self) -> None:
        self.ids: set[bytes] = set()
        self.groups: dict[bytes, str] = {}  # the split of each
        self.pages: dict[int, str] = {}
        self.pictures: dict[bytes, tuple[str, str]] = {}  # the split and the text of each

    def check(
        self, row: Row, pictures: list[bytes], place: str, split: str, findings: Findings
    ) -> None:
        """Note duplicate ids, and groups, pages and pictures that lie in two splits."""
        row_id = digest(row.id)
        if row_id in self.ids:
            findings.error("duplicate id", f"{place}: {row.id}")
        self.ids.add(row_id)
        if self.groups.setdefault(digest(row.group), split) != split:
            findings.error("group in two splits", f"{place}: {row.group}")
        elif self.pages.setdefault(page_key(row.group), split) != split:
            # Datasets whose groups were made without the patterns of file names.
            detail = f"{place}: {row.group} is of the page {page_of(row.group)}"
            findings.warn("page in two splits, as its name says", detail)
        text = completion_of(row)
        for picture in pictures:
            first_split, first_text = self.pictures.setdefault(picture, (split, text))
            if first_split != split:
                findings.error("picture in two splits", f"{place}: also in {first_split}")
            elif first_text != text and row.task == "transcription":
                findings.warn("one picture with two texts", f"{place}: {text[:80]}")


def check_counts(dataset: Path, rows: Counter, findings: Findings) -> None:
    """Note where dataset.json states other counts of rows than the splits have."""
    try:
        stated = read_summary(dataset)["rows"]
    except (OSError, ValueError, KeyError) as error:
        findings.error("dataset.json cannot be read", str(error))
        return
    if stated != dict(rows):
        findings.error("dataset.json counts otherwise", f"{stated}, but {dict(rows)} are here")


def read_summary(dataset: Path) -> dict:
    """The content of dataset.json; OSError or ValueError where it cannot be read."""
    summary = parse_json((dataset / "dataset.json").read_bytes())
    if not isinstance(summary, dict):
        raise ValueError(f"it holds no object but {type(summary).__name__}")
    return summary


def check_characters(
    characters: dict[str, Counter], tokenizer: str | Path | None, findings: Findings
) -> None:
    """Note characters that training never shows, or that the tokenizer cannot spell."""
    if "train" in characters:
        for split in characters.keys() - {"train"}:
            for character in sorted(characters[split].keys() - characters["train"].keys()):
                name = f"{character} U+{ord(character):04X}"
                findings.warn("character that training never shows", f"{split}: {name}")
    if tokenizer:
        for character in unknown_characters(tokenizer, sum(characters.values(), Counter())):
            name = f"{character} U+{ord(character):04X}"
            findings.warn("character that the tokenizer cannot spell", name)


def unknown_characters(tokenizer: str | Path, characters: Counter) -> list[str]:
    """Characters that encoding and decoding with a tokenizer do not give back."""
    from tokenizers import Tokenizer

    try:
        model = Tokenizer.from_file(str(tokenizer))
    except Exception as error:  # its errors are bare Exceptions
        raise DataError(f"{tokenizer} cannot be read as a tokenizer.json ({error}).") from None
    # Between letters, as some decoders trim the ends.
    return [
        c
        for c in sorted(characters)
        if c not in model.decode(model.encode(f"a{c}a", add_special_tokens=False).ids)
    ]


def digest(text: str) -> bytes:
    """A short hash of a text that is only compared."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).digest()


def draw(sizes: Counter, characters: Counter) -> bytes:
    """Draw the pictures' sizes and the characters' frequencies side by side, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4))
    FigureCanvasAgg(figure)
    margins = {"left": 0.09, "right": 0.98, "bottom": 0.13, "top": 0.92, "wspace": 0.24}
    left, right = figure.subplots(1, 2, gridspec_kw=margins)
    widths, heights = zip(*sizes)
    counts = [sizes[size] for size in sizes]
    left.scatter(widths, heights, s=[4 + count**0.5 for count in counts], alpha=0.4, linewidths=0)
    left.set(xlabel="width, pixels", ylabel="height, pixels")
    left.set_title(f"{sum(counts):,} pictures")
    _set_ticks(left, widths, heights, digits=(1, 2, 5))
    ranked = [count for _, count in characters.most_common()]
    right.plot(range(1, len(ranked) + 1), ranked, marker=".")
    right.set(xlabel="rank of the character", ylabel="times")
    right.set_title(f"{len(ranked):,} characters, {sum(c == 1 for c in ranked):,} of them once")
    _set_ticks(right, (1, len(ranked)), ranked, digits=(1,))
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100)
    return buffer.getvalue()


def _set_ticks(
    axes: "Axes", across: Sequence[int], upward: Sequence[int], digits: tuple[int, ...]
) -> None:
    """Make both axes logarithmic, with ticks at round numbers, or at the ends without two such.

    Args:
        across: what the x-axis shows; `upward`: what the y-axis does, each at least 1.
        digits: of a round number, before its zeros.
    """
    axes.set(xscale="log", yscale="log")
    axes.minorticks_off()
    for axis, values in ((axes.xaxis, across), (axes.yaxis, upward)):
        low, high = min(values, default=1), max(values, default=1)
        powers = range(len(str(high)))
        ticks = [n * 10**power for power in powers for n in digits if low <= n * 10**power <= high]
        axis.set_ticks(ticks if len(ticks) > 1 else sorted({low, high}), minor=False)
        axis.set_major_formatter("{x:,.0f}")


def _import_matplotlib() -> None:
    """Import what `draw` needs, while worker processes start; `draw` says what is missing."""
    with contextlib.suppress(ImportError):
        for module in ("matplotlib.backends.backend_agg", "matplotlib.figure"):
            importlib.import_module(module)


def describe(result: dict, dataset: str) -> str:
    """Format the findings for the terminal."""
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
    options = parse_arguments(parser, arguments)

    def work() -> int:
        result = validate(
            options.dataset,
            schema=options.schema,
            tokenizer=options.tokenizer,
            max_characters=options.max_characters,
            workers=options.workers,
            overwrite=options.overwrite,
        )
        print(describe(result, options.dataset))
        return 0 if result["ok"] else 1

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
