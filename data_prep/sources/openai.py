"""OpenAI fine-tuning files: JSONL of `messages` with `image_url` parts (data URI or path).

An answer of `weight` 0 is part of later prompts alone.
"""

from collections.abc import Iterator
from types import SimpleNamespace

from data_prep.dataset.schema import Item, Reject
from data_prep.sources import _chat

EXAMPLE = "fine-tune.jsonl --out data/chat"
TASKS = _chat.TASKS
OPTIONS = _chat.OPTIONS


def rows(path: str, options: SimpleNamespace) -> Iterator[Item | Reject]:
    """An item an answer. Pictures on the web are rejects: nothing is downloaded."""
    return _chat.chat_rows(path, options)
