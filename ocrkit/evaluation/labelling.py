"""Labelling: pictures, drafted readings, a person's answers on disk, and the dataset from them.

`collect_pictures` makes a labelling folder, and `Labels` is that folder. `drafts` reads its
pictures, and `label_widget` shows them. Every answer is a line appended to answers.jsonl; nothing
is changed in place, and a restart replays the lines.
"""

import hashlib
import json
import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from data_prep.dataset.crops import to_png
from data_prep.dataset.files import json_lines, naming, read_json_lines, write_whole
from data_prep.dataset.pictures import open_image, read_file
from data_prep.dataset.schema import PROMPTS, DataError, Item, Picture, Reject, clean_text
from data_prep.dataset.split import DEFAULT_SHARES, page_of
from data_prep.dataset.write import write_dataset
from data_prep.sources import slug
from ocrkit.data.rows import Message, Row, undecoded
from ocrkit.evaluation.evaluation import Evaluation, score
from ocrkit.models.read_files import list_pictures

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL.Image import Image

SAMPLES, DRAFTS, ANSWERS = "samples.jsonl", "drafts.jsonl", "answers.jsonl"
#: What a person may answer; "undo" takes the last answer back.
ACTIONS = ("take", "skip", "unreadable", "undo")
_LONGEST_PAUSE = 60.0  # seconds of an answer beyond which nobody was at the keyboard


