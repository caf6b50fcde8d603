"""Chat formats: records, references to pictures, and one row for each answer."""

import base64
import binascii
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

from data_prep.dataset.archive import Tree, picture_tree
from data_prep.dataset.pictures import PictureError
from data_prep.dataset.schema import (
    Item,
    Message,
    Picture,
    Reject,
    dump_json,
    is_unicode,
    parse_json,
)
from data_prep.sources import folder_of, slug, stem
from data_prep.sources._jsonstream import json_records
from data_prep.sources._parquet import read_parquet

TASKS = ("vqa", "transcription", "extraction")
OPTIONS = {"images": None, "language": "und"}
PLACEHOLDER = "<image>"
MARKS = re.compile(r"<image>|<img>(?P<path>[^<>]*)</img>")
WEIGHTS = ("weight", "loss", "loss_weight")  # of OpenAI, ms-swift and LLaMA-Factory
ROLES = {"human": "user", "gpt": "assistant"} | {r: r for r in ("system", "user", "assistant")}


@dataclass
class Mark:
    """The place of a picture in a message; `reference` names it, None stands for the next one."""

    reference: object = None


@dataclass
class Turn:
    """A message: texts and marks of pictures in their order; whether a model is to learn it."""

    role: str
    content: list[str | Mark]
    learned: bool = True

    @property
    def marks(self) -> list[Mark]:
        """The places of the turn's pictures."""
        return [piece for piece in self.content if isinstance(piece, Mark)]


def chat_rows(path: str, options: SimpleNamespace) -> Iterator[Item | Reject]:
    """One item per answer of the assistant, with the messages before it as the prompt.

    An answer shows the pictures of those messages. An answer without weight in its file is part of
    later prompts alone.
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
                turns = read_record(record)
                references = [mark.reference for turn in turns for mark in turn.marks]
                folder = folder_of(name)
                loaders = [image_loader(images, folder, name, split) for name in references]
            except PictureError as error:
                yield Reject(where, error.reason, error.detail)
                continue
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                yield Reject(where, "malformed record", f"{type(error).__name__}: {error}"[:300])
                continue
            for item in answer_items(turns, loaders, where, f"{key}{number:06d}", options):
                if isinstance(item, Item):
                    item.split, item.group = split, group_of(references, where)
                yield item


def read_records(tree: Tree, name: str) -> Iterator[tuple[int, dict | Reject]]:
    """(number from 0, record) of a JSON list, of JSON lines or of a parquet file."""
    if name.lower().endswith(".parquet"):
        yield from read_parquet(tree, name)
        return
    if tree.head(name).lstrip().startswith(b"["):
        for number, record in json_records(tree, name):
            yield number, check_record(record, f"{name} record {number}")
        return
    for number, line in tree.lines(name):
        try:
            yield number, check_record(parse_json(line), f"{name}:{number}")
        except ValueError as error:
            yield number, Reject(f"{name}:{number}", "malformed line", str(error))


def check_record(record: object, where: str) -> dict | Reject:
    """Return a record that is an object, or a Reject for another value."""
    if isinstance(record, dict | Reject):
        return record
    return Reject(where, "malformed record", f"no object but {type(record).__name__}")


# --- a record's messages ---


def read_record(record: dict) -> list[Turn]:
    """The messages of a record with their pictures, in any of the shapes of `messages_of`.

    Raises ValueError, KeyError, TypeError or AttributeError for another shape.
    """
    for kind in ("videos", "video", "audios", "audio"):
        if record.get(kind):
            raise ValueError(f"{kind} are not read")
    turns = [read_turn(message) for message in messages_of(record)]
    images = record.get("images") or record.get("image") or []
    place_pictures(turns, images if isinstance(images, list) else [images])
    return turns


def messages_of(record: dict) -> list[dict]:
    """A record's messages as {role, content}.

    It holds `messages` or `conversations`; TRL's `prompt` and `completion`; ms-swift's `query`,
    `response` and `history`; or Alpaca's `instruction`, `input` and `output`.
    """
    system = record.get("system")
    messages = [{"role": "system", "content": system}] if system else []
    for name in ("messages", "conversations", "conversation"):
        if record.get(name) is not None:
            if not isinstance(record[name], list) or not record[name]:
                raise ValueError(f"{name} is no list of messages")
            return messages + record[name]
    if "prompt" in record or "completion" in record:
        for name, role in (("prompt", "user"), ("completion", "assistant")):
            content = record[name]
            messages += (
                [{"role": role, "content": content}] if isinstance(content, str) else content
            )
        return messages
    for question, answer in record.get("history") or ():
        messages += [{"role": "user", "content": question}]
        messages += [{"role": "assistant", "content": answer}]
    if "query" in record:
        question, answer = record["query"], record["response"]
    else:
        question, answer = record["instruction"], record["output"]
        question = "\n".join(text for text in (question, record.get("input")) if text)
    messages += [{"role": "user", "content": question}]
    return [*messages, {"role": "assistant", "content": answer}]


def read_turn(message: dict) -> Turn:
    """A message of {role, content} or {from, value}; its content is a text or a list of parts."""
    role = message.get("role", message.get("from"))
    content = message["content"] if "content" in message else message["value"]
    if role not in ROLES or not isinstance(content, str | list):
        raise ValueError(f"a message of role {role!r} with {type(content).__name__} content")
    # An answer is what a model is to write: nothing in its text is a picture.
    find = (lambda text: [text]) if ROLES[role] == "assistant" else split_text
    pieces = find(content) if isinstance(content, str) else read_parts(content, find)
    if ROLES[role] == "assistant" and any(isinstance(piece, Mark) for piece in pieces):
        raise ValueError("a picture as a part of an answer")
    learned = not any(message.get(name, 1) in (0, "0") for name in WEIGHTS)
    return Turn(ROLES[role], pieces, learned)


def split_text(text: str) -> list[str | Mark]:
    """A text around its `<image>`, and around Qwen-VL's `<img>path</img>`."""
    pieces: list[str | Mark] = []
    end = 0
    for match in MARKS.finditer(text):
        pieces += [text[end : match.start()], Mark(match["path"])]
        end = match.end()
    return [piece for piece in [*pieces, text[end:]] if piece != ""]


