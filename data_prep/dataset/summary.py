"""Summary of a dataset: the counts that dataset.json states."""

from collections import Counter

from data_prep.dataset.schema import SPLITS, VERSION, Reject, Row, content_text


class Summary:
    """Counts of rows and rejects, in memory that does not grow with the rows."""

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
        """Count one source item by the row or reject that it became."""
        self.found += 1
        if isinstance(outcome, Reject):
            self.rejects[outcome.reason] += 1
            return
        self.tasks[outcome.task] += 1
        self.languages[outcome.language] += 1
        for message in outcome.completion:
            self.characters.update(content_text(message["content"]))
        if isinstance(outcome.prompt[0]["content"], list):
            self.has_parts = True
        self.has_answers |= outcome.answers is not None
        self.widths[outcome.width] += 1
        self.heights[outcome.height] += 1

    def to_dict(self, source: str, inputs: list[str], options: dict) -> dict:
        """The content of dataset.json.

        `characters` counts code points of the completions. `first_frames`, absent where it is 0,
        counts pictures of several frames of which rows show the first. `notes` are the source's
        remarks on its input as a whole.
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


def most_common(counter: Counter[str]) -> dict[str, int]:
    """Sort counts from the highest, equal ones by their keys."""
    return dict(sorted(counter.items(), key=lambda pair: (-pair[1], pair[0])))


def spread(counter: Counter[int]) -> dict[str, int]:
    """The {min, median, max} of counted numbers (the lower median); empty without any."""
    middle = (counter.total() + 1) // 2
    passed = 0
    for value in sorted(counter):
        passed += counter[value]
        if passed >= middle:
            return {"min": min(counter), "median": value, "max": max(counter)}
    return {}
