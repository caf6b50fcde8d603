"""Writes items as a dataset folder, whole or not at all, the same whatever the number of processes.

Rows and pictures are written to a folder beside the place that they are meant for, dealt to their
splits there, and put in place by one renaming.
"""

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import shutil
import threading
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from data_prep.dataset.command import expand_home
from data_prep.dataset.files import naming
from data_prep.dataset.other_trainers import WRITERS
from data_prep.dataset.schema import (
    SPLITS,
    DataError,
    Item,
    Message,
    Part,
    Picture,
    Reject,
    Row,
    Summary,
    UsageError,
    clean_text,
    content_text,
    dump_json,
    in_parts,
    is_unicode,
    printable,
)
from data_prep.dataset.split import DEFAULT_SHARES, assign_splits, group_key, join_groups, page_key

if TYPE_CHECKING:
    import numpy as np

# Where pictures lie until their rows are dealt to splits.
STAGED = "pictures"
REJECTS = "rejects.jsonl"
FORMATS = ("imagefolder", "parquet", *WRITERS)
LAYOUTS = ("prompt_completion", "messages")
BATCH_ITEMS = 64
BATCH_BYTES = 4 * 2**20


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """The options of every command that writes a dataset: what its rows and its files look like."""
    add = parser.add_argument
    add("--layout", default=LAYOUTS[0], choices=LAYOUTS, help="columns of a row")
    add(
        "--format",
        default=FORMATS[0],
        choices=FORMATS,
        help="files (default); parquet with the pictures in; pairs of picture and .gt.txt, for "
        "Tesseract, kraken and Calamari; or Donut's metadata.jsonl",
    )


def check_output(layout: str, format: str) -> None:
    """UsageError where `--layout` and `--format` do not exist, or not together."""
    for option, value, choices in (("layout", layout, LAYOUTS), ("format", format, FORMATS)):
        if value not in choices:
            raise UsageError(
                f"--{option} is {value!r}, but takes one of {', '.join(choices)} here."
            )
    if format != FORMATS[0] and layout != LAYOUTS[0]:
        raise UsageError(f"--format {format} has --layout {LAYOUTS[0]} only.")


def output_settings(layout: str, format: str) -> dict[str, str]:
    """The settings of a synthesizer's dataset for these; as ever, where they are the defaults."""
    check_output(layout, format)
    return {"layout": layout} | ({"format": format} if format != FORMATS[0] else {})


def write_dataset(
    items: Callable[[], Iterable[Item | Reject]],
    out: str | Path,
    source: str,
    inputs: list[str],
    settings: dict,
    shares: tuple[float, ...] | None,
    workers: int = 1,
    progress: bool = True,
    hint: str = "",
    total: int | None = None,
    notes: list[str] | None = None,
) -> dict:
    """Write items as the dataset folder `out`; returns its dataset.json.

    Args:
        items: called once, and only where `out` does not already hold this very dataset.
        settings: what decides the result; it must hold `seed` and `layout`.
        shares: of train, validation and test; None keeps the splits that items name.
        workers: processes that read and cut pictures; the result does not depend on them.
        progress: whether to draw a progress bar on stderr.
        hint: what to tell a person where nothing was found.
        total: items to come, where that is known, for the progress bar.
        notes: sentences for dataset.json, which the source may add to while it is read.

    Raises:
        DataError: nothing became a row, or `out` holds something else.
        OSError: the disk is full or cannot be written; nothing is left behind.
    """
    out = expand_home(Path(out))
    if done := finished(out, source, inputs, settings):
        return done
    with naming(out), staging_folder(out) as staging:
        summary = Summary()
        dealt = write_rows(items(), staging, settings, workers, progress, summary, source, total)
        if not dealt.keys:
            raise DataError(nothing_found(source, inputs, summary, hint, staging, out))
        first = None
        if shares is None and any(dealt.official):
            # A row whose part is not stated must not land in a test set.
            places = [code - 1 if code else 0 for code in dealt.official]
        else:
            keys = dealt.keys
            first = join_groups(keys, dealt.rows, dealt.links)
            keys = keys if first is None else [keys[row] for row in first.tolist()]
            places = assign_splits(keys, shares or DEFAULT_SHARES)
        deal_rows(staging, places, settings["layout"], summary, first)
        if settings["layout"] == "messages":
            write_dataset_info(staging, summary, out.name)
        summary.notes = notes or []
        if settings.get("format") == "parquet":
            pack_parquet(staging, summary)
        elif settings.get("format") in WRITERS:
            for split in list(summary.splits):
                WRITERS[settings["format"]](staging, split)
        result = summary.to_dict(source, inputs, settings)
        text = json.dumps(result, ensure_ascii=False, indent=1)
        (staging / "dataset.json").write_text(printable(text) + "\n", encoding="utf-8")
        publish(staging, out)
    return result


