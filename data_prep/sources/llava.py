"""LLaVA, ShareGPT and Qwen-VL conversations: `conversations[{from, value}]` with `image(s)`."""

from data_prep.sources import _chat

EXAMPLE = "llava.json --images photos/ --out data/chat"
TASKS, OPTIONS, rows = _chat.TASKS, _chat.OPTIONS, _chat.chat_rows