def read_parts(parts: list, find: Callable[[str], list[str | Mark]]) -> list[str | Mark]:
    """A list of parts, such as {"type": "text", "text": ...} and {"type": "image"}; texts that
    follow each other are lines.
    """
    pieces: list[str | Mark] = []
    for part in parts:
        if isinstance(part, str):
            part = {"type": "text", "text": part}
        kind = part.get("type") or next((name for name in ("text", "image") if name in part), None)
        if kind in ("text", "input_text", "output_text"):
            texts = [part[name] for name in ("text", "value", "content") if name in part]
            text = next(t for t in [*texts, ""] if t is not None) if texts else part["text"]
            separator = ["\n"] if pieces and isinstance(pieces[-1], str) else []
            pieces += [*separator, *find(text)]
        elif kind in ("image", "image_url", "input_image"):
            names = ("image_url", "image", "path", "value", "url")
            reference = next((part[name] for name in names if part.get(name) is not None), None)
            if isinstance(reference, dict) and "url" in reference:
                reference = reference["url"]
            pieces.append(Mark(reference))
        else:
            raise ValueError(f"a part of type {kind!r}")
    return pieces


def place_pictures(turns: list[Turn], images: list[object]) -> None:
    """Give the marks their pictures; without any mark, the first question shows all of them.

    ValueError where there are marks, but not one per picture.
    """
    marks = [mark for turn in turns for mark in turn.marks]
    waiting = [mark for mark in marks if mark.reference is None]
    if marks and not waiting and images:
        return  # the parts name their pictures, which the record lists once more
    if waiting and len(waiting) != len(images):
        raise ValueError(f"{len(waiting)} times {PLACEHOLDER} for {len(images)} pictures")
    for mark, reference in zip(waiting, images):
        mark.reference = reference
    if images and not marks:
        question = next((turn for turn in turns if turn.role == "user"), None)
        if question is None:
            raise ValueError("no question for the pictures to stand in")
        question.content[:0] = [Mark(reference) for reference in images]


# --- rows ---


def answer_items(
    turns: list[Turn], loaders: list[partial], where: str, key: str, options: SimpleNamespace
) -> Iterator[Item | Reject]:
    """One item per answer; a conversation without any is a reject."""
    ends = [at for at, turn in enumerate(turns) if turn.role == "assistant" and turn.learned]
    if not ends:
        yield Reject(where, "no answer", "no message is the assistant's, or none has a weight")
        return
    for count, end in enumerate(ends):
        place = f"{where} answer {count}" if len(ends) > 1 else where
        prompt, text = turns[:end], "".join(map(str, turns[end].content)).strip()
        if not any(turn.role == "user" for turn in prompt):
            yield Reject(place, "empty prompt", "nothing was asked before the answer")
            continue
        if options.task == "extraction":
            try:
                text = dump_json(parse_json(text))
            except ValueError as error:
                yield Reject(place, "malformed JSON", str(error))
                continue
        shown = sum(len(turn.marks) for turn in prompt)
        yield Item(
            key=f"{key}-{count:02d}" if len(ends) > 1 else key,
            where=place,
            text=text,
            # The answers of one conversation show the same pictures, which are stored once.
            pictures=[
                Picture(load, name=f"{key}-{index}p" if len(ends) > 1 else None)
                for index, load in enumerate(loaders[:shown])
            ],
            group="",
            language=options.language,
            task=options.task,
            prompt=as_prompt(prompt),
        )


def as_prompt(turns: list[Turn]) -> list[Message]:
    """The messages of a prompt: texts, which have all pictures before them, or else lists of parts.

    Parts are for pictures that stand between words or are shown later than the first question.
    """
    first = next(turn for turn in turns if turn.role == "user")
    later = any(turn.marks for turn in turns if turn is not first)
    # "w" for words and "m" for a mark: "wmw" and "mwm" are mixed.
    kinds = ["m" if isinstance(p, Mark) else "w" if p.strip() else "" for p in first.content]
    if later or re.search("wm+w|mw+m", "".join(kinds)):
        return [{"role": turn.role, "content": as_parts(turn)} for turn in turns]
    texts = ["".join(p for p in turn.content if isinstance(p, str)).strip() for turn in turns]
    return [{"role": turn.role, "content": text} for turn, text in zip(turns, texts)]


def as_parts(turn: Turn) -> list[dict[str, str]]:
    """A message's texts and pictures, as TRL and the models' templates take them."""
    parts: list[dict[str, str]] = []
    for piece in turn.content:
        if isinstance(piece, Mark):
            parts.append({"type": "image"})
        elif parts and parts[-1]["type"] == "text":
            parts[-1]["text"] += piece
        else:
            parts.append({"type": "text", "text": piece})
    return parts


def image_loader(tree: Tree, folder: str, reference: object, split: str | None = None) -> partial:
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
    return tree.image_loader(reference.removeprefix("file://"), folder, split)


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
