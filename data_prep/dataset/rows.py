"""Rows of a dataset: source items become staged rows, pictures and rejects, in worker processes."""

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from data_prep.dataset.schema import (
    SPLITS,
    Item,
    Message,
    Part,
    Picture,
    Reject,
    Row,
    clean_text,
    content_text,
    dump_json,
    is_unicode,
    printable,
)
from data_prep.dataset.split import group_key, page_key
from data_prep.dataset.summary import Summary
from data_prep.dataset.workers import ordered_map

if TYPE_CHECKING:
    from data_prep.dataset.pictures import Opened

# Files and folders of the staging folder, where rows wait to be dealt to splits.
STAGED_ROWS = "rows.jsonl"
STAGED_PICTURES = "pictures"
REJECTS = "rejects.jsonl"
BATCH_ITEMS = 64
BATCH_BYTES = 4 * 2**20


class StagedRows(NamedTuple):
    """Keys by which staged rows are dealt to splits.

    `keys[row]` is a hash of the row's group; `official[row]` is 1 + the index of the split that its
    source states (0: none). `rows[i]` is a row that has `links[i]`: the hash of a picture's bytes,
    or of the page that its group's name states. Rows with an equal link belong together.
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
) -> StagedRows:
    """Write rows, rejects and pictures to the staging folder, in the source's order.

    Adds them to `summary`; the other arguments are those of `write_dataset`.
    """
    from tqdm.auto import tqdm

    staged = StagedRows(array("Q"), array("B"), array("Q"), array("Q"))
    # A flat folder: deleting 256 folders takes a disk a second.
    (staging / STAGED_PICTURES).mkdir()
    work = partial(process_batch, staging=str(staging), source=source)
    looks = {"unit": " items", "mininterval": 0.5, "smoothing": 0.05}
    with (
        tqdm(desc=source, total=total, disable=not progress, **looks) as bar,
        (staging / STAGED_ROWS).open("w", encoding="utf-8", newline="\n") as rows,
        (staging / REJECTS).open("w", encoding="utf-8", newline="\n") as rejects,
    ):
        for results in ordered_map(work, batches(items), workers):
            for outcome, (split, hashes, first_frames) in results:
                summary.add(outcome)
                summary.first_frames += first_frames
                (rows if isinstance(outcome, Row) else rejects).write(outcome.to_json() + "\n")
                if isinstance(outcome, Row):
                    links = [page_key(outcome.group), *hashes]
                    staged.rows.extend([len(staged.keys)] * len(links))
                    staged.links.extend(links)
                    staged.keys.append(group_key(settings["seed"], outcome.group))
                    staged.official.append(1 + SPLITS.index(split) if split else 0)
            bar.update(len(results))
            if summary.rejects:
                bar.set_postfix(rejects=summary.rejects.total(), refresh=False)
    return staged


def batches(items: Iterable[Item | Reject]) -> Iterator[list[Item | Reject]]:
    """Batch items for the workers: BATCH_ITEMS, or fewer where they hold their pictures' bytes."""
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
    """Count the bytes of pictures that an item holds, instead of a path to read them from."""
    pictures = item.pictures if isinstance(item, Item) else []
    return sum(len(v) for picture in pictures for v in picture.load.args if isinstance(v, bytes))


class Placement(NamedTuple):
    """Properties of an item besides its row.

    `split` is the one that its source states; `pictures` are hashes of its picture files;
    `first_frames` counts those of several frames of which the first was taken.
    """

    split: str | None = None
    pictures: tuple[int, ...] = ()
    first_frames: int = 0