def finished(out: Path, source: str, inputs: list[str], options: dict) -> dict | None:
    """The dataset.json of `out` where this very command made it; DataError if other files do."""
    # A conversion that made no row leaves its rejects, for a person to look at.
    if not out.exists() or (out.is_dir() and {p.name for p in out.iterdir()} <= {REJECTS}):
        return None
    try:
        found = json.loads((out / "dataset.json").read_text(encoding="utf-8"))
        asked = {"source": source, "inputs": inputs, "options": options}
        # An option that the kit did not have then is as one that was not given.
        named = {k: v for k, v in options.items() if v or k in found["options"]}
        if {key: found[key] for key in asked} == json.loads(json.dumps(asked | {"options": named})):
            return found
        held = f"a dataset made from {found['source']} with other inputs or options"
    except (OSError, ValueError, KeyError, TypeError):
        held = "something else"
    raise DataError(f"{out} already holds {held}; choose another --out or remove it.")


def nothing_found(
    source: str, inputs: list[str], summary: Summary, hint: str, staging: Path, out: Path
) -> str:
    """The sentence for a conversion without a row, whose rejects are left in `out`."""
    where = ", ".join(inputs)
    if not summary.found:
        return f"{where}: nothing of {source} is here{hint}"
    out.mkdir(exist_ok=True)
    shutil.copyfile(staging / REJECTS, out / REJECTS)
    with (out / REJECTS).open(encoding="utf-8") as file:
        rejects = [json.loads(line) for line in itertools.islice(file, 2)]
    shown = "; ".join(f"{one['where']}: {one['detail'] or one['reason']}" for one in rejects)
    reasons = ", ".join(f"{count} {reason}" for reason, count in summary.rejects.most_common(3))
    missing = summary.rejects.most_common(1)[0][0] == "missing image"
    way_out = "--images DIR names the folder that the pictures lie below, if the source takes it; "
    return (
        f"{where}: none of {summary.found} items became a row ({reasons}), such as {shown}; "
        f"{way_out if missing else ''}{out / REJECTS} lists all of them."
    )


# --- from items to staged rows ---


class Dealt(NamedTuple):
    """What splits are dealt by: a row's group and stated split, and what joins its group to others.

    `official` is 1 + the index of a row's own split (0: none). `rows[i]` is a row that has
    `links[i]`: the hash of a picture's bytes, or of the page that its group's name states.
    """

    keys: array
    official: array
    rows: array
    links: array


def write_rows(
    items: Iterable[Item | Reject],
    staging: Path,
    settings: dict,
    workers: int,
    progress: bool,
    summary: Summary,
    source: str,
    total: int | None = None,
) -> Dealt:
    """Write pictures, rows.jsonl and rejects.jsonl to the staging folder, in the source's order."""
    from tqdm.auto import tqdm

    dealt = Dealt(array("Q"), array("B"), array("Q"), array("Q"))
    # One folder, not one a shelf: to remove 256 of them takes a disk a second.
    (staging / STAGED).mkdir()
    work = partial(process_batch, staging=str(staging), source=source)
    bar = tqdm(
        desc=source,
        total=total,
        unit=" items",
        disable=not progress,
        mininterval=0.5,
        smoothing=0.05,
    )
    with (
        bar,
        (staging / "rows.jsonl").open("w", encoding="utf-8", newline="\n") as rows,
        (staging / REJECTS).open("w", encoding="utf-8", newline="\n") as rejects,
    ):
        for results in ordered_map(work, batches(items), workers):
            for outcome, (split, hashes, first_frames) in results:
                summary.add(outcome)
                summary.first_frames += first_frames
                (rows if isinstance(outcome, Row) else rejects).write(outcome.to_json() + "\n")
                if isinstance(outcome, Row):
                    links = [page_key(outcome.group), *hashes]
                    dealt.rows.extend([len(dealt.keys)] * len(links))
                    dealt.links.extend(links)
                    dealt.keys.append(group_key(settings["seed"], outcome.group))
                    dealt.official.append(1 + SPLITS.index(split) if split else 0)
            bar.update(len(results))
            if summary.rejects:
                bar.set_postfix(rejects=summary.rejects.total(), refresh=False)
    return dealt


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
    # Imported once for all workers. (Without effect on "spawn", and once the server runs.)
    context.set_forkserver_preload(["__main__", __name__, f"{__package__}.pictures"])
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


