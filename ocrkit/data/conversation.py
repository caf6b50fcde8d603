"""Conversations as tokens: the chat template renders a row's prompt, and labels cover the answer.

A prompt may be any chat template's. Where the answer starts and ends in it is found by rendering a
placeholder. Control tokens in a row's text are refused in a prompt and spelt as text in an answer.
The module is a little above 400 lines, so that everything that knows templates is in one file.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ocrkit.data.rows import IMAGE_MARK, Message, Row, text_of
from ocrkit.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin

# Placeholder rendered through the chat template to find where the answer starts and ends: a
# private-use character, which no text holds. Two spaces on each side show which side a template
# strips, and are told from a single space that it writes itself.
_MARK, _SPACES = "\ue000", "  "

# Variables of chat templates that let a model think before it answers. They are off unless
# `chat_template_kwargs` sets them: a reading is compared with the text of the picture.
_THINKING = ("enable_thinking", "thinking", "add_thinking")

# Attribute of a tokenizer: ids of all tokens at which its model's generation stops.
STOP_IDS = "ocrkit_stop_ids"

# Prompt with which a template is tried.
QUESTION: Message = {"role": "user", "content": "x"}

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
    """A row as text: together what the chat template renders of the whole conversation.

    Attributes:
        prompt: everything up to the answer, such as an empty thought after the header.
        answer: with the space before it, where a template writes one that belongs to its first
            token.
        end: text after the answer.
    """

    prompt: str
    answer: str
    end: str


class _Surroundings(NamedTuple):
    """What the chat template writes around an answer.

    Attributes:
        before: text up to the answer; likewise `after`.
        space: white space before the answer that is tokenized with it.
        strips: sides of an answer whose white space the template strips, "left" or "right".
    """

    before: str
    after: str
    space: str
    strips: frozenset[str]

    def answer(self, text: str) -> str:
        """An answer as the template writes it."""
        text = text.lstrip() if "left" in self.strips else text
        return self.space + (text.rstrip() if "right" in self.strips else text)


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
        self._rendered: dict[str, _Surroundings] = {}
        # {text between the generation prompt and the answer: its space that belongs to the answer}
        self._spaces: dict[str, str] = {}
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
            except ValueError:
                raise
            except Exception as error:  # a template may fail in any way on a row that it is not for
                raise RowRefused("refused by the chat template", str(error)) from None
        around = self._rendered[key]
        text = text_of(row["completion"]) if row.get("completion") else ""
        return Rendered(around.before, around.answer(text), around.after)

    def whole(self, row: Row) -> str:
        """Render a row's conversation, its prompt and its answer, with the chat template."""
        content = [{"type": "text", "text": text_of(row["completion"])}]
        prompt = with_image_parts(row["prompt"], len(row["images"]))
        return self._template([*prompt, {"role": "assistant", "content": content}])

    def end_of_turn(self) -> int:
        """Token id that ends an answer.

        Raises:
            Exception: whatever the template raises on a question and its answer; ValueError where
                it writes no answer.
        """
        return self._end(self._surroundings(with_image_parts([QUESTION], 1)).after)[0][-1]

    def reading(self, ids: Sequence[int]) -> str:
        """Decode the tokens of a generated answer, without the space that the template writes."""
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        spaces = [*filter(None, self._spaces.values())]
        return text.removeprefix(spaces[0]) if spaces else text

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

    def _surroundings(self, prompt: Sequence[Message]) -> _Surroundings:
        """Find what the template writes before and after an answer to `prompt`."""
        header: str = self._template(prompt, add_generation_prompt=True)
        # A few templates take an assistant's turn as a text only.
        text = _SPACES + _MARK + _SPACES
        contents: list[Any] = [[{"type": "text", "text": text}], text]
        for content in contents:
            try:
                whole = self._template([*prompt, {"role": "assistant", "content": content}])
            except TypeError:
                continue
            if _MARK in whole and "{'type': " not in whole:
                break
        else:
            raise ValueError(
                "The chat template does not write the answer of a conversation, so completion-only "
                "labels cannot be placed; use a template that writes the prompt and, after the "
                "assistant's header, the answer."
            )
        before, _, after = whole.rpartition(_MARK)
        strips = set()
        if not before.endswith(_SPACES):
            strips.add("left")
        if not after.startswith(_SPACES):
            strips.add("right")
        before, after = before.removesuffix(_SPACES), after.removeprefix(_SPACES)
        space = ""
        if before.startswith(header):
            space = self._space(before.removeprefix(header), after)
            before = before.removesuffix(space)
        else:
            # The conversation lacks something of the generation prompt, such as an empty thought.
            before = header
        bos = self.tokenizer.bos_token
        if bos and not before.startswith(bos) and self._adds_bos():
            before = bos + before
        return _Surroundings(before, after, space, frozenset(strips))

    def _template(self, messages: Sequence[Message], **options: bool) -> str:
        template: Any = self.processor.apply_chat_template
        return template(messages, tokenize=False, **options)

    def _adds_bos(self) -> bool:
        """Whether the tokenizer begins every text with its token for that, as a processor does."""
        return self.tokenizer("x")["input_ids"][:1] == [self.tokenizer.bos_token_id]

    def _space(self, written: str, after: str) -> str:
        """White space at the end of a text before an answer that is tokenized with the answer.

        A prompt that ends with it would be followed by other tokens than the conversation holds.

        Args:
            written: text between the generation prompt and the answer.
            after: text after the answer.
        """
        space = written[len(written.rstrip()) :]
        if space and written not in self._spaces:
            answers = ["No. 9" + after, "a" + after, "1" + after]
            alone = [self._ids(written) + self._ids(answer) for answer in answers]
            together = [self._ids(written + answer) for answer in answers]
            self._spaces[written] = "" if alone == together else space
        return self._spaces.get(written, "")

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _check_prompt(self, prompt: list[Message]) -> None:
        """Refuse a prompt whose text would be read as the end of a turn or as a picture.

        Other tokens of the model's own, such as names of tasks, may well be meant.
        """
        if not self._turn_tokens:
            around = self._surroundings(with_image_parts([QUESTION], 1))
            ids = self._ids(around.before + around.after)
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
        """Ids of the text after an answer, up to the end of turn; the number of control tokens.

        The end of turn is the first token of that text at which generation stops; where there is
        none its first control token; else the tokenizer's end of text.
        """
        if after not in self._ends:
            ids = self._ids(after) if after else []
            stops = {self.tokenizer.eos_token_id, *getattr(self.tokenizer, STOP_IDS, ())}
            candidates = [token for token in ids if token in stops] or [
                token for token in ids if token in self._control
            ]
            end = candidates[0] if candidates else self.tokenizer.eos_token_id
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


