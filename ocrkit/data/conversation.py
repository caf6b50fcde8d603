"""Conversations as tokens: the chat template renders a row's prompt, and labels cover the answer.

A prompt may be any chat template's. Where the answer starts and ends in it is found by rendering a
placeholder. Control tokens in a row's text are refused in a prompt and spelt as text in an answer.
"""

import json
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jinja2 import TemplateError

from ocrkit.data.rows import IMAGE_MARK, Message, Row, text_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin

# Placeholder rendered through the chat template to find where the answer starts and ends: a
# private-use character, which no text holds, between spaces, which some templates strip.
_PLACEHOLDER = " \ue000 "

# Tokenizer options that encode a text without reading control tokens in it.
_AS_TEXT = {"add_special_tokens": False, "split_special_tokens": True}


class RowRefused(ValueError):
    """A row that this model cannot take: `reason` names the kind of problem, `detail` the cause."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


class Rendered(NamedTuple):
    """A row as text: the rendered prompt, the answer, and what the template writes after it."""

    prompt: str
    answer: str
    end: str


class Answer(NamedTuple):
    """Token ids of an answer with its end-of-turn token, and whether control tokens were spelt."""

    ids: list[int]
    spelt: bool


class ConversationTokenizer:
    """Render rows with a processor's chat template and encode prompts and answers.

    Rendered prompts and their token ids are cached: prompts repeat over a dataset.

    Args:
        processor: of a vision-language model, with a chat template.
    """

    def __init__(self, processor: "ProcessorMixin"):
        self.processor = processor
        # Some processors are tokenizers themselves.
        self.tokenizer: Any = getattr(processor, "tokenizer", processor)
        self._control = control_ids(processor, self.tokenizer)
        self._turn_tokens: list[str] = []
        # {prompt: (text before the answer, text after it, whether the template strips the answer)}
        self._rendered: dict[str, tuple[str, str, bool]] = {}
        self._prompts: dict[str, np.ndarray] = {}
        self._ends: dict[str, tuple[list[int], int]] = {}

    def render(self, row: Row) -> Rendered:
        """Render a row's prompt with the chat template; its answer and end of turn stay apart.

        Raises:
            RowRefused: the prompt holds tokens that turns are made of, or the template refuses it.
            ValueError: no row can be rendered with this template.
        """
        key = json.dumps([row["prompt"], len(row["images"])], ensure_ascii=False)
        if key not in self._rendered:
            prompt = with_image_parts(row["prompt"], len(row["images"]))
            try:
                self._check_prompt(row["prompt"])
                self._rendered[key] = self._surroundings(prompt)
            except TemplateError as error:
                raise RowRefused("refused by the chat template", str(error)) from None
        before, after, strips = self._rendered[key]
        text = text_of(row["completion"]) if row.get("completion") else ""
        return Rendered(before, text.strip() if strips else text, after)

    def prompt_ids(self, prompt: str) -> np.ndarray:
        """Encode a rendered prompt: one placeholder token for each picture."""
        if prompt not in self._prompts:
            ids = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
            self._prompts[prompt] = np.array(ids)
        return self._prompts[prompt]

    def answer_ids(self, rendered: Sequence[Rendered]) -> list[Answer | None]:
        """Encode answers; None where one holds control tokens that cannot be spelt as text.

        Control tokens in an answer are spelt letter for letter, as any other text.
        """
        texts = [answer + end for _, answer, end in rendered]
        encoded = self.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        answers: list[Answer | None] = []
        for ids, (_, text, after) in zip(encoded, rendered):
            end, controls = self._end(after)
            if sum(map(self._control.__contains__, ids)) != controls:
                spelt = self._spell(text)
                answers.append(None if spelt is None else Answer([*spelt, *end], True))
                continue
            # What a template writes after the end of turn (a line break) is never generated.
            last = end[-1]
            ids = [*ids[: ids.index(last)], last] if last in ids else [*ids, last]
            answers.append(Answer(ids, False))
        return answers

    def _spell(self, text: str) -> list[int] | None:
        """Encode a text with its control tokens spelt as text; None where that is impossible."""
        ids = self.tokenizer(text, **_AS_TEXT)["input_ids"]
        return ids if self._control.isdisjoint(ids) else None

    def answer_characters(self, rendered: Rendered, answer: Answer) -> list[list[int]]:
        """List the code points of each of an answer's tokens, without its end-of-turn token."""
        text = rendered.answer if answer.spelt else rendered.answer + rendered.end
        # The end of turn, always last, holds no character.
        return token_characters(self.tokenizer, text, answer.spelt)[: len(answer.ids) - 1]

    def text_tokens(self, rows: Sequence[Row]) -> list[float]:
        """Count tokens of each row's prompt and answer, without those of its pictures.

        Infinite where the row is refused.
        """
        counts, rendered, numbers = [math.inf] * len(rows), [], []
        for number, row in enumerate(rows):
            try:
                rendered.append(self.render({**row, "images": [None] * len(row["sizes"])}))
                numbers.append(number)
            except RowRefused:
                continue
        for number, (prompt, *_), answer in zip(numbers, rendered, self.answer_ids(rendered)):
            # The placeholder that the prompt holds for a picture is one of the picture's tokens.
            own = len(self.prompt_ids(prompt)) - len(rows[number]["sizes"])
            counts[number] = math.inf if answer is None else own + len(answer.ids)
        return counts

    def check_text(self, row: Row) -> None:
        """Refuse, with a reason, a row whose text this model cannot take.

        Raises:
            RowRefused: its prompt or its answer holds control tokens.
        """
        rendered = self.render(row)
        if self.answer_ids([rendered])[0] is None:
            raise RowRefused(
                "control token in the text",
                f"{rendered.answer[:80]!r} cannot be spelt without this model's control tokens",
            )

    def _surroundings(self, prompt: Sequence[Message]) -> tuple[str, str, bool]:
        """Text before an answer, text after it, and whether the template strips the answer."""
        answer = {"role": "assistant", "content": [{"type": "text", "text": _PLACEHOLDER}]}
        template: Any = self.processor.apply_chat_template
        before = template(prompt, tokenize=False, add_generation_prompt=True)
        whole = template([*prompt, answer], tokenize=False)
        body = whole.removeprefix(before)
        mark = _PLACEHOLDER.strip()
        if not whole.startswith(before) or mark not in body:
            raise ValueError(
                "The chat template does not write the prompt as a prefix of the conversation, "
                "so completion-only labels cannot be placed; use a template that ends the "
                "prompt with the assistant's header."
            )
        return before, body.rpartition(mark)[2].removeprefix(" "), _PLACEHOLDER not in body

    def _check_prompt(self, prompt: list[Message]) -> None:
        """Refuse a prompt whose text would be read as the end of a turn or as a picture.

        Other tokens of the model's own, such as names of tasks, may well be meant.
        """
        if not self._turn_tokens:
            user: Message = {"role": "user", "content": "x"}
            before, after, _ = self._surroundings(with_image_parts([user], 1))
            ids = self.tokenizer(before + after, add_special_tokens=False)["input_ids"]
            ids = {*ids, *_picture_ids(self.processor), self.tokenizer.eos_token_id}
            self._turn_tokens = [*self.tokenizer.convert_ids_to_tokens(sorted(ids & self._control))]
        for message in prompt:
            text = text_of([message])
            for token in self._turn_tokens:
                if token in text:
                    raise RowRefused(
                        "control token in the prompt",
                        f"{token} in {text[:80]!r} would end a turn or stand for a picture; "
                        "take it out",
                    )

    def _end(self, after: str) -> tuple[list[int], int]:
        """Ids of the text after an answer, up to the end of turn; the number of control tokens."""
        if after not in self._ends:
            ids = self.tokenizer(after, add_special_tokens=False)["input_ids"] if after else []
            end = self.tokenizer.eos_token_id
            until = ids[: ids.index(end)] if end in ids else ids
            self._ends[after] = [*until, end], sum(map(self._control.__contains__, ids))
        return self._ends[after]