class Placement(NamedTuple):
    """What is known of an item besides its row: the split that its source states, the hashes of its
    picture files, and how many of these have several frames of which the first was taken.
    """

    split: str | None = None
    pictures: tuple[int, ...] = ()
    first_frames: int = 0


def process_batch(
    batch: list[Item | Reject], staging: str, source: str
) -> list[tuple[Row | Reject, Placement]]:
    """Make rows of items and write their pictures; a picture shared by neighbours is read once."""
    from data_prep.dataset.pictures import Opened, PictureError, open_picture

    last: tuple[object, Opened | PictureError | None] = (None, None)
    last_hash: tuple[object, int] = (None, 0)
    first_frames = 0

    def opened(picture: Picture) -> Opened:
        nonlocal last, first_frames
        same = (picture.load.func, picture.load.args)
        if same != last[0]:
            try:
                last = same, open_picture(picture)
                first_frames += last[1].frames > 1
            except PictureError as error:
                last = same, error
        if isinstance(last[1], PictureError):
            raise last[1]
        return last[1]

    def hash_of(picture: Picture) -> int:
        """64 bits of a hash of a picture file's bytes; 0 where the picture is no file."""
        nonlocal last_hash
        data = opened(picture).data
        if data is None:
            return 0
        if data is not last_hash[0]:
            digest = hashlib.blake2b(data, digest_size=8).digest()
            last_hash = data, int.from_bytes(digest, "big")
        return last_hash[1]

    folder = Path(staging, STAGED)
    results: list[tuple[Row | Reject, Placement]] = []
    for item in batch:
        if isinstance(item, Reject):
            results.append((item, Placement()))
            continue
        before = first_frames
        try:
            outcome, split = make_row(item, source, folder, opened), item.split
            hashes = tuple(filter(None, map(hash_of, item.pictures)))
        except PictureError as error:
            outcome, split = Reject(item.where, error.reason, error.detail), None
            hashes = ()
        results.append((outcome, Placement(split, hashes, first_frames - before)))
    return results


def make_row(item: Item, source: str, folder: Path, opened: Callable) -> Row | Reject:
    """Turn an item into a row, its pictures in `folder`; a text that cannot be one is a Reject."""
    from data_prep.dataset.pictures import encode, short_number

    completion = clean_text(item.text)
    prompt = item.prompt if isinstance(item.prompt, list) else [user_message(item.prompt)]
    prompt = [{"role": m["role"], "content": clean_content(m["content"])} for m in prompt]
    if not completion:
        return Reject(item.where, "empty text")
    asked = [content_text(message["content"]) for message in prompt]
    if not any(text.strip() for text in asked):
        return Reject(item.where, "empty prompt")
    answers = item.answers and list(dict.fromkeys(clean_text(one) for one in item.answers))
    texts = [completion, item.group, *asked, *(answers or ())]
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
        place = folder / f"{name}.{extension}"
        if not place.exists():
            place.write_bytes(data)
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
        # A surrogate, which no UTF-8 file can hold, stays as the escape that JSON has for it.
        meta=printable(dump_json(meta)),
        answers=answers,
    )


def clean_content(content: str | list[Part]) -> str | list[Part]:
    """A content's texts as `clean_text` has them; between pictures their blank ends stay."""
    if isinstance(content, str):
        return clean_text(content)
    parts: list[Part] = []
    for part in content:
        text = part.get("text")
        if text is None:
            parts.append(part)
            continue
        # Marks around the text keep its ends.
        text = clean_text(f"|{text}|")[1:-1]
        text = text.lstrip() if not parts else text
        text = text.rstrip() if part is content[-1] else text
        parts += [{"type": "text", "text": text}] if text else []
    return parts


def user_message(text: str) -> Message:
    """A prompt as a message."""
    return {"role": "user", "content": text}


# --- from staged rows to the finished folder ---


