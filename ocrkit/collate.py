"""Rows to batches: one collator for training and generation, on both backends.

Fixes three things that stock vision collators do to text lines: pictures are never shrunk behind
the user's back (only the processor's own pixel budget applies), only the completion and its
end-of-turn token carry labels, and a padding token equal to the end token masks nothing, because
labels are set by position.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image

from data_prep.render import fit_height
from ocrkit.config import TrainConfig
from ocrkit.confusion import touched
from ocrkit.data import open_image, text_of

# Not found in any text; where a template puts it, a completion goes.
_COMPLETION = " \ue000 "

# Per-token sequences that processors return beside input_ids, and what padding holds there.
_TOKEN_KEYS = {"attention_mask": 0, "mm_token_type_ids": 0, "token_type_ids": 0}


def with_image_parts(prompt: list[dict], images: int) -> list[dict]:
    """The prompt in parts, `images` picture placeholders before the first user message's text.

    Messages that already hold parts are returned as they stand.
    """
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


class Collator:
    """Collate rows of `prompt`, `completion` and `images` into what the model's forward takes.

    Args:
        processor: of a vision-language model; its image processor holds the pixel budget.
        image_height: scale every picture to this height in pixels first, its proportions kept
            (readers of single lines, such as the embedded model); None leaves sizes alone.
        generation: collate prompts only, padded on the left, for `model.generate`.
        characters: add `label_characters` of shape (rows, tokens, most), the code points that each
            label's token touches, 0 for none: what weighs labels looks characters up.
        with_ids: add the rows' `ids`, which the trainer names in errors and keeps from the model.
        augment: of `ocrkit.augment.augmenter`: what is done to the pictures of training rows.

    The batch holds `input_ids`, `attention_mask` and `labels` of shape (rows, tokens), −100 where
    a label does not count, and the processor's own image tensors.
    """

    def __init__(
        self,
        processor: Any,
        image_height: int | None = None,
        generation: bool = False,
        characters: bool = False,
        with_ids: bool = False,
        augment: Callable[[Sequence[dict], list], list] | None = None,
    ):
        self.processor = processor
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.image_height = image_height
        self.generation, self.characters, self.with_ids = generation, characters, with_ids
        self.augment = augment
        self._rendered: dict[str, tuple[str, str, bool]] = {}
        self._prompt_tokens: dict[str, int] = {}

    def render(self, row: dict) -> tuple[str, str]:
        """The row's prompt as the chat template writes it, and its completion with end of turn."""
        # Prompts repeat over a dataset; the template is rendered once for each.
        key = json.dumps([row["prompt"], len(row["images"])], ensure_ascii=False)
        if key not in self._rendered:
            prompt = with_image_parts(row["prompt"], len(row["images"]))
            answer = {"role": "assistant", "content": [{"type": "text", "text": _COMPLETION}]}
            template = self.processor.apply_chat_template
            before = template(prompt, tokenize=False, add_generation_prompt=True)
            whole = template([*prompt, answer], tokenize=False)
            body = whole.removeprefix(before)
            mark = _COMPLETION.strip()
            if not whole.startswith(before) or mark not in body:
                raise ValueError(
                    "The chat template does not write the prompt as a prefix of the conversation, "
                    "so completion-only labels cannot be placed; use a template that ends the "
                    "prompt with the assistant's header."
                )
            trims = _COMPLETION not in body
            self._rendered[key] = (before, body.rpartition(mark)[2].removeprefix(" "), trims)
        before, after, trims = self._rendered[key]
        text = text_of(row["completion"]) if row.get("completion") else ""
        return before, (text.strip() if trims else text) + after

    def text_tokens(self, row: dict) -> int:
        """Tokens of the row's prompt and completion, without those of its pictures."""
        pictures = len(row["sizes"])
        before, completion = self.render({**row, "images": [None] * pictures})
        if before not in self._prompt_tokens:
            ids = self.tokenizer(before, add_special_tokens=False)["input_ids"]
            # The placeholder that the prompt holds for a picture is one of the picture's tokens.
            self._prompt_tokens[before] = len(ids) - pictures
        return self._prompt_tokens[before] + len(self.completion_ids(completion))

    def completion_ids(self, completion: str) -> list[int]:
        """Token ids of a rendered completion, ending with the end-of-turn token."""
        ids = self.tokenizer(completion, add_special_tokens=False)["input_ids"]
        end = self.tokenizer.eos_token_id
        # What a template writes after the end of turn (a line break) is never generated.
        return [*ids[: ids.index(end)], end] if end in ids else [*ids, end]

    def __call__(self, rows: Sequence[dict]) -> dict[str, torch.Tensor]:
        """Collate rows; see the class for what comes out."""
        rendered = [self.render(row) for row in rows]
        pictures = [scaled_pictures(row, self.image_height) for row in rows]
        if self.augment:
            pictures = self.augment(rows, pictures)
        batch = dict(
            self.processor(
                text=[prompt for prompt, _ in rendered],
                images=pictures,
                padding=False,
                add_special_tokens=False,
            )
        )
        ids = [list(sequence) for sequence in batch.pop("input_ids")]
        beside = {key: [list(s) for s in batch.pop(key)] for key in _TOKEN_KEYS if key in batch}
        beside["attention_mask"] = [[1] * len(sequence) for sequence in ids]
        padding = {**_TOKEN_KEYS, "input_ids": self.tokenizer.pad_token_id, "labels": -100}
        if not self.generation:
            completions = [self.completion_ids(completion) for _, completion in rendered]
            labels = [[-100] * len(p) + c for p, c in zip(ids, completions)]
            ids = [p + c for p, c in zip(ids, completions)]
            for key, sequences in beside.items():
                fill = 1 if key == "attention_mask" else 0
                beside[key] = [s + [fill] * len(c) for s, c in zip(sequences, completions)]
            beside["labels"] = labels
        width = max(map(len, ids))
        if self.characters and not self.generation:
            starts = [len(i) - len(c) for i, c in zip(ids, completions)]
            texts = [completion for _, completion in rendered]
            batch["label_characters"] = self._characters(texts, completions, starts, width)
        for key, sequences in {"input_ids": ids, **beside}.items():
            fill = [padding[key]]
            batch[key] = torch.tensor(
                [
                    fill * (width - len(s)) + s if self.generation else s + fill * (width - len(s))
                    for s in sequences
                ]
            )
        batch = {key: torch.as_tensor(value) for key, value in batch.items()}
        return {**batch, "ids": [row["id"] for row in rows]} if self.with_ids else batch

    def _characters(
        self, texts: list[str], completions: list[list[int]], starts: list[int], width: int
    ) -> torch.Tensor:
        # The end of turn, always last, touches no character.
        found = [touched(self.tokenizer, t)[: len(ids) - 1] for t, ids in zip(texts, completions)]
        at, points = [], []
        for row, (start, tokens) in enumerate(zip(starts, found)):
            for place, codes in enumerate(tokens, start):
                at += [(row, place, slot) for slot in range(len(codes))]
                points += codes
        most = max((slot + 1 for _, _, slot in at), default=1)
        characters = torch.zeros(len(texts), width, most, dtype=torch.int32)
        if at:
            characters[tuple(torch.tensor(at).T)] = torch.tensor(points, dtype=torch.int32)
        return characters