def with_image_parts(prompt: list[Message], images: int) -> list[Message]:
    """Convert a prompt's texts to parts, `images` picture parts before the first user's text.

    Where the texts hold one `IMAGE_MARK` a picture, the pictures stand there instead. Messages that
    already hold parts are returned as they stand.
    """
    texts = [message["content"] for message in prompt if isinstance(message["content"], str)]
    if images and sum(text.count(IMAGE_MARK) for text in texts) == images:
        return [{**message, "content": _parts(message["content"])} for message in prompt]
    messages, placed = [], False
    for message in prompt:
        content = message["content"]
        if isinstance(content, str):
            parts = [{"type": "text", "text": content}]
            if message["role"] == "user" and not placed:
                parts = [{"type": "image"}] * images + parts
                placed = True
            message = {**message, "content": parts}
        messages.append(message)
    return messages


def _parts(content: str | list[dict]) -> list[dict]:
    """Split a text into parts of text and, at its `IMAGE_MARK`s, of pictures."""
    if not isinstance(content, str):
        return content
    pieces = re.split(f"({IMAGE_MARK})", content)
    return [
        {"type": "image"} if piece == IMAGE_MARK else {"type": "text", "text": piece}
        for piece in pieces
        if piece
    ]


def token_characters(
    tokenizer: "PreTrainedTokenizerBase", text: str, spelt: bool = False
) -> list[list[int]]:
    """List for each token of `text` the code points of which it covers at least one byte.

    Taken from the tokenizer's offsets, not from what tokens decode to: a token that is part of a
    character decodes to nothing.

    Args:
        tokenizer: a fast one, which knows its offsets.
        text: as it is tokenized, without adding special tokens.
        spelt: control tokens in the text are spelt as text.
    """
    options = _AS_TEXT if spelt else {"add_special_tokens": False}
    offsets = tokenizer(text, return_offsets_mapping=True, **options)["offset_mapping"]
    characters, reached = [], 0
    for start, stop in offsets:
        # Some tokenizers leave white space out of the offsets of the token that holds it, which
        # then begin after the last one's end or are empty.
        start, reached = min(start, reached), max(stop, reached)
        characters.append(sorted({ord(char) for char in text[start : max(stop, start + 1)]}))
    return characters


def _picture_ids(processor: "ProcessorMixin") -> set[int]:
    """Ids of the tokens that stand for pictures and videos in a prompt."""
    names = ("image_token_id", "video_token_id")
    ids = (getattr(processor, name, None) for name in names)
    return {token for token in ids if isinstance(token, int)}


def control_ids(
    processor: "ProcessorMixin", tokenizer: "PreTrainedTokenizerBase"
) -> frozenset[int]:
    """Ids of control tokens: special and picture tokens, without that of unknown characters."""
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    ids = special | set(tokenizer.all_special_ids) | _picture_ids(processor)
    return frozenset(ids - {tokenizer.unk_token_id})
