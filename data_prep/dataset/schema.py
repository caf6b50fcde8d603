"""Schema of a dataset: items of sources, rows, rejects, messages and their texts.

A source yields an `Item` for everything in its input, or a `Reject` where it cannot become a row.
Conversion opens an item's pictures and makes it a `Row` or a `Reject`, so the counts of rows and
rejects add up to that of all items.
"""

import json
import unicodedata
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from typing import Any

# Version of the dataset folder. Since 2, pages and byte-identical pictures are kept in one split,
# and marks of illegible text are rejects in more formats.
VERSION = "2"
SPLITS = ("train", "validation", "test")
TASKS = ("transcription", "extraction", "vqa")
IMAGE = "<image>"  # placeholder of a picture in the texts of `--layout messages`
ROLES = ("system", "user", "assistant")
# File endings of pictures; those that Pillow cannot open become rejects that name a way out.
ENDINGS = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".jfif", ".jpe", ".mpo"),
    *(".avif", ".jp2", ".j2k", ".jpx", ".heic", ".heif", ".jxl", ".pbm", ".pgm", ".ppm", ".pnm"),
)
PROMPTS = {
    "transcription": "Transcribe the text in the image.",
    "extraction": "Extract the fields of this document as JSON.",
    "tables": "Write the table of this document as HTML.",
}

ROW_SIDES = ("prompt", "completion")
# Columns of the chats that source `trl` reads: TRL's and ms-swift's, older ones of ms-swift, and
# Alpaca's.
CHAT_COLUMNS = (("messages",), ROW_SIDES, ("query", "response"), ("instruction", "output"))

Part = dict[str, str]  # {"type": "text", "text": ...} or {"type": "image"}
Message = dict[str, str | list[Part]]  # {"role": ..., "content": a text, or parts in a prompt}


class DataError(ValueError):
    """Data that cannot be used as asked: one sentence, exit code 1."""


class FileRefused(Exception):
    """A label file that cannot be read until a person acts; its one sentence ends the conversion.

    It is no ValueError, so that no source catches it as a malformed label.
    """


class UsageError(ValueError):
    """Wrong usage of a command: one sentence, exit code 2."""


@dataclass
class Picture:
    """A picture of an item: how to load it, and the part of it that a row shows.

    Neighbouring items with equal `load` share one decoding.

    Attributes:
        load: a `functools.partial` of a module's function, which worker processes can call; it
            returns an encoded file's bytes or a PIL image.
        box: (left, top, right, bottom) in pixels of the upright picture (EXIF orientation applied).
        size: (width, height) in pixels, as annotated.
        invert: whether to swap black and white.
        name: of a whole picture that several rows show, which is then stored once.
        quad: four corners, clockwise from the text's top left, that are straightened.
        mask: a polygon, outside of which the box becomes white.
    """

    load: partial
    box: tuple[float, float, float, float] | None = None
    size: tuple[int, int] | None = None
    invert: bool = False
    name: str | None = None
    quad: tuple[tuple[float, float], ...] | None = None
    mask: tuple[tuple[float, float], ...] | None = None


@dataclass
class Item:
    """An item of a source, its pictures not yet opened.

    `key` is unique within one input and becomes the row's id; `where` is its place (file and line)
    for messages. `prompt` is a question, a list of messages, or None for the task's default.
    `answers` are all right texts where there are several; `text` is the first.
    """

    key: str
    where: str
    text: str
    pictures: list[Picture]
    group: str
    language: str
    task: str = "transcription"
    split: str | None = None
    prompt: str | list[Message] | None = None
    meta: dict = field(default_factory=dict)
    answers: list[str] | None = None


@dataclass
class Reject:
    """An item that did not become a row: its place, a short stable reason, and details."""

    where: str
    reason: str
    detail: str = ""

    def to_json(self) -> str:
        """One line of rejects.jsonl. Bytes that were no text are written as escapes."""
        return dump_json({k: printable(v) for k, v in asdict(self).items()})


@dataclass
class Row:
    """A line of metadata.jsonl; `width` and `height` are its first picture's, in pixels.

    `answers` are all right texts of a question that has several; other rows lack this field.
    """

    id: str
    images_file_names: list[str]
    prompt: list[Message]
    completion: list[Message]
    task: str
    language: str
    group: str
    width: int
    height: int
    source: str
    meta: str = "{}"
    answers: list[str] | None = None

    def to_json(self) -> str:
        """The row as one line of JSON, without a line end."""
        value = vars(self)
        if self.answers is None:
            value = {name: field for name, field in value.items() if name != "answers"}
        return dump_json(value)

    @classmethod
    def from_dict(cls, value: dict) -> "Row":
        """Make a row of a parsed line in which `row_problems` found none."""
        return cls(**{name: value[name] for name in ROW_NAMES if name in value})


