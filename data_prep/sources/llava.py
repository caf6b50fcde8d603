"""LLaVA, ShareGPT and Qwen-VL conversations: `conversations[{from, value}]` with `image(s)`."""

from collections.abc import Iterator
from types import SimpleNamespace

from data_prep.dataset.schema import Item, Reject
from data_prep.sources import _chat

EXAMPLE = "llava.json --images photos/ --out data/chat"
TASKS = _chat.TASKS
OPTIONS = _chat.OPTIONS


def rows(path: str, options: SimpleNamespace) -> Iterator[Item | Reject]:
    """An item an answer."""
    return _chat.chat_rows(path, options)
