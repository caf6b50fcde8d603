"""What the chat formats share: records, pictures named in many ways, and a row an answer."""

import base64
import binascii
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace

from ..archive import Tree, picture_tree
from ..jsonstream import json_elements
from ..pictures import PictureError
from ..schema import Item, Message, Picture, Reject, dump_json, is_unicode, parse_json
from . import folder_of, slug, stem
from ._parquet import read_parquet

TASKS = ("vqa", "transcription", "extraction")
OPTIONS = {"images": None, "language": "und"}
PLACEHOLDER = "<image>"
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"} | {
    "system": "system"
}

Conversation = tuple[list[Message], list[object]]


def chat_rows(
    path: str, options: SimpleNamespace, read: Callable[[dict], Conversation]
) -> Iterator[Item | Reject]:
    """An item an answer of the assistant, with all that was said before it as the prompt.

    `read` takes a record apart into messages and pictures, or raises ValueError.
    """
    tree = Tree(path, options)
    images = picture_tree(tree, options)
    files = list(tree.files("*.json", "*.jsonl", "*.parquet"))
    for name in files:
        key = "" if len(files) == 1 else slug(stem(name)) + "-"
        split = tree.label_split(name)
        for number, record in read_records(tree, name):
            where = f"{name} record {number}"
            if isinstance(record, Reject):
                yield record
                continue
            try:
                messages, references = read(record)
                check_placeholders(messages, references)
                note = moved_pictures(messages)
                folder = folder_of(name) if images is tree else ""
                pictures = [image_loader(images, folder, one) for one in references]
            except PictureError as error:
                yield Reject(where, error.reason, error.detail)
                continue
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                yield Reject(where, "malformed record", f"{type(error).__name__}: {error}"[:300])
                continue
            for item in answers(messages, pictures, where, f"{key}{number:06d}", options):
                if isinstance(item, Item):
                    item.split, item.group = split, group_of(references, where)
                    item.note = note
                yield item


def read_records(tree: Tree, name: str) -> Iterator[tuple[int, dict | Reject]]:
    """(number from 0, record) of a JSON list, of JSON lines or of a parquet file."""
    if name.lower().endswith(".parquet"):
        yield from read_parquet(tree, name)
        return
    if tree.head(name).lstrip().startswith(b"["):
        number = -1
        with tree.open_text(name) as stream:
            try:
                for number, record in enumerate(json_elements(stream)):
                    yield number, checked(record, f"{name} record {number}")
            except ValueError as error:
                yield (
                    number + 1,
                    Reject(f"{name} record {number + 1}", "malformed JSON", str(error)),
                )
        return
    for number, line in tree.lines(name):
        if not line.strip():
            continue
        try:
            yield number, checked(parse_json(line), f"{name}:{number}")
        except ValueError as error:
            yield number, Reject(f"{name}:{number}", "malformed line", str(error))


def checked(record: object, where: str) -> dict | Reject:
    """A record, if it is an object."""
    if isinstance(record, dict):
        return record
    return Reject(where, "malformed record", f"no object but {type(record).__name__}")


def images_of(record: dict) -> list[object]:
    """The pictures that a record names beside its messages: a list, one, or none."""
    images = record.get("images") or record.get("image") or []
    return images if isinstance(images, list) else [images]


def read_messages(value: object) -> Conversation:
    """Messages whose content is a text or a list of parts, and the pictures among the parts."""
    if not isinstance(value, list) or not value:
        raise ValueError("no list of messages")
    messages, images = [], []
    for message in value:
        role, content = message["role"], message["content"]
        if isinstance(content, list):
            content, found = read_parts(content)
            images += found
        if role not in ROLES or not isinstance(content, str):
            raise ValueError(f"a message of role {role!r} with {type(content).__name__} content")
        messages.append({"role": ROLES[role], "content": content})
    return messages, images


def read_parts(parts: list) -> tuple[str, list[object]]:
    """The text of a message's parts with a placeholder a picture, and the pictures."""
    texts, images = [], []
    for part in parts:
        kind = part.get("type")
        if kind in ("text", "input_text"):
            texts.append(part["text"] or "")
        elif kind in ("image", "image_url", "input_image"):
            reference = part.get("image_url") or part.get("image") or part.get("path")
            if isinstance(reference, dict) and "url" in reference:
                reference = reference["url"]
            texts.append(PLACEHOLDER)
            images += [reference] if reference is not None else []
        else:
            raise ValueError(f"a part of type {kind!r}")
    return "\n".join(texts), images