ROW_NAMES = [f.name for f in fields(Row)]
ROW_TYPES: dict[str, type] = {f.name: str for f in fields(Row) if f.name != "answers"}
ROW_TYPES |= {"width": int, "height": int}
ROW_TYPES |= dict.fromkeys(("images_file_names", *ROW_SIDES), list)


def row_problems(value: object, blank: bool = False) -> list[str]:
    """List the problems of a parsed line of metadata.jsonl; empty for a valid row.

    Args:
        value: the parsed line.
        blank: accept a completion without text, the truth of a blank picture in an evaluation.
    """
    if not isinstance(value, dict):
        return [f"a row is a JSON object, not {type(value).__name__}"]
    problems = [f"{name} is missing" for name in ROW_TYPES if name not in value]
    good = {}
    for name, kind in ROW_TYPES.items():
        if name in value and (not isinstance(value[name], kind) or isinstance(value[name], bool)):
            problems.append(f"{name} is {value[name]!r}, which is no {kind.__name__}")
        elif name in value:
            good[name] = value[name]
    if good.get("id") == "":
        problems.append("id is empty")
    names = good.get("images_file_names", ["known to be wrong"])
    if not names or not all(isinstance(name, str) and name for name in names):
        problems.append("images_file_names has no file name")
    for side in [side for side in ROW_SIDES if side in good]:
        if not good[side] or not all(is_message(m, side == "prompt") for m in good[side]):
            problems.append(f"{side} is no list of {{role, content}} messages")
        elif not any(content_text(m["content"]).strip() for m in good[side]):
            problems += [] if blank and side == "completion" else [f"{side} is empty"]
        elif wrong := turn_problem(side, good[side]):
            problems.append(wrong)
    if not problems and any(isinstance(m["content"], list) for m in good["prompt"]):
        places = sum(count_images(m["content"]) for m in good["prompt"])
        if places != len(names):
            problems.append(f"prompt has {places} image parts for {len(names)} pictures")
    answers = value.get("answers")
    if answers is not None and not (
        isinstance(answers, list) and answers and all(isinstance(text, str) for text in answers)
    ):
        problems.append(f"answers is {answers!r}, which is no list of texts")
    if good.get("task", TASKS[0]) not in TASKS:
        problems.append(f"task is {good['task']!r}, not one of {', '.join(TASKS)}")
    if good.get("width", 1) < 1 or good.get("height", 1) < 1:
        problems.append("size is {}x{}".format(good.get("width"), good.get("height")))
    try:
        parse_json(good.get("meta", "{}"))
    except ValueError:
        problems.append("meta is no JSON")
    return problems


def turn_problem(side: str, messages: list[Message]) -> str | None:
    """Describe wrong roles in a row's `prompt` or `completion` (the side); None if right."""
    roles = [str(message["role"]) for message in messages]
    if side == "prompt":
        return None if "user" in roles else "prompt has no turn of the user"
    if roles == ["assistant"]:
        return None
    return f"completion has the turns {', '.join(roles)[:80]} and not one of the assistant alone"


# Columns by which `convert_line` recognizes rows of other tools.
_PICTURE_COLUMNS = ("image", "file_name", "image_path", "img", "path", "file", "filename")
_TEXT_COLUMNS = ("text", "label", "ground_truth", "transcription", "caption")


def convert_line(row: object, file: object) -> str | None:
    """The convert command that reads a row of another tool; None for an unknown shape.

    Args:
        row: as parsed.
        file: its file, for the command.
    """
    if not isinstance(row, dict) or all(isinstance(row.get(s), list) for s in ROW_SIDES):
        return None
    images = next((name for name in _PICTURE_COLUMNS if name in row), None)
    texts = next((name for name in _TEXT_COLUMNS if name in row), None)
    if "conversations" in row:
        how = "llava {}"
    elif any(set(columns) <= row.keys() for columns in CHAT_COLUMNS):
        how = "trl {}"
    elif images and texts:
        source = "hub" if str(file).endswith(".parquet") else "table"
        how = f"{source} {{}} --image-column {images} --text-column {texts}"
        if texts == "ground_truth":
            how += " --task extraction"
    else:
        return None
    return f"python -m data_prep.convert {how.format(file)} --out DIR"


def is_message(value: object, parts: bool = False) -> bool:
    """Whether a value is {"role": ..., "content": text} with a known role.

    `parts` allows a content of parts, too.
    """
    if not isinstance(value, dict) or value.get("role") not in ROLES:
        return False
    content = value.get("content")
    if isinstance(content, str):
        return True
    return parts and isinstance(content, list) and all(is_part(part) for part in content)


