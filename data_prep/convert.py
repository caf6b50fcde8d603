"""Conversion of datasets to an imagefolder: `python -m data_prep.convert --help`.

The file is long because the command's help makes up a third of it.
"""

import argparse
import difflib
import importlib
import lzma
import os
import pkgutil
import re
import sys
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from data_prep import sources
from data_prep.dataset.command import (
    COUNT,
    SEED,
    WORKERS,
    check_choice,
    check_count,
    exit_code,
    expand_home,
    int_option,
    parse_arguments,
)
from data_prep.dataset.schema import (
    PROMPTS,
    DataError,
    FileRefused,
    Item,
    Reject,
    UsageError,
    printable,
)
from data_prep.dataset.split import page_of, parse_shares
from data_prep.dataset.write import add_output_options, check_output, write_dataset


def convert(
    source: str,
    inputs: str | Path | list[str | Path],
    out: str | Path,
    *,
    task: str | None = None,
    split: str = "source",
    seed: int = 0,
    workers: int = 1,
    limit: int | None = None,
    prompt: str | None = None,
    layout: str = "prompt_completion",
    format: str = "imagefolder",
    group_pattern: str | None = None,
    encoding: str | None = None,
    progress: bool = True,
    **options: object,
) -> dict:
    """Convert `inputs` of a source format to the dataset folder `out`; returns its dataset.json.

    The write is atomic: everything is written to `.<out>.partial` beside the folder, which is
    renamed at the end. A finished folder of the same command is left as it is. The result does not
    depend on `workers` (processes; a script with more than one needs `if __name__ == "__main__"`).

    Args:
        source: name of a format, as `source_names()` lists them.
        inputs: files or folders that together make one dataset; archives of labels and of their
            pictures may be two of them where the source says so.
        out: the dataset folder.
        task: one of the source's tasks; None takes its first.
        split: "source" for the format's own splits, or shares such as "0.8,0.1,0.1". A source
            without splits of its own gets 0.8,0.1,0.1 either way.
        seed: of the shuffle of groups before they are dealt to splits.
        workers: processes that read and crop pictures.
        limit: stop after this many source items.
        prompt: replaces the task's default prompt (questions keep their own).
        layout: "prompt_completion", or "messages" for ms-swift and LLaMA-Factory.
        format: "imagefolder"; "parquet" with the pictures inside, for the Hub and streaming;
            "pairs" of `<id>.png` and `<id>.gt.txt`, for Tesseract, kraken and Calamari; or "donut".
        group_pattern: takes (?P<group>...) out of the name of an item's group (a picture's path
            where the source knows no better), to keep what belongs together in one split; without
            it `GROUP_PATTERNS` of `data_prep.dataset.split` join crops and lines of a page.
        encoding: of label files that are not UTF-8 or UTF-16, and of names in archives that are
            not UTF-8, such as "gbk"; None detects those of Chinese, Korean and Japanese.
        progress: whether to draw a progress bar on stderr.
        options: the source's own, see its `OPTIONS`.

    Raises:
        UsageError: an argument does not exist or has an invalid value.
        DataError: the input holds no data of the source, or `out` holds something else.
    """
    module = load_source(source)
    listed = [inputs] if isinstance(inputs, str | Path) else inputs
    paths = [str(expand_home(path)) for path in listed]
    options = {name: expand_home(value) for name, value in options.items()}
    shares = parse_shares(split)
    settings = {
        "task": check_choice("task", task or module.TASKS[0], module.TASKS),
        "split": split,
        "seed": seed,
        "limit": limit,
        "prompt": prompt,
        "layout": layout,
        "format": format,
        **({"group_pattern": group_pattern} if group_pattern else {}),
        **({"encoding": check_encoding(encoding)} if encoding else {}),
        **check_options(source, module, options),
    }
    check_output(layout, format)
    check_count("limit", limit)
    check_count("workers", workers)
    if not all(path.strip() for path in paths) or not paths:
        raise UsageError("No INPUT is given, or an empty one: name at least one file or folder.")

    states_split: Counter[bool] = Counter()
    notes: list[str] = []

    def items() -> Iterator[Item | Reject]:
        for item in find_items(source, module, paths, settings, notes):
            if isinstance(item, Item):
                states_split[item.split is not None] += 1
            yield item

    hint = f"; it is used as: {source} {module.EXAMPLE}"
    result = write_dataset(
        items, out, source, paths, settings, shares, workers, progress, hint, notes=notes
    )
    if progress:
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
    if progress and shares is None and states_split[True] and states_split[False]:
        print(
            f"note: the input does not say whether {states_split[False]:,} of its items are for "
            "training or testing, so they are in train; --split 0.8,0.1,0.1 deals all items anew.",
            file=sys.stderr,
        )
    return result