def fix_template_variables(
    processor: "ProcessorMixin", values: Mapping[str, object]
) -> dict[str, object]:
    """Give variables of the processor's chat template a value, which it keeps when it is saved.

    Those that let a model think first are off where they are not given.

    Args:
        values: {name: value}, of `chat_template_kwargs`.

    Returns:
        The variables that have a value now.

    Raises:
        ConfigError: the template has no such variable.
    """
    templates: Any = processor.chat_template
    template = templates.get("default", "") if isinstance(templates, dict) else templates or ""
    # Code of the template without its literals.
    code = " ".join(re.findall(r"\{[{%].*?[%}]\}", template, re.DOTALL))
    code = re.sub(r"'[^']*'|\"[^\"]*\"", "", code)
    names = set(re.findall(r"(?<![.\w])[A-Za-z_]\w*", code))
    for name in values:
        if name not in names:
            raise ConfigError(
                f"chat_template_kwargs: the model's chat template has no variable {name!r}; "
                "leave it out, or correct it."
            )
    off = [name for name in _THINKING if name in names and f"set {name} =" not in template]
    fixed: dict[str, object] = {**dict.fromkeys(off, False), **values}
    lines = [
        f"{{% if {name} is not defined %}}{{% set {name} = {_literal(value)} %}}{{% endif %}}"
        for name, value in fixed.items()
    ]
    if lines:
        # An empty text keeps a line break at the template's beginning.
        template = "".join(lines) + "{{ '' }}" + template
        is_named = isinstance(templates, dict)
        processor.chat_template = {**templates, "default": template} if is_named else template
    return fixed


def _literal(value: object) -> str:
    """Write a value as a literal of Jinja, which is that of JSON but for null."""
    return "none" if value is None else json.dumps(value)


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
