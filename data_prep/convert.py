"""Converts a dataset in a known format to an imagefolder: `python -m data_prep.convert --help`."""

import argparse
import contextlib
import difflib
import hashlib
import importlib
import json
import os
import pkgutil
import shutil
import sys
import threading
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

from . import sources
from .schema import (
    PROMPTS,
    SPLITS,
    DataError,
    Item,
    Message,
    Picture,
    Reject,
    Row,
    Summary,
    UsageError,
    clean_text,
    dump_json,
    is_unicode,
)
from .split import DEFAULT_SHARES, assign_splits, group_key, parse_shares

FORMATS = ("imagefolder", "parquet")
LAYOUTS = ("prompt_completion", "messages")
BATCH_ITEMS = 64
BATCH_BYTES = 4 * 2**20


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
    progress: bool = True,
    **options: object,
) -> dict:
    """Convert `inputs` of a source format to the dataset folder `out`; returns its dataset.json.

    The folder appears whole or not at all: everything is written beside it, to `.<out>.partial`,
    and renamed at the end. A finished folder of the same command is left as it is. The result does
    not depend on `workers` (processes; a script that asks for more than one needs the usual
    `if __name__ == "__main__"`).

    Args:
        source: name of a format, as `source_names()` lists them.
        inputs: files or folders that together make one dataset.
        out: the dataset folder to make.
        task: one of the source's tasks; None takes its first.
        split: "source" for the format's own splits, or shares such as "0.8,0.1,0.1". A source
            without splits of its own gets 0.8,0.1,0.1 either way.
        seed: of the shuffle of groups that shares are dealt by.
        workers: processes that read and cut pictures.
        limit: stop after this many source items.
        prompt: what to ask for, instead of the task's default (questions keep their own).
        layout: "prompt_completion", or "messages" for ms-swift and LLaMA-Factory.
        format: "imagefolder", or "parquet" with the pictures inside, for the Hub and streaming.
        progress: whether to draw a progress bar on stderr.
        options: the source's own, see its `OPTIONS`.

    Raises:
        UsageError: an argument does not exist or has no such value.
        DataError: the input holds nothing of the source, or `out` holds something else.
    """
    module = load_source(source)
    if isinstance(inputs, str | Path):
        inputs = [inputs]
    inputs = [str(path) for path in inputs]
    shares = parse_shares(split)
    settings = {
        "task": check_choice("task", task or module.TASKS[0], module.TASKS),
        "split": split,
        "seed": seed,
        "limit": limit,
        "prompt": prompt,
        "layout": check_choice("layout", layout, LAYOUTS),
        "format": check_choice("format", format, FORMATS),
        **check_options(source, module, options),
    }
    if format == "parquet" and layout != "prompt_completion":
        raise UsageError("--format parquet has --layout prompt_completion only.")
    if limit is not None and limit < 1:
        raise UsageError(f"--limit is {limit}, but takes a count of 1 or more.")
    if workers < 1:
        raise UsageError(f"--workers is {workers}, but takes a count of 1 or more.")
    if not inputs:
        raise UsageError("No INPUT is given: name at least one file or folder.")

    def found() -> Iterator[Item | Reject]:
        return find_items(source, module, inputs, settings)

    return write_dataset(found, out, source, inputs, settings, shares, workers, progress)


def write_dataset(
    items: Callable[[], Iterable[Item | Reject]],
    out: str | Path,
    source: str,
    inputs: list[str],
    settings: dict,
    shares: tuple[float, ...] | None,
    workers: int = 1,
    progress: bool = True,
) -> dict:
    """Write items as the dataset folder `out`; returns its dataset.json.

    Args:
        items: called once, and only where `out` does not already hold this very dataset.
        settings: what decides the result; it must hold `seed` and `layout`.
        shares: of train, validation and test; None keeps the splits that items name.
    """
    out = Path(out)
    if done := finished(out, source, inputs, settings):
        return done
    with staging_folder(out) as staging:
        summary = Summary()
        keys, official = write_rows(items(), staging, settings, workers, progress, summary, source)
        if not keys:
            raise DataError(nothing_found(source, inputs, summary))
        if shares is None and any(official):
            # A row whose part is not stated must not land in a test set.
            places = [code - 1 if code else 0 for code in official]
        else:
            places = assign_splits(keys, shares or DEFAULT_SHARES)
        deal_rows(staging, places, settings["layout"], summary)
        if settings.get("format") == "parquet":
            pack_parquet(staging, summary)
        result = summary.to_dict(source, inputs, settings)
        text = json.dumps(result, ensure_ascii=False, indent=1)
        (staging / "dataset.json").write_text(text + "\n", encoding="utf-8")
        publish(staging, out)
    return result