def scaled_pictures(row: dict, image_height: int | None = None) -> list[Image.Image]:
    """The row's pictures in RGB, scaled to `image_height` pixels where that is set."""
    images = [open_image(image).convert("RGB") for image in row["images"]]
    if image_height:
        images = [
            image if image.height == image_height else fit_height(image, image_height)
            for image in images
        ]
    return images


def picture_sizes(data: Any, image_height: int | None = None) -> list[list[tuple[int, int]]]:
    """(height, width) in pixels of every picture of each row, scaled to `image_height` if given.

    Read from the rows' `sizes`, without opening a picture.

    Args:
        data: a Dataset, or a list of rows.
    """
    rows = [row["sizes"] for row in data] if isinstance(data, Sequence) else data["sizes"]
    sizes = [[(height, width) for width, height in row] for row in rows]
    if image_height:
        sizes = [[(image_height, max(1, round(w * image_height / h))) for h, w in s] for s in sizes]
    return sizes


def picture_tokens(data: Any, processor: Any, config: TrainConfig) -> list[int]:
    """Tokens of each row's pictures, counted by the processor from their sizes."""
    sizes = picture_sizes(data, config.image_height)
    # An extreme strip has no size in the processor's terms; it is found when it is read.
    every = [size for row in sizes for size in row]
    tokens = iter(processor._get_num_multimodal_tokens(image_sizes=every).num_image_tokens)
    return [sum(next(tokens) for _ in row) for row in sizes]


def token_lengths(
    data: Any, processor: Any, config: TrainConfig, collator: Collator | None = None
) -> tuple[list[int], list[int]]:
    """Tokens of each row: (of its pictures, of its text with prompt and end of turn).

    Pictures are counted by the processor from their sizes, as the model will see them.

    Args:
        data: a Dataset, or a list of rows.
        collator: one that knows the prompts already, where rows come one by one.
    """
    collator = collator or Collator(processor, config.image_height)
    rows = data if isinstance(data, Sequence) else data.remove_columns("images")
    return picture_tokens(data, processor, config), [collator.text_tokens(row) for row in rows]
