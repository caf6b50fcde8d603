"""Rows of TRL, ms-swift and LLaMA-Factory: `messages`, `prompt`/`completion`, `query`/`response`.

Also Alpaca's `instruction`, `input` and `output`; with `images`, or parts that name their pictures.
"""

from data_prep.sources import _chat

EXAMPLE = "train.jsonl test.jsonl --out data/chat"
TASKS, OPTIONS, rows = _chat.TASKS, _chat.OPTIONS, _chat.chat_rows