class _PictureCache:
    """Opens pictures and keeps the last one, as neighbouring items often share it."""

    def __init__(self) -> None:
        self.key: object = None
        self.outcome: Opened | ValueError | None = None
        self.first_frames = 0
        self.data: bytes | None = None
        self.digest = 0

    def open(self, picture: Picture) -> "Opened":
        """Decode a picture; PictureError where that failed, also for the item before."""
        from data_prep.dataset.crops import open_picture
        from data_prep.dataset.pictures import PictureError

        key = (picture.load.func, picture.load.args)
        if key != self.key or self.outcome is None:
            self.key = key
            try:
                self.outcome = open_picture(picture)
                self.first_frames += self.outcome.frames > 1
            except PictureError as error:
                self.outcome = error
        if isinstance(self.outcome, ValueError):
            raise self.outcome
        return self.outcome

    def hash(self, picture: Picture) -> int:
        """64 bits of a hash of a picture file's bytes; 0 where the picture is no file."""
        data = self.open(picture).data
        if data is None:
            return 0
        if data is not self.data:
            self.data = data
            self.digest = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")
        return self.digest


def process_batch(
    batch: list[Item | Reject], staging: str, source: str
) -> list[tuple[Row | Reject, Placement]]:
    """Turn items into rows and write their pictures; neighbours that share one read it once."""
    from data_prep.dataset.pictures import PictureError

    cache = _PictureCache()
    folder = Path(staging, STAGED_PICTURES)
    results: list[tuple[Row | Reject, Placement]] = []
    for item in batch:
        if isinstance(item, Reject):
            results.append((item, Placement()))
            continue
        before = cache.first_frames
        try:
            outcome, split = make_row(item, source, folder, cache.open), item.split
            hashes = tuple(filter(None, map(cache.hash, item.pictures)))
        except PictureError as error:
            outcome, split = Reject(item.where, error.reason, error.detail), None
            hashes = ()
        results.append((outcome, Placement(split, hashes, cache.first_frames - before)))
    return results


def make_row(
    item: Item, source: str, folder: Path, open_picture: Callable[[Picture], "Opened"]
) -> Row | Reject:
    """Turn an item into a row and write its pictures to `folder`.

    Returns a Reject where its texts cannot be those of a row.

    Raises:
        PictureError: a picture cannot be shown.
    """
    from data_prep.dataset.crops import encode, short_number

    completion = clean_text(item.text)
    messages = item.prompt
    if not isinstance(messages, list):
        messages = [{"role": "user", "content": messages or ""}]
    prompt: list[Message] = [
        {"role": message["role"], "content": clean_content(message["content"])}
        for message in messages
    ]
    if not completion:
        return Reject(item.where, "empty text")
    prompt_texts = [content_text(message["content"]) for message in prompt]
    if not any(text.strip() for text in prompt_texts):
        return Reject(item.where, "empty prompt")
    answers = item.answers and list(dict.fromkeys(map(clean_text, item.answers)))
    texts = [completion, item.group, *prompt_texts, *(answers or ())]
    if not all(is_unicode(text) for text in texts):
        return Reject(item.where, "text is not UTF-8", completion[:200])
    if not item.pictures:
        return Reject(item.where, "missing image", "the item names none")

    encoded = [encode(picture, open_picture(picture)) for picture in item.pictures]
    names, clipped = [], []
    for index, (picture, (data, extension, *_, clip)) in enumerate(zip(item.pictures, encoded)):
        name = picture.name and f"{source}-{picture.name}"
        name = name or (f"{item.key}-{index}" if len(encoded) > 1 else item.key)
        shelf = hashlib.blake2b(name.encode(), digest_size=1).hexdigest()
        names.append(f"images/{shelf}/{name}.{extension}")
        clipped.append(clip)
        path = folder / f"{name}.{extension}"
        if not path.exists():
            path.write_bytes(data)
    meta = item.meta
    boxes = [picture.box for picture in item.pictures if picture.box]
    if boxes:
        meta = {"box": [short_number(value) for value in boxes[0]]} | meta
    if box := next(filter(None, clipped), None):
        meta = meta | {"clipped": list(box)}
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
    """Clean a message's texts as `clean_text` does; between pictures their blank ends stay."""
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
