"""LLaVA and ShareGPT conversations: `image` or `images`, and `conversations[{from, value}]`."""

from collections.abc import Iterator
from types import SimpleNamespace

from ..schema import Item, Reject
from . import _chat

EXAMPLE = "llava.json --images photos/ --out data/chat"
TASKS = _chat.TASKS
OPTIONS = _chat.OPTIONS


def rows(path: str, options: SimpleNamespace) -> Iterator[Item | Reject]:
    """An item an answer."""
    return _chat.chat_rows(path, options, read)


def read(record: dict) -> _chat.Conversation:
    """A record's messages and pictures."""
    turns = [
        {"role": turn.get("from", turn.get("role")), "content": turn.get("value")}
        for turn in record["conversations"]
    ]
    return _chat.read_messages(turns)[0], _chat.images_of(record)
