"""What a dataset is made of: rows, rejects and the summary in dataset.json.

Sources yield an `Item` for everything they find (or a `Reject` where it cannot become a row); the
pipeline in `data_prep.convert` opens its pictures and makes it a `Row` or a `Reject`. So rows and
rejects always add up to what was found.
"""

import json
import unicodedata
from collections import Counter
from dataclasses import asdict, dataclass, field, fields
from functools import partial

# Of the dataset folder's layout and content. Since 2, pages and byte-identical pictures are kept in
# one split, and marks of what cannot be read are rejects in more formats.
VERSION = "2"
SPLITS = ("train", "validation", "test")
TASKS = ("transcription", "extraction", "vqa")
IMAGE = "<image>"  # a picture's place in the texts of `--layout messages`
ROLES = ("system", "user", "assistant")
# What people call pictures; those that Pillow cannot open become rejects that say what would.
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
# Of the chats that source `trl` reads: TRL's and ms-swift's, ms-swift's older ones and Alpaca's.
CHAT_COLUMNS = (("messages",), ROW_SIDES, ("query", "response"), ("instruction", "output"))

Part = dict[str, str]  # {"type": "text", "text": ...} or {"type": "image"}
Message = dict[str, str | list[Part]]  # {"role": ..., "content": a text, or parts in a prompt}


class DataError(ValueError):
    """The data cannot be used as asked: one sentence for the person, exit code 1."""


class FileRefused(Exception):
    """A file that a person must see to first: one sentence, with which a conversion ends.

    It is no ValueError, so that no source takes it for a label of a wrong shape.
    """


class UsageError(ValueError):
    """The command was given wrongly: one sentence for the person, exit code 2."""


@dataclass
class Picture:
    """Where a picture comes from and which part of it a row shows.

    `load` is a `functools.partial` of a module's function, so that a worker process can do the
    reading; it returns an encoded file's bytes or a PIL image. `box` is (left, top, right,
    bottom) in pixels of the picture as displayed (EXIF orientation applied); `size` is the (width,
    height) that the annotations say it has. `quad` are four corners, clockwise from the text's top
    left, that are put straight; outside the polygon `mask` the box is white.
    Neighbouring items with equal `load` share one decoding. `name` is given where several
    rows show the same whole picture, which is then stored once.
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
    """One thing that a source found, its pictures not yet opened.

    `key` is unique within one input and becomes the row's id; `where` tells a person the place
    (file and line). `prompt` is a question, a list of messages, or None for the task's default.
    `answers` are all right texts where there are several, `text` being the first.
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
    """A source item that did not become a row: its place, a short stable reason, particulars."""

    where: str
    reason: str
    detail: str = ""

    def to_json(self) -> str:
        """One line of rejects.jsonl. Bytes that were no text are written as escapes."""
        return dump_json({k: printable(v) for k, v in asdict(self).items()})