def source_names() -> list[str]:
    """List the names of all sources."""
    names = [module.name for module in pkgutil.iter_modules(sources.__path__)]
    return [name.replace("_", "-") for name in names if not name.startswith("_")]


def load_source(name: str) -> ModuleType:
    """Import the module of a source; UsageError suggests the nearest name for an unknown one."""
    if name not in source_names():
        near = difflib.get_close_matches(name, source_names(), 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UsageError(f"No source is called {name!r}; {hint}--list shows all of them.")
    return importlib.import_module(f"{sources.__name__}.{name.replace('-', '_')}")


def check_encoding(name: str) -> str:
    """Return the name of an encoding if Python knows it, otherwise raise a UsageError."""
    try:
        "".encode(name)
    except (LookupError, ValueError):  # ValueError: the name is no text
        raise UsageError(
            f"--encoding is {name!r}, but takes an encoding that Python knows, such as gbk, big5, "
            "cp949 or cp932."
        ) from None
    return name


def check_options(source: str, module: ModuleType, options: dict) -> dict:
    """Merge a source's own options with its defaults; UsageError for one that it does not take."""
    for name in options:
        if name not in module.OPTIONS:
            takes = ", ".join("--" + o.replace("_", "-") for o in module.OPTIONS) or "none"
            raise UsageError(
                f"--{name.replace('_', '-')} is no option of {source}; its own are: {takes}."
            )
    if "language" in options:
        check_language(options["language"])
    return module.OPTIONS | options


def check_language(code: str) -> None:
    """Raise a UsageError for a language that is no BCP 47 tag, which metrics go by."""
    if not re.fullmatch(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{1,8})*", code):
        raise UsageError(
            f"--language is {code!r}, but takes a language's code, such as en, bn, ko or zh-Hans."
        )


def find_items(
    source: str, module: ModuleType, inputs: list[str], settings: dict, notes: list[str]
) -> Iterator[Item | Reject]:
    """Read all items of a source, with ids that are unique over all inputs.

    The source adds its remarks on the input as a whole to `notes`.
    """
    # Sources that accept labels and pictures as separate inputs search all of them.
    options = SimpleNamespace(**settings, inputs=inputs, notes=notes)
    group_of = grouping(settings)
    count = 0
    for path, prefix in zip(inputs, input_prefixes(inputs)):
        for item in readable(module.rows(path, options), path):
            if isinstance(item, Item):
                item.key = f"{source}-{prefix}{item.key}"
                # A row is kept even if the file name is no UTF-8.
                item.group = printable(group_of(item.group))
                if not getattr(module, "GROUPS_SPAN_INPUTS", False):
                    item.group = prefix + item.group
                for picture in item.pictures:
                    picture.name = picture.name and prefix + picture.name
                if item.prompt is None or (settings["prompt"] and item.task != "vqa"):
                    item.prompt = settings["prompt"] or item.prompt or PROMPTS[item.task]
            elif prefix:
                item.where = f"{path}: {item.where}"
            yield item
            count += 1
            if count == settings["limit"]:
                return


def readable(items: Iterator[Item | Reject], path: str) -> Iterator[Item | Reject]:
    """The items of an INPUT; DataError where a file of labels in an archive cannot be read."""
    from data_prep.dataset.pictures import PictureError

    try:
        yield from items
    except FileRefused as error:
        raise DataError(str(error)) from None
    except (
        PictureError,
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        tarfile.TarError,
    ) as error:
        detail = " ".join(str(getattr(error, "detail", error)).split())
        raise DataError(
            f"{path} cannot be read ({detail}); take that file out, or unpack the archive."
        ) from None


def grouping(settings: dict) -> Callable[[str], str]:
    """Return the function that makes a group of a source's name: `--group-pattern` or `page_of`."""
    pattern = settings.get("group_pattern")
    if not pattern:
        # Groups of a column or of --pattern are no names of pictures.
        explicit = settings.get("group_column") or "(?P<group>" in (settings.get("pattern") or "")
        return str if explicit else page_of
    try:
        compiled: re.Pattern[str] = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"--group-pattern {pattern!r} is no pattern: {error}.") from None
    if "group" not in compiled.groupindex:
        raise UsageError(f"--group-pattern {pattern!r} has no group named group: (?P<group>...).")

    def group_of(name: str) -> str:
        match = compiled.search(name)
        return match["group"] or name if match else name

    return group_of