class Labels:
    """A labelling folder: samples in an order, their drafts, and the answers so far.

    A sample is {id, file, group, language, where}, of a corrected label also {label, why, read}.

    Args:
        folder: made by `collect_pictures` or `relabel`.

    Attributes:
        samples: in the order in which they are shown: the least sure first, once drafted.
        drafts: {id: {prediction, confidence, doubts}}.
        answers: {id: the last answer, {action, text, seconds}}.

    Raises:
        DataError: the folder is no labelling folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / SAMPLES).is_file():
            raise DataError(f"{folder} holds no {SAMPLES}: collect_pictures makes such a folder.")
        self.samples = list(read_json_lines(self.folder / SAMPLES))
        self.drafts = {d["id"]: d for d in read_json_lines(self.folder / DRAFTS)}
        self.answers: dict[str, dict[str, Any]] = {}
        self._history: list[str] = []  # ids in the order of their answers
        for line in read_json_lines(self.folder / ANSWERS):
            self._apply(line)
        self.order()
        self.session: list[tuple[float, int]] = []  # seconds and characters of this session

    def order(self) -> None:
        """Put the least sure first; samples to relabel keep their order."""
        if not any("why" in sample for sample in self.samples):
            sure = {id: draft.get("confidence") or 0.0 for id, draft in self.drafts.items()}
            self.samples.sort(key=lambda sample: sure.get(sample["id"], -1.0))
        self.place = {sample["id"]: place for place, sample in enumerate(self.samples)}
        self._next = 0

    def _apply(self, line: dict[str, Any]) -> None:
        if line["action"] == "undo":
            if self._history:
                self.answers.pop(self._history.pop(), None)
            return
        self.answers[line["id"]] = line
        self._history = [*(id for id in self._history if id != line["id"]), line["id"]]

    def answer(self, id: str, action: str, text: str = "", seconds: float = 0.0) -> str | None:
        """Append an answer to the file, and flush it to the disk.

        Args:
            id: the sample's; of "undo" any.
            action: one of `ACTIONS`.
            text: what the picture says, for "take".
            seconds: spent on it.

        Returns:
            A sentence where something has to be said: control characters were removed, or the text
            is empty and nothing was saved. None otherwise.

        Raises:
            ValueError: the sample or the action is unknown.
            OSError: the disk is full or cannot be written; the answer is not taken.
        """
        if action not in ACTIONS or (action != "undo" and id not in self.place):
            raise ValueError(
                f"{action!r} of {id!r} is no answer: actions are {', '.join(ACTIONS)}."
            )
        text, removed = clean_answer(text) if action == "take" else ("", 0)
        if action == "take" and not text:
            return "The text is empty: say that it cannot be read, or skip it."
        if action == "undo" and not self._history:
            return "There is no answer to take back."
        line = {"id": id, "action": action, "text": text, "seconds": round(seconds, 2)}
        path = self.folder / ANSWERS
        with naming(path), path.open("ab") as file:
            data = json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace")
            # A line break first, in case a kill broke off the line before.
            file.write((b"\n" if file.tell() else b"") + data + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if action == "take":
            self.session.append((min(seconds, _LONGEST_PAUSE), len(text)))
        if action == "undo":
            self._next = min(self._next, self.place.get(self._history[-1], 0))
        self._apply(line)
        return f"{removed} control characters were removed." if removed else None

    def next(self) -> dict[str, Any] | None:
        """The first sample without an answer; None where all have one."""
        while self._next < len(self.samples) and self.samples[self._next]["id"] in self.answers:
            self._next += 1
        return self.samples[self._next] if self._next < len(self.samples) else None

    @property
    def last(self) -> str | None:
        """Id of the last answer, which "undo" takes back."""
        return self._history[-1] if self._history else None

    def progress(self) -> str:
        """Counter, time left and characters a minute, on a line."""
        done, total = len(self.answers), len(self.samples)
        text = f"{done} of {total}"
        seconds = sum(spent for spent, _ in self.session)
        if seconds > 0:
            left = (total - done) * seconds / len(self.session) / 60
            rate = 60 * sum(count for _, count in self.session) / seconds
            text += f" · about {max(1, round(left))} min left" if left else ""
            text += f" · {rate:.0f} characters a minute"
        return text

    def picture(self, sample: Mapping[str, Any]) -> Path:
        """File of a sample's picture."""
        return self.folder / sample["file"]

    def draft_of(self, sample: Mapping[str, Any]) -> str:
        """Text that a sample's text box begins with."""
        return str(self.drafts.get(sample["id"], {}).get("prediction") or "")

    # --- what comes of it

    def rows(self) -> list[Row]:
        """A row to read for each sample without a draft."""
        message: Message = {"role": "user", "content": PROMPTS["transcription"]}
        return [
            {
                "id": sample["id"],
                "prompt": [message],
                "images": [str(self.picture(sample))],
                "language": sample["language"],
            }
            for sample in self.samples
            if sample["id"] not in self.drafts
        ]

    def write(
        self, out: str | Path, shares: tuple[float, ...] = DEFAULT_SHARES, seed: int = 0
    ) -> Evaluation:
        """Write the taken texts as a dataset folder, and score the drafts against them.

        Pictures that cannot be read, or were skipped, are rejects. The drafts are saved beside as
        an evaluation: `<labelling folder>/eval/draft`.

        Args:
            out: the dataset folder, which `load_data` and `data_prep.validate` take.
            shares: of train, validation and test.
            seed: of the splits.

        Returns:
            The evaluation of the drafts.

        Raises:
            DataError: nothing was taken, or `out` holds something else.
        """
        taken = [s for s in self.samples if self._action(s) == "take"]
        if not taken:
            raise DataError(f"{self.folder}: no text was taken yet, so there is no dataset.")
        settings = {"seed": seed, "layout": "prompt_completion", "shares": list(shares)}
        settings["answers"] = self.checksum()
        write_dataset(self._items, out, "labels", [str(self.folder)], settings, shares)
        records = [
            {
                "id": sample["id"],
                "reference": self.answers[sample["id"]]["text"],
                "prediction": self.draft_of(sample),
                "confidence": self.drafts.get(sample["id"], {}).get("confidence"),
                "language": sample["language"],
                "group": sample["group"],
            }
            for sample in taken
        ]
        evaluation = score(records, "draft")
        evaluation.save(self.folder / "eval" / "draft")
        return evaluation

    def checksum(self) -> str:
        """Checksum of all answers, by which a dataset made of others is told apart."""
        answers = sorted((id, a["action"], a["text"]) for id, a in self.answers.items())
        return hashlib.sha256(json.dumps(answers).encode()).hexdigest()[:16]

    def _action(self, sample: Mapping[str, Any]) -> str | None:
        return self.answers.get(sample["id"], {}).get("action")

    def _items(self) -> Iterator[Item | Reject]:
        reasons = {"unreadable": "cannot be read", "skip": "skipped"}
        # In the order of the pictures, so that the splits do not depend on the drafts.
        for sample in sorted(self.samples, key=lambda sample: sample["id"]):
            action = self._action(sample)
            if action == "take":
                yield Item(
                    key=slug(sample["id"]),
                    where=sample["where"],
                    text=self.answers[sample["id"]]["text"],
                    pictures=[Picture(partial(read_file, str(self.picture(sample))))],
                    group=sample["group"],
                    language=sample["language"],
                    prompt=PROMPTS["transcription"],
                )
            elif action in reasons:
                yield Reject(sample["where"], reasons[action], "by the person who labelled")