def is_part(value: object) -> bool:
    """Whether a value is {"type": "text", "text": ...} or {"type": "image"}."""
    if not isinstance(value, dict):
        return False
    kind, text = value.get("type"), value.get("text")
    return kind == "image" or (kind == "text" and isinstance(text, str))


def content_text(content: str | list[Part], mark: str = "") -> str:
    """Join a message's content to a text, with `mark` for every picture among its parts."""
    if isinstance(content, str):
        return content
    return "".join(mark if part["type"] == "image" else part["text"] for part in content)


def count_images(content: str | list[Part]) -> int:
    """Count the pictures among the parts of a message's content."""
    return 0 if isinstance(content, str) else sum(part["type"] == "image" for part in content)


def from_messages(value: object) -> object:
    """Convert a row of `--layout messages` back to a row; ValueError where it is none.

    `<image>` is a placeholder of a picture in its texts, except in answers, where it is text.
    """
    if not isinstance(value, dict):
        return value
    value = dict(value)
    messages, images = value.pop("messages", None), value.pop("images", None)
    if not isinstance(messages, list) or not all(map(is_message, messages)):
        raise ValueError("messages is no list of {role, content} messages")
    if not isinstance(images, list):
        raise ValueError("images is no list of paths")
    messages = [dict(message) for message in messages]
    asked = [message for message in messages[:-1] if message["role"] != "assistant"]
    marks = sum(message["content"].count(IMAGE) for message in asked)
    if marks != len(images):
        raise ValueError(f"messages have {marks} {IMAGE} for {len(images)} images")
    first = next((message for message in asked if message["role"] == "user"), None)
    if first is not None and first["content"].startswith(IMAGE * marks):
        first["content"] = first["content"].removeprefix(IMAGE * marks)
    else:
        for message in messages[:-1]:
            split = message in asked
            texts = message["content"].split(IMAGE) if split else [message["content"]]
            parts = [{"type": "text", "text": texts[0]}]
            for text in texts[1:]:
                parts += [{"type": "image"}, {"type": "text", "text": text}]
            message["content"] = [part for part in parts if part.get("text") != ""]
    rest = {"prompt": messages[:-1], "completion": messages[-1:], "images_file_names": images}
    return value | rest


def in_parts(messages: list[Message], images: int) -> list[Message]:
    """Convert a prompt's contents to parts; the first text of the user gets all pictures."""
    if any(isinstance(message["content"], list) for message in messages):
        images = 0
    changed = []
    for message in messages:
        content = message["content"]
        if isinstance(content, str):
            shown = images if message["role"] == "user" else 0
            images -= shown
            content = [{"type": "image"}] * shown + [{"type": "text", "text": content}]
        changed.append({**message, "content": content})
    return changed


def clean_text(text: str) -> str:
    """Normalize a label: NFC, line ends as LF, no byte order mark, no white space at the ends.

    White space at the ends is not visible in a picture. NFKC would turn 10² into 102.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n").lstrip("\ufeff")
    return unicodedata.normalize("NFC", text).strip()


def is_unicode(text: str) -> bool:
    """Whether a text holds no surrogates, i.e. bytes that were no UTF-8 or half an escaped pair."""
    return text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text)


def printable(text: str) -> str:
    """Escape surrogates in a text, which no UTF-8 file can hold."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


# Bidirectional controls, which change the order of the text after them.
TURNS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


def one_line(text: object) -> str:
    """Format a text for one line of output: white space joined, control characters escaped."""

    def escape(character: str) -> str:
        turns = unicodedata.bidirectional(character) in TURNS
        controls = turns or unicodedata.category(character) in ("Cc", "Cs")
        return character.encode("unicode_escape").decode() if controls else character

    return "".join(map(escape, " ".join(str(text).split())))


def dump_json(value: object) -> str:
    """Serialize a value as JSON on one line, without escapes of letters."""
    return json.dumps(value, ensure_ascii=False)


class JsonFloat(float):
    """A number of JSON whose `str` is as the file writes it: an amount of 12.50 is no 12.5."""

    written: str

    def __new__(cls, written: str) -> "JsonFloat":
        """The number that JSON's text `written` stands for."""
        number = super().__new__(cls, written)
        # A copy is made of the number and gets its `written` afterwards.
        number.written = str(written)
        return number

    def __str__(self) -> str:
        return self.written


def parse_json(text: str | bytes) -> Any:
    """Parse JSON strictly (no NaN); every error, also too deep nesting, is a ValueError."""
    try:
        return json.loads(text, parse_constant=refuse_constant, parse_float=JsonFloat)
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None


def refuse_constant(name: str) -> None:
    """Refuse NaN and Infinity, which Python's parser accepts."""
    raise ValueError(f"{name} is no JSON")