def input_prefixes(inputs: list[str]) -> list[str]:
    """Prefixes that make the ids of several inputs unique; empty for a single input."""
    if len(inputs) == 1:
        return [""]
    names: list[str] = []
    for path in inputs:
        name = sources.slug(Path(path).name or Path(path).resolve().name)
        names.append(name if name not in names else f"{name}.{len(names) + 1}")
    return [f"{name}-" for name in names]


# --- the command ---

GUIDE = """\
examples:
  python -m data_prep.convert sroie receipts/ --task lines --out data/sroie
  python -m data_prep.convert table labels.csv --image-column file --text-column label --out mine
  python -m data_prep.convert hwdb-dgrl HWDB2.0Train HWDB2.0Test --workers 4 --out data/hwdb

--list shows every source with an example. OUT holds <split>/metadata.jsonl with pictures beside it,
which load_dataset("imagefolder", data_dir=OUT) reads as it is; dataset.json with all counts; and
rejects.jsonl with what could not become a row, and why. Rows and rejects add up to what was found.
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line. Options of single sources are checked against the source afterwards."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.convert",
        description="Convert a dataset for reading to a folder that trainers take as it is.",
        epilog=GUIDE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("source", metavar="SOURCE", help="format of the input; --list shows all")
    add("inputs", metavar="INPUT", nargs="+", help="files or folders; together one dataset")
    add("--out", required=True, metavar="DIR", help="the dataset folder to make")
    add("--task", help="what to read, where a source offers several (see --list)")
    add(
        "--split",
        default="source",
        metavar="HOW",
        help="'source': the format's own splits (default); or shares of train, validation and test "
        "such as 0.8,0.1,0.1, dealt by document or writer",
    )
    add("--seed", type=SEED, default=0, help="of the shuffle behind shares (default 0)")
    add("--workers", type=WORKERS, default=None, help="processes (default: one per core)")
    add("--limit", type=COUNT, metavar="N", help="stop after N source items")
    add("--prompt", help="what to ask for, instead of the task's default")
    add_output_options(parser)
    add(
        "--group-pattern",
        metavar="REGEX",
        help="takes (?P<group>...) out of a picture's path: what shares it is kept in one split "
        "(by default crops and lines named <page>_crop_<n>, <page>_line_<n>, <page>-p<n>)",
    )
    add(
        "--encoding",
        metavar="NAME",
        help="of label files, and of names in archives, that are not UTF-8, such as gbk",
    )
    own = parser.add_argument_group("options of single sources (see --list)")
    own.add_argument("--image-column", metavar="NAME", help="column with the picture's path")
    own.add_argument("--text-column", metavar="NAME", help="column with the text")
    own.add_argument("--group-column", metavar="NAME", help="column with the document or writer")
    own.add_argument("--split-column", metavar="NAME", help="column with train, validation or test")
    own.add_argument("--pattern", metavar="REGEX", help="takes (?P<text>...) out of a file's name")
    own.add_argument("--images", metavar="DIR", help="where pictures lie, if not beside the labels")
    own.add_argument(
        "--keep-illegible",
        action="store_true",
        default=None,
        help="keep what a format marks as unreadable (difficult, ###, xxx) as text",
    )
    own.add_argument("--knowledge", metavar="PATH", help="SemArt, put before its questions")
    own.add_argument(
        "--dpi",
        type=int_option(at_least=10, at_most=1200),
        help="resolution of PDF pages (default 150)",
    )
    own.add_argument("--classes", metavar="FILE", help="table of class folder and its text")
    own.add_argument("--invert", action="store_true", default=None, help="dark ink on light paper")
    own.add_argument("--render", metavar="HOW", help="finscribe: draw the text or the fields")
    own.add_argument("--language", metavar="CODE", help="language of the texts, such as bn or ko")
    return parser


COMMON = (
    *("source", "inputs", "out", "task", "split", "seed", "workers", "limit", "prompt"),
    *("layout", "format", "group_pattern", "encoding"),
)


def list_sources() -> str:
    """Format the list of sources: name, summary and example of each."""
    lines = []
    for name in source_names():
        module = load_source(name)
        lines.append(f"{name:<16}{(module.__doc__ or '').splitlines()[0]}")
        lines.append(f"{'':<16}  python -m data_prep.convert {name} {module.EXAMPLE}")
        if len(module.TASKS) > 1:
            lines.append(f"{'':<16}  --task {'|'.join(module.TASKS)}")
    return "\n".join(lines)


def describe(result: dict, out: str) -> str:
    """Format the result of a conversion for the terminal."""
    rows, rejects = result["rows"], result["rejects"]
    splits = ", ".join(f"{split} {count:,}" for split, count in rows.items())
    lines = [
        f"{out}: {result['found']:,} found = {sum(rows.values()):,} rows ({splits}) "
        f"+ {sum(rejects.values()):,} rejects"
    ]
    lines += [f"  {count:>9,}  {reason}" for reason, count in rejects.items()]
    if frames := result.get("first_frames"):
        lines.append(f"{frames:,} pictures hold several frames; the first of each is shown.")
    if result["options"]["layout"] == "messages":
        name = Path(out).name
        lines.append(f"LLaMA-Factory: dataset_dir: {out}, dataset: {name}_{next(iter(rows))}")
        lines.append(
            f"ms-swift: ROOT_IMAGE_DIR={out} swift sft --dataset {out}/{next(iter(rows))}.jsonl"
        )
    if result["options"]["split"] == "source" and len(rows) == 1:
        lines.append(
            f"All rows are {next(iter(rows))}: the input says so (--split 0.8,0.1,0.1 overrules "
            "it), or they are of one document or writer."
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if "--list" in arguments:
        return exit_code(lambda: print(list_sources()) or 0)
    options = vars(parse_arguments(build_parser(), arguments))
    own = {k: v for k, v in options.items() if k not in COMMON and v is not None}
    common: dict[str, Any] = {k: options[k] for k in COMMON}
    if common["workers"] is None:
        common["workers"] = os.cpu_count() or 1

    def work() -> int:
        existed = (Path(options["out"]) / "dataset.json").exists()
        result = convert(**common, **own)
        if existed:
            print(f"{options['out']} exists already, made by this very command.")
        print(describe(result, options["out"]))
        return 0

    return exit_code(work, "nothing is left behind, run it again")


if __name__ == "__main__":
    sys.exit(main())