def check_placeholders(messages: list[Message], images: list[object]) -> None:
    """ValueError where there are placeholders, but not one a picture.

    In an answer a placeholder is text that the model is to write.
    """
    count = sum(m["content"].count(PLACEHOLDER) for m in messages if m["role"] != "assistant")
    if count not in (0, len(images)):
        raise ValueError(f"{count} times {PLACEHOLDER} for {len(images)} pictures")


def moved_pictures(messages: list[Message]) -> str | None:
    """What is told of a record whose pictures do not stand together, before or after its text."""
    for message in messages:
        if message["role"] != "assistant" and PLACEHOLDER in message["content"]:
            text = message["content"].replace(PLACEHOLDER, "")
            together = PLACEHOLDER * message["content"].count(PLACEHOLDER)
            joined = "".join(message["content"].split())
            if joined not in (together + "".join(text.split()), "".join(text.split()) + together):
                return f"text stands before {PLACEHOLDER}; the rows show their pictures first."
    return None


def answers(
    messages: list[Message],
    pictures: list[partial],
    where: str,
    key: str,
    options: SimpleNamespace,
) -> Iterator[Item | Reject]:
    """An item an answer; a conversation without one is a reject."""
    turns = [{"role": m["role"], "content": without_placeholders(m).strip()} for m in messages]
    ends = [index for index, turn in enumerate(turns) if turn["role"] == "assistant"]
    if not ends:
        yield Reject(where, "no answer", "no message is the assistant's")
        return
    for count, end in enumerate(ends):
        place = f"{where} answer {count}" if len(ends) > 1 else where
        prompt, text = turns[:end], turns[end]["content"]
        if not any(turn["role"] == "user" for turn in prompt):
            yield Reject(place, "empty prompt", "nothing was asked before the answer")
            continue
        if options.task == "extraction":
            try:
                text = dump_json(parse_json(text))
            except ValueError as error:
                yield Reject(place, "malformed JSON", str(error))
                continue
        shared = [f"{key}-{index}" for index in range(len(pictures))]
        yield Item(
            key=f"{key}-{count:02d}" if len(ends) > 1 else key,
            where=place,
            text=text,
            # The answers of one conversation show the same pictures, which are stored once.
            pictures=[
                Picture(load, name=f"{name}p" if len(ends) > 1 else None)
                for load, name in zip(pictures, shared)
            ],
            group="",
            language=options.language,
            task=options.task,
            prompt=prompt,
        )


def without_placeholders(message: Message) -> str:
    """A message's text; in an answer a placeholder is text and stays."""
    text = message["content"]
    return text if message["role"] == "assistant" else text.replace(PLACEHOLDER, "")


def image_loader(tree: Tree, folder: str, reference: object) -> partial:
    """Reads a picture given as a path, a data URI, or {bytes, path}; PictureError if it is none."""
    if isinstance(reference, dict):
        data = reference.get("bytes")
        if isinstance(data, bytes):
            return partial(bytes, data)
        reference = reference.get("path")
    if isinstance(reference, bytes):
        return partial(bytes, reference)
    if not isinstance(reference, str) or not reference or not is_unicode(reference):
        raise PictureError("missing image", f"the record names {reference!r}"[:200])
    if reference.startswith("data:"):
        return partial(bytes, from_data_uri(reference))
    if reference.startswith(("http://", "https://")):
        raise PictureError("remote image", reference[:200])
    return tree.image_loader(reference.removeprefix("file://"), folder)


def from_data_uri(uri: str) -> bytes:
    """The bytes of a base64 data URI."""
    head, comma, body = uri.partition(",")
    if not comma or not head.endswith(";base64"):
        raise PictureError("unreadable image", f"data URI {head[:80]}")
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error as error:
        raise PictureError("unreadable image", f"data URI: {error}") from None


def group_of(references: list[object], where: str) -> str:
    """The first picture's name where it has one, so that its questions stay in one split."""
    first = references[0] if references else None
    name = first.get("path") if isinstance(first, dict) else first
    return name if isinstance(name, str) and not name.startswith("data:") else where
