"""Rows of TRL, ms-swift and LLaMA-Factory: `messages`, `prompt`/`completion`, `query`/`response`.

Also Alpaca's `instruction`, `input` and `output`; with `images`, or parts that name their pictures.
"""

from collections.abc import Iterator
from types import SimpleNamespace

from data_prep.dataset.schema import Item, Reject
from data_prep.sources import _chat

EXAMPLE = "train.jsonl test.jsonl --out data/chat"
TASKS = _chat.TASKS
OPTIONS = _chat.OPTIONS


def rows(path: str, options: SimpleNamespace) -> Iterator[Item | Reject]:
    """An item an answer, from JSONL, JSON or parquet."""
    return _chat.chat_rows(path, options)