@dataclass
class Row:
    """One line of metadata.jsonl; `width` and `height` are its first picture's, in pixels.

    `answers` are all right texts of a question, where its source tells several; other rows of the
    file have no such field.
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
            value = {name: one for name, one in value.items() if name != "answers"}
        return dump_json(value)

    @classmethod
    def from_json(cls, line: str, blank: bool = False) -> "Row":
        """Read one line of metadata.jsonl; ValueError says what is wrong with it.

        Args:
            blank: as for `row_problems`.
        """
        value = parse_json(line)
        if found := row_problems(value, blank):
            raise ValueError("; ".join(found))
        return cls(**{f.name: value.get(f.name) for f in fields(cls)})


ROW_TYPES = {
    f.name: int if f.name in ("width", "height") else str
    for f in fields(Row)
    if f.name != "answers"
} | {
    "images_file_names": list,
    "prompt": list,
    "completion": list,
}


def row_problems(value: object, blank: bool = False) -> list[str]:
    """All that keeps a parsed line of metadata.jsonl from being a row; empty if it is one.

    Args:
        blank: take a completion without text, the truth of a blank picture in an evaluation.
    """
    if not isinstance(value, dict):
        return [f"a row is a JSON object, not {type(value).__name__}"]
    found = [f"{name} is missing" for name in ROW_TYPES if name not in value]
    good = {}
    for name, kind in ROW_TYPES.items():
        if name in value and (not isinstance(value[name], kind) or isinstance(value[name], bool)):
            found.append(f"{name} is {value[name]!r}, which is no {kind.__name__}")
        elif name in value:
            good[name] = value[name]
    if good.get("id") == "":
        found.append("id is empty")
    names = good.get("images_file_names", ["known to be wrong"])
    if not names or not all(isinstance(name, str) and name for name in names):
        found.append("images_file_names has no file name")
    for side in [side for side in ROW_SIDES if side in good]:
        if not good[side] or not all(is_message(m, side == "prompt") for m in good[side]):
            found.append(f"{side} is no list of {{role, content}} messages")
        elif not any(content_text(m["content"]).strip() for m in good[side]):
            found += [] if blank and side == "completion" else [f"{side} is empty"]
        elif wrong := turn_problem(side, good[side]):
            found.append(wrong)
    if not found and any(isinstance(m["content"], list) for m in good["prompt"]):
        places = sum(count_images(m["content"]) for m in good["prompt"])
        if places != len(names):
            found.append(f"prompt has {places} image parts for {len(names)} pictures")
    answers = value.get("answers")
    if answers is not None and not (
        isinstance(answers, list) and answers and all(isinstance(one, str) for one in answers)
    ):
        found.append(f"answers is {answers!r}, which is no list of texts")
    if good.get("task", TASKS[0]) not in TASKS:
        found.append(f"task is {good['task']!r}, not one of {', '.join(TASKS)}")
    if good.get("width", 1) < 1 or good.get("height", 1) < 1:
        found.append("size is {}x{}".format(good.get("width"), good.get("height")))
    try:
        parse_json(good.get("meta", "{}"))
    except ValueError:
        found.append("meta is no JSON")
    return found


def turn_problem(side: str, messages: list[Message]) -> str | None:
    """What keeps the turns of a row's `prompt` or `completion` (the side) from being one."""
    roles = [message["role"] for message in messages]
    if side == "prompt":
        return None if "user" in roles else "prompt has no turn of the user"
    if roles == ["assistant"]:
        return None
    return f"completion has the turns {', '.join(roles)[:80]} and not one of the assistant alone"


# Columns by which rows of other tools are known, and how `convert` is told to read them.
_PICTURE_COLUMNS = ("image", "file_name", "image_path", "img", "path", "file", "filename")
_TEXT_COLUMNS = ("text", "label", "ground_truth", "transcription", "caption")


def convert_line(row: object, file: object) -> str | None:
    """The command that reads rows of another tool's shape; None where the shape is not known.

    Args:
        row: one of them, as parsed.
        file: what they stand in, named in the command.
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
        how += " --task extraction" * (texts == "ground_truth")
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
    """A message's content as a text, with `mark` for every picture among its parts."""
    if isinstance(content, str):
        return content
    return "".join(mark if part["type"] == "image" else part["text"] for part in content)


def count_images(content: str | list[Part]) -> int:
    """How many parts of a message's content are pictures."""
    return 0 if isinstance(content, str) else sum(part["type"] == "image" for part in content)


def from_messages(value: object) -> object:
    """A row of `--layout messages` as the row that it was; ValueError where it was none.

    Its texts hold `<image>` where a picture stands, but for answers, where that is text.
    """
    if not isinstance(value, dict):
        return value
    value = dict(value)
    messages, images = value.pop("messages", None), value.pop("images", None)
    if not isinstance(messages, list) or not all(is_message(one) for one in messages):
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
    """A prompt with every content as parts; of texts, the first of the user's has all pictures."""
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
    """A label as a row holds it: NFC, line ends as LF, no BOM, nothing blank at either end.

    Blank ends go because no picture shows them. NFKC would turn 10² into 102 and is never used.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n").lstrip("\ufeff")
    return unicodedata.normalize("NFC", text).strip()


def is_unicode(text: str) -> bool:
    """False where a text holds surrogates: bytes that were no UTF-8, or half an escaped pair."""
    return text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text)


def printable(text: str) -> str:
    """The text with surrogates, which no UTF-8 file can hold, written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