def clean_answer(text: str) -> tuple[str, int]:
    """A typed or pasted text as a label, and how many control characters were removed.

    Tabs become spaces, line breaks stay, and the text is normalized as all labels are.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\t", " ")
    kept = [c for c in text if c == "\n" or unicodedata.category(c) not in ("Cc", "Cs")]
    return clean_text("".join(kept)), len(text) - len(kept)


# --- pictures


def collect_pictures(
    source: "str | Path | Sequence[str] | Dataset",
    folder: str | Path,
    lines: bool = False,
    language: str = "und",
) -> Labels:
    """Make a labelling folder of pictures; one that is there already is opened and goes on.

    Args:
        source: picture files, folders, globs or PDFs, or the rows of a dataset.
        folder: the labelling folder.
        lines: cut pages into lines by RapidOCR's detector (any script).
        language: of pictures that are no rows of a dataset, such as `bn`.

    Raises:
        DataError: there is no picture.
        RuntimeError: RapidOCR is not installed.
    """
    folder = Path(folder)
    if (folder / SAMPLES).is_file():
        return Labels(folder)
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    samples = []
    for id, where, group, code, picture in tqdm(_pictures(source, language), desc="pictures"):
        for number, cut in enumerate(_parts(picture, lines), 1):
            own = f"{id}_line_{number:03d}" if lines else id
            name = f"pictures/{slug(own)}.png"
            write_whole(folder / name, to_png(cut))
            samples.append(
                {"id": own, "file": name, "group": group, "language": code, "where": where}
            )
    if not samples:
        raise DataError(f"{source}: no line of text was found on the pictures.")
    write_whole(folder / SAMPLES, json_lines(samples))
    return Labels(folder)


def _parts(picture: "Image", lines: bool) -> "list[Image]":
    if not lines:
        return [picture]
    from ocrkit.evaluation.page_lines import cut_line, detect_lines

    return [cut_line(picture, quad) for quad in detect_lines(picture)]


def _pictures(
    source: "str | Path | Sequence[str] | Dataset", language: str
) -> "Iterator[tuple[str, str, str, str, Image]]":
    """Id, place, group, language and picture of every input that can be opened."""
    if not isinstance(source, str | Path | Sequence):
        for row in undecoded(source):
            group, code = row.get("group") or row["id"], row.get("language") or language
            yield row["id"], row["id"], group, code, open_image(row["images"][0])
        return
    inputs = [str(source)] if isinstance(source, str | Path) else list(source)
    for listed in list_pictures(inputs):
        try:
            picture = open_image(listed.open().image)
        except (OSError, ValueError, RuntimeError) as error:
            tqdm.write(f"{listed.id} left out: {' '.join(str(error).split())}")
            continue
        # Pages of a file, and pictures that are named after their page, are one group.
        yield listed.id, listed.id, page_of(listed.name), language, picture