def source_names() -> list[str]:
    """The names of all sources."""
    names = [module.name for module in pkgutil.iter_modules(sources.__path__)]
    return [name.replace("_", "-") for name in names if not name.startswith("_")]


def load_source(name: str) -> ModuleType:
    """The module of a source; UsageError names the nearest for a name that is none."""
    if name not in source_names():
        near = difflib.get_close_matches(name, source_names(), 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UsageError(f"No source is called {name!r}; {hint}--list shows all of them.")
    return importlib.import_module(f"{sources.__name__}.{name.replace('-', '_')}")


def check_choice(option: str, value: str, choices: Iterable[str]) -> str:
    """The value if it is one of the choices, otherwise a UsageError that names them."""
    if value not in choices:
        raise UsageError(f"--{option} is {value!r}, but takes one of {', '.join(choices)} here.")
    return value


def check_options(source: str, module: ModuleType, given: dict) -> dict:
    """The source's own options with their defaults; UsageError for one that it does not take."""
    for name in given:
        if name not in module.OPTIONS:
            takes = ", ".join("--" + o.replace("_", "-") for o in module.OPTIONS) or "none"
            raise UsageError(
                f"--{name.replace('_', '-')} is no option of {source}; its own are: {takes}."
            )
    return module.OPTIONS | given


def finished(out: Path, source: str, inputs: list[str], options: dict) -> dict | None:
    """The dataset.json of `out` where this very command made it; DataError if other files do."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        found = json.loads((out / "dataset.json").read_text(encoding="utf-8"))
        asked = {"source": source, "inputs": inputs, "options": options}
        if {key: found[key] for key in asked} == json.loads(json.dumps(asked)):
            return found
        held = f"a dataset made from {found['source']} with other inputs or options"
    except (OSError, ValueError, KeyError, TypeError):
        held = "something else"
    raise DataError(f"{out} already holds {held}; choose another --out or remove it.")


def nothing_found(source: str, inputs: list[str], summary: Summary) -> str:
    """The sentence for a conversion without a row."""
    where = ", ".join(inputs)
    if not summary.found:
        example = load_source(source).EXAMPLE
        return f"{where}: nothing of {source} is here; it is used as: {source} {example}"
    reasons = ", ".join(f"{count} {reason}" for reason, count in summary.rejects.most_common(3))
    return f"{where}: none of {summary.found} items became a row ({reasons})."


# --- from items to staged rows ---


def find_items(
    source: str, module: ModuleType, inputs: list[str], settings: dict
) -> Iterator[Item | Reject]:
    """Everything the source finds, with ids that are unique over all inputs."""
    options = SimpleNamespace(**settings)
    found = 0
    for path, prefix in zip(inputs, input_prefixes(inputs)):
        for item in module.rows(path, options):
            if isinstance(item, Item):
                item.key = f"{source}-{prefix}{item.key}"
                if not getattr(module, "GROUPS_SPAN_INPUTS", False):
                    item.group = prefix + item.group
                for picture in item.pictures:
                    picture.name = picture.name and prefix + picture.name
                if item.prompt is None or (settings["prompt"] and item.task != "vqa"):
                    item.prompt = settings["prompt"] or item.prompt or PROMPTS[item.task]
            elif prefix:
                item.where = f"{path}: {item.where}"
            yield item
            found += 1
            if found == settings["limit"]:
                return


def input_prefixes(inputs: list[str]) -> list[str]:
    """What tells the ids of several inputs apart; nothing where there is only one."""
    if len(inputs) == 1:
        return [""]
    names: list[str] = []
    for path in inputs:
        name = sources.slug(Path(path).name or Path(path).resolve().name)
        names.append(name if name not in names else f"{name}.{len(names) + 1}")
    return [f"{name}-" for name in names]


def write_rows(
    items: Iterable[Item | Reject],
    staging: Path,
    settings: dict,
    workers: int,
    progress: bool,
    summary: Summary,
    source: str,
) -> tuple[array, array]:
    """Write pictures, rows.jsonl and rejects.jsonl to the staging folder, in the source's order.

    Returns, a row each, the key of its group and 1 + the index of its official split (0: none).
    """
    from tqdm.auto import tqdm

    keys, official = array("Q"), array("B")
    for folder in range(256):
        (staging / "images" / f"{folder:02x}").mkdir(parents=True)
    work = partial(process_batch, staging=str(staging), source=source)
    bar = tqdm(desc=source, unit=" items", disable=not progress, mininterval=0.5, smoothing=0.05)
    with (
        bar,
        (staging / "rows.jsonl").open("w", encoding="utf-8", newline="\n") as rows,
        (staging / "rejects.jsonl").open("w", encoding="utf-8", newline="\n") as rejects,
    ):
        for results in ordered_map(work, batches(items), workers):
            for outcome, split in results:
                summary.add(outcome)
                (rows if isinstance(outcome, Row) else rejects).write(outcome.to_json() + "\n")
                if isinstance(outcome, Row):
                    keys.append(group_key(settings["seed"], outcome.group))
                    official.append(1 + SPLITS.index(split) if split else 0)
            bar.update(len(results))
            if summary.rejects:
                bar.set_postfix(rejects=summary.rejects.total(), refresh=False)
    return keys, official


def batches(items: Iterable[Item | Reject]) -> Iterator[list[Item | Reject]]:
    """Items by the dozen, fewer where they carry their pictures' bytes with them."""
    batch: list[Item | Reject] = []
    carried = 0
    for item in items:
        batch.append(item)
        carried += carried_bytes(item)
        if len(batch) == BATCH_ITEMS or carried > BATCH_BYTES:
            yield batch
            batch, carried = [], 0
    if batch:
        yield batch


def carried_bytes(item: Item | Reject) -> int:
    """Bytes of pictures that an item holds itself, instead of the place to read them from."""
    if isinstance(item, Reject):
        return 0
    return sum(
        len(value)
        for picture in item.pictures
        for value in picture.load.args
        if isinstance(value, bytes)
    )


def ordered_map(function: Callable, work: Iterable, workers: int) -> Iterator:
    """`map` over processes, in order and with few results waiting, so memory stays flat."""
    if workers == 1:
        yield from map(function, work)
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    methods = multiprocessing.get_all_start_methods()
    # Not fork: a notebook's process has threads, whose locks a fork would copy while held.
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    with ProcessPoolExecutor(workers, context, initializer=end_with_parent) as pool:
        waiting: deque = deque()
        try:
            for piece in work:
                waiting.append(pool.submit(function, piece))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise DataError(
                "A worker process died, most likely for want of memory; give fewer --workers."
            ) from None
        finally:
            for future in waiting:
                future.cancel()


def end_with_parent() -> None:
    """Let a worker end when its parent is gone, however it went."""
    import multiprocessing.connection

    def watch() -> None:
        multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def process_batch(
    batch: list[Item | Reject], staging: str, source: str
) -> list[tuple[Row | Reject, str | None]]:
    """Make rows of items and write their pictures; a picture shared by neighbours is read once."""
    from .pictures import Opened, PictureError, open_picture

    last: tuple[object, Opened | PictureError | None] = (None, None)

    def opened(picture: Picture) -> Opened:
        nonlocal last
        same = (picture.load.func, picture.load.args)
        if same != last[0]:
            try:
                last = same, open_picture(picture)
            except PictureError as error:
                last = same, error
        if isinstance(last[1], PictureError):
            raise last[1]
        return last[1]

    results: list[tuple[Row | Reject, str | None]] = []
    for item in batch:
        if isinstance(item, Reject):
            results.append((item, None))
            continue
        try:
            results.append((make_row(item, source, Path(staging), opened), item.split))
        except PictureError as error:
            results.append((Reject(item.where, error.reason, error.detail), None))
    return results


def make_row(item: Item, source: str, staging: Path, opened: Callable) -> Row | Reject:
    """Turn an item into a row, its pictures written; a text that cannot be one is a Reject."""
    from .pictures import encode, short_number

    completion = clean_text(item.text)
    prompt = item.prompt if isinstance(item.prompt, list) else [user_message(item.prompt)]
    prompt = [{"role": m["role"], "content": clean_text(m["content"])} for m in prompt]
    if not completion:
        return Reject(item.where, "empty text")
    if not any(message["content"] for message in prompt):
        return Reject(item.where, "empty prompt")
    texts = [completion, item.group, *(message["content"] for message in prompt)]
    if not all(is_unicode(text) for text in texts):
        return Reject(item.where, "text is not UTF-8", completion[:200])
    if not item.pictures:
        return Reject(item.where, "missing image", "the item names none")

    encoded = [encode(picture, opened(picture)) for picture in item.pictures]
    names, clipped = [], []
    for index, (picture, (data, extension, *_, clip)) in enumerate(zip(item.pictures, encoded)):
        name = picture.name and f"{source}-{picture.name}"
        name = name or (f"{item.key}-{index}" if len(encoded) > 1 else item.key)
        shelf = hashlib.blake2b(name.encode(), digest_size=1).hexdigest()
        names.append(f"images/{shelf}/{name}.{extension}")
        clipped.append(clip)
        if not (staging / names[-1]).exists():
            (staging / names[-1]).write_bytes(data)
    meta = item.meta
    boxes = [picture.box for picture in item.pictures if picture.box]
    if boxes:
        meta = {"box": [short_number(value) for value in boxes[0]]} | meta
    if any(clipped):
        meta = meta | {"clipped": list(clipped[0])}
    return Row(
        id=item.key,
        images_file_names=names,
        prompt=prompt,
        completion=[{"role": "assistant", "content": completion}],
        task=item.task,
        language=item.language,
        group=item.group,
        width=encoded[0][2],
        height=encoded[0][3],
        source=source,
        meta=dump_json(meta),
    )


def user_message(text: str) -> Message:
    """A prompt as a message."""
    return {"role": "user", "content": text}


# --- from staged rows to the finished folder ---


def deal_rows(staging: Path, places: Iterable[int], layout: str, summary: Summary) -> None:
    """Move staged rows and their pictures to their splits."""
    with (
        contextlib.ExitStack() as files,
        (staging / "rows.jsonl").open(encoding="utf-8", newline="\n") as rows,
    ):
        writers: dict[str, Callable] = {}
        for line, place in zip(rows, places):
            split = SPLITS[place]
            if split not in writers:
                name = {
                    "prompt_completion": f"{split}/metadata.jsonl",
                    "messages": f"{split}.jsonl",
                }
                (staging / split).mkdir()
                file = (staging / name[layout]).open("w", encoding="utf-8", newline="\n")
                writers[split] = files.enter_context(file).write
            row = json.loads(line)
            for image in row["images_file_names"]:
                move(staging / image, staging / split / image)
            summary.splits[split] += 1
            writers[split](line if layout == "prompt_completion" else as_messages(row, split))
    (staging / "rows.jsonl").unlink()
    shutil.rmtree(staging / "images")


def pack_parquet(staging: Path, summary: Summary) -> None:
    """Put the rows of every split with their pictures in parquet files, instead of the folder."""
    from .parquet import write_shards

    for split in list(summary.splits):
        with (staging / split / "metadata.jsonl").open(encoding="utf-8", newline="\n") as rows:
            write_shards(rows, staging / split, staging / "data", split)
        shutil.rmtree(staging / split)


def move(old: Path, new: Path) -> None:
    """Rename a file, its new folder made if needed. A shared picture is moved by its first row."""
    try:
        old.rename(new)
    except FileNotFoundError:
        if new.exists():
            return
        new.parent.mkdir(parents=True, exist_ok=True)
        old.rename(new)


def as_messages(row: dict, split: str) -> str:
    """A row as ms-swift and LLaMA-Factory read it: `<image>` a picture, paths from the dataset."""
    images = row.pop("images_file_names")
    messages = row.pop("prompt") + row.pop("completion")
    first = next(message for message in messages if message["role"] == "user")
    first["content"] = "<image>" * len(images) + first["content"]
    paths = [f"{split}/{image}" for image in images]
    return dump_json({"id": row.pop("id"), "messages": messages, "images": paths, **row}) + "\n"


@contextlib.contextmanager
def staging_folder(out: Path) -> Iterator[Path]:
    """An empty `.<out>.partial` beside `out`, gone afterwards, as is what a killed run left."""
    staging = out.parent / f".{out.name}.partial"
    out.parent.mkdir(parents=True, exist_ok=True)
    with locked(out.parent / f".{out.name}.lock", out):
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def locked(path: Path, out: Path) -> Iterator[None]:
    """Keep a second conversion to the same folder out, where the system knows file locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"Another conversion is writing {out}; wait for it to end.") from None
        except OSError:  # a network drive without locks
            pass
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def publish(staging: Path, out: Path) -> None:
    """Put the finished folder in its place, in one step."""
    if out.exists():
        out.rmdir()  # empty, as checked before
    staging.rename(out)


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
    add("--seed", type=int, default=0, help="of the shuffle behind shares (default 0)")
    add("--workers", type=int, default=None, help="processes (default: one a core)")
    add("--limit", type=int, metavar="N", help="stop after N source items")
    add("--prompt", help="what to ask for, instead of the task's default")
    add("--layout", default=LAYOUTS[0], choices=LAYOUTS, help="columns of a row")
    add("--format", default=FORMATS[0], choices=FORMATS, help="files, or parquet with pictures in")
    own = parser.add_argument_group("options of single sources (see --list)")
    own.add_argument("--image-column", metavar="NAME", help="column with the picture's path")
    own.add_argument("--text-column", metavar="NAME", help="column with the text")
    own.add_argument("--group-column", metavar="NAME", help="column with the document or writer")
    own.add_argument("--split-column", metavar="NAME", help="column with train, validation or test")
    own.add_argument("--pattern", metavar="REGEX", help="takes (?P<text>...) out of a file's name")
    own.add_argument("--images", metavar="DIR", help="where pictures lie, if not beside the labels")
    own.add_argument("--knowledge", metavar="FILE", help="semart.csv, put before its questions")
    own.add_argument("--dpi", type=int, help="resolution of PDF pages (default 150)")
    own.add_argument("--classes", metavar="FILE", help="table of class folder and its text")
    own.add_argument("--invert", action="store_true", default=None, help="dark ink on light paper")
    own.add_argument("--language", metavar="CODE", help="language of the texts, such as bn or ko")
    return parser


COMMON = (
    *("source", "inputs", "out", "task", "split", "seed", "workers", "limit", "prompt"),
    *("layout", "format"),
)


def list_sources() -> str:
    """Every source: its name, what it is and how it is called."""
    lines = []
    for name in source_names():
        module = load_source(name)
        lines.append(f"{name:<16}{module.__doc__.splitlines()[0]}")
        lines.append(f"{'':<16}  python -m data_prep.convert {name} {module.EXAMPLE}")
        if len(module.TASKS) > 1:
            lines.append(f"{'':<16}  --task {'|'.join(module.TASKS)}")
    return "\n".join(lines)


def describe(result: dict, out: str) -> str:
    """What came of a conversion, for a person."""
    rows, rejects = result["rows"], result["rejects"]
    splits = ", ".join(f"{split} {count:,}" for split, count in rows.items())
    lines = [
        f"{out}: {result['found']:,} found = {sum(rows.values()):,} rows ({splits}) "
        f"+ {sum(rejects.values()):,} rejects"
    ]
    lines += [f"  {count:>9,}  {reason}" for reason, count in rejects.items()]
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
        print(list_sources())
        return 0
    given = vars(build_parser().parse_args(arguments))
    own = {k: v for k, v in given.items() if k not in COMMON and v is not None}
    common = {k: given[k] for k in COMMON} | {
        "workers": os.cpu_count() or 1 if given["workers"] is None else given["workers"]
    }
    try:
        before = (Path(given["out"]) / "dataset.json").exists()
        result = convert(**common, **own)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error}; nothing is left behind, run it again.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; nothing is left behind, run it again.", file=sys.stderr)
        return 1
    if before:
        print(f"{given['out']} is there already, made by this very command.")
    print(describe(result, given["out"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
