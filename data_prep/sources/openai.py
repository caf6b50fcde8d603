"""OpenAI fine-tuning files: JSONL of `messages` with `image_url` parts (data URI or path).

An answer of `weight` 0 is part of later prompts alone. Pictures on the web are rejects: nothing is
downloaded.
"""

from data_prep.sources import _chat

EXAMPLE = "fine-tune.jsonl --out data/chat"
TASKS, OPTIONS, rows = _chat.TASKS, _chat.OPTIONS, _chat.chat_rows
