"""TRL and ms-swift rows: `images` with `messages`, or with `prompt` and `completion`."""

from collections.abc import Iterator
from types import SimpleNamespace

from ..schema import Item, Reject
from . import _chat

EXAMPLE = "train.jsonl test.jsonl --out data/chat"
TASKS = _chat.TASKS
OPTIONS = _chat.OPTIONS


def rows(path: str, options: SimpleNamespace) -> Iterator[Item | Reject]:
    """An item an answer, from JSONL, JSON or parquet."""
    return _chat.chat_rows(path, options, read)


def read(record: dict) -> _chat.Conversation:
    """A record's messages and pictures; a plain text as prompt is the user's message."""
    if "messages" in record:
        messages, found = _chat.read_messages(record["messages"])
    else:
        prompt, completion = record["prompt"], record["completion"]
        if isinstance(prompt, str):
            prompt = [{"role": "user", "content": prompt}]
        if isinstance(completion, str):
            completion = [{"role": "assistant", "content": completion}]
        messages, found = _chat.read_messages([*prompt, *completion])
    # Parts of type image either name their picture or stand for one of `images`.
    return messages, _chat.images_of(record) or found