TURNS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


def one_line(text: object) -> str:
    """A text for one line of output: white space joined, what steers a terminal as escapes."""

    def shown(character: str) -> str:
        # Bidirectional controls turn the order of what follows.
        turns = unicodedata.bidirectional(character) in TURNS
        steers = turns or unicodedata.category(character) in ("Cc", "Cs")
        return character.encode("unicode_escape").decode() if steers else character

    return "".join(map(shown, " ".join(str(text).split())))


def dump_json(value: object) -> str:
    """JSON on one line, every script readable as it is."""
    return json.dumps(value, ensure_ascii=False)


def parse_json(text: str | bytes) -> object:
    """Parse JSON strictly (no NaN); whatever is wrong, depth included, is a ValueError."""
    try:
        return json.loads(text, parse_constant=refuse_constant)
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None


def refuse_constant(name: str) -> None:
    """Refuse NaN and Infinity, which Python's parser would take."""
    raise ValueError(f"{name} is no JSON")


class Summary:
    """Counts what dataset.json tells, in memory that does not grow with the rows."""

    def __init__(self) -> None:
        self.found = self.first_frames = 0
        self.notes: list[str] = []
        self.has_parts = False  # whether a prompt's content is a list of parts
        self.has_answers = False  # whether a row has several right answers
        self.splits: Counter[str] = Counter()
        self.rejects: Counter[str] = Counter()
        self.tasks: Counter[str] = Counter()
        self.languages: Counter[str] = Counter()
        self.characters: Counter[str] = Counter()
        self.widths: Counter[int] = Counter()
        self.heights: Counter[int] = Counter()

    def add(self, outcome: Row | Reject) -> None:
        """Count one source item by what became of it."""
        self.found += 1
        if isinstance(outcome, Reject):
            self.rejects[outcome.reason] += 1
            return
        self.tasks[outcome.task] += 1
        self.languages[outcome.language] += 1
        for message in outcome.completion:
            self.characters.update(message["content"])
        if isinstance(outcome.prompt[0]["content"], list):
            self.has_parts = True
        self.has_answers |= outcome.answers is not None
        self.widths[outcome.width] += 1
        self.heights[outcome.height] += 1

    def to_dict(self, source: str, inputs: list[str], options: dict) -> dict:
        """The content of dataset.json.

        `characters` counts code points of the completions; `first_frames`, which is there only
        where it is not 0, pictures of several frames of which rows show the first; `notes`, what
        the source has to say of its input as a whole.
        """
        frames = {"first_frames": self.first_frames} if self.first_frames else {}
        return {
            "source": source,
            "inputs": inputs,
            "options": options,
            "version": VERSION,
            "found": self.found,
            "rows": {split: self.splits[split] for split in SPLITS if self.splits[split]},
            "rejects": most_common(self.rejects),
            "tasks": most_common(self.tasks),
            "languages": most_common(self.languages),
            "characters": most_common(self.characters),
            "sizes": {"width": spread(self.widths), "height": spread(self.heights)},
            **frames,
            **({"notes": self.notes} if self.notes else {}),
        }


def most_common(counter: Counter) -> dict:
    """Counts from the highest, equal ones in order of their keys."""
    return dict(sorted(counter.items(), key=lambda pair: (-pair[1], pair[0])))


def spread(counter: Counter[int]) -> dict[str, int]:
    """{min, median, max} of counted numbers (the lower median); empty without any."""
    middle = (counter.total() + 1) // 2
    passed = 0
    for value in sorted(counter):
        passed += counter[value]
        if passed >= middle:
            return {"min": min(counter), "median": value, "max": max(counter)}
    return {}