def deal_rows(
    staging: Path,
    places: Iterable[int],
    layout: str,
    summary: Summary,
    first: "np.ndarray | None" = None,
) -> None:
    """Move staged rows and their pictures to their splits.

    `first` is, a row each, the row whose group it takes; None leaves all groups as they are.
    """
    groups: dict[int, str] = {}  # of rows whose group others take
    taken = set() if first is None else {int(at) for row, at in enumerate(first) if at != row}
    with (
        contextlib.ExitStack() as files,
        (staging / "rows.jsonl").open(encoding="utf-8", newline="\n") as rows,
    ):
        writers: dict[str, Callable] = {}
        for number, (line, place) in enumerate(zip(rows, places)):
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
            if number in taken:
                groups[number] = row["group"]
            if taken and row["group"] != groups.get(int(first[number]), row["group"]):
                row["group"] = groups[int(first[number])]
                line = dump_json(row) + "\n"
            if summary.has_parts and layout == "prompt_completion":
                # Arrow, which `load_dataset` reads with, takes one type in a column only.
                row["prompt"] = in_parts(row["prompt"], len(row["images_file_names"]))
                line = dump_json(row) + "\n"
            for image in row["images_file_names"]:
                staged = image.rpartition("/")[2]
                move(f"{staging}/{STAGED}/{staged}", staging, split, image)
            summary.splits[split] += 1
            writers[split](line if layout == "prompt_completion" else as_messages(row, split))
    (staging / "rows.jsonl").unlink()
    shutil.rmtree(staging / STAGED)


def write_dataset_info(staging: Path, summary: Summary, name: str) -> None:
    """Write the dataset_info.json by which LLaMA-Factory reads rows of messages.

    Its `dataset_dir` is the dataset's folder, which pictures are named from; a split is the
    dataset `<folder>_<split>`.
    """
    tags = {"role_tag": "role", "content_tag": "content"}
    tags |= {"user_tag": "user", "assistant_tag": "assistant", "system_tag": "system"}
    info = {
        f"{name}_{split}": {
            "file_name": f"{split}.jsonl",
            "formatting": "sharegpt",
            "columns": {"messages": "messages", "images": "images"},
            "tags": tags,
        }
        for split in SPLITS
        if summary.splits[split]
    }
    text = json.dumps(info, ensure_ascii=False, indent=1)
    (staging / "dataset_info.json").write_text(text + "\n", encoding="utf-8")


def pack_parquet(staging: Path, summary: Summary) -> None:
    """Put the rows of every split with their pictures in parquet files, instead of the folder."""
    from data_prep.dataset.parquet import write_shards

    kinds = {"parts": summary.has_parts, "answers": summary.has_answers}
    for split in list(summary.splits):
        with (staging / split / "metadata.jsonl").open(encoding="utf-8", newline="\n") as rows:
            write_shards(rows, staging / split, staging / "data", split, **kinds)
        shutil.rmtree(staging / split)


def move(old: str, staging: Path, split: str, image: str) -> None:
    """Rename a picture to its place in a split, the folder made if needed.

    A shared picture is moved by its first row, and copied for one that lies in another split.
    """
    new = f"{staging}/{split}/{image}"
    try:
        os.rename(old, new)  # noqa: PTH104 (a Path a row costs more than the renaming)
    except FileNotFoundError:
        if Path(new).exists():
            return
        Path(new).parent.mkdir(parents=True, exist_ok=True)
        if Path(old).exists():
            Path(old).rename(new)
            return
        moved = next(p for other in SPLITS if (p := staging / other / image).exists())
        shutil.copyfile(moved, new)


def as_messages(row: dict, split: str) -> str:
    """A row as ms-swift and LLaMA-Factory read it: `<image>` a picture, paths from the dataset."""
    images = row.pop("images_file_names")
    messages = row.pop("prompt") + row.pop("completion")
    if any(isinstance(message["content"], list) for message in messages):
        for message in messages:
            message["content"] = content_text(message["content"], "<image>")
    else:
        first = next(message for message in messages if message["role"] == "user")
        first["content"] = "<image>" * len(images) + first["content"]
    paths = [f"{split}/{image}" for image in images]
    return dump_json({"id": row.pop("id"), "messages": messages, "images": paths, **row}) + "\n"


@contextlib.contextmanager
def staging_folder(out: Path) -> Iterator[Path]:
    """An empty `.<out>.partial` beside `out`, gone afterwards, as is what a killed run left."""
    staging = out.parent / f".{out.name}.partial"
    out.parent.mkdir(parents=True, exist_ok=True)
    with locked(out):
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Keep a second command that writes the same folder out, where the system knows file locks."""
    from filelock import FileLock, Timeout

    path = out.parent / f".{out.name}.lock"
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise DataError(f"Another command is writing {out}; wait for it to end.") from None
    except OSError:  # a network drive without locks
        pass
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows deletes no open file; release() does it
            path.unlink(missing_ok=True)
        lock.release()


def publish(staging: Path, out: Path) -> None:
    """Put the finished folder in its place, in one step."""
    if out.exists():
        (out / REJECTS).unlink(missing_ok=True)
        out.rmdir()  # holds nothing else, as checked before
    staging.rename(out)
