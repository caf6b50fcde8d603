"""Rows to batches: one collator for training and generation, on both backends.

Fixes three things that stock vision collators do to text lines: pictures are never shrunk behind
the user's back (only the processor's own pixel budget applies), only the completion and its
end-of-turn token carry labels, and a padding token equal to the end token masks nothing, because
labels are set by position.
"""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from data_prep.render import fit_height
from ocrkit.config import TrainConfig
from ocrkit.confusion import touched
from ocrkit.data import IMAGE_MARK, open_image, text_of
from ocrkit.patches import cut_patches, cuts

# Not found in any text; where a template puts it, a completion goes.
_COMPLETION = " \ue000 "

# Rows whose tokens are counted at once: so few that Python need not look for garbage, which takes
# longer than the counting, with all that is imported.
_TOGETHER = 64

# Per-token sequences that processors return beside input_ids, and what padding holds there.
_TOKEN_KEYS = {"attention_mask": 0, "mm_token_type_ids": 0, "token_type_ids": 0}


def with_image_parts(prompt: list[dict], images: int) -> list[dict]:
    """The prompt in parts, `images` picture placeholders before the first user message's text.

    Where the texts hold an `IMAGE_MARK` a picture, the pictures stand there instead. Messages that
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
    """A text as parts, its marks as pictures."""
    if not isinstance(content, str):
        return content
    pieces = re.split(f"({IMAGE_MARK})", content)
    return [
        {"type": "image"} if piece == IMAGE_MARK else {"type": "text", "text": piece}
        for piece in pieces
        if piece
    ]


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
        self._prompts: dict[str, np.ndarray] = {}
        # None: not yet known; see `_processed`. Then, whether the processor tells kinds of token.
        self._shortcut: bool | None = None
        self._kinds = False

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

    def text_tokens(self, rows: Sequence[dict]) -> list[int]:
        """Tokens of each row's prompt and completion, without those of its pictures."""
        pictures = [len(row["sizes"]) for row in rows]
        rendered = [
            self.render({**row, "images": [None] * count}) for row, count in zip(rows, pictures)
        ]
        completions = self.completion_ids([completion for _, completion in rendered])
        # The placeholder that the prompt holds for a picture is one of the picture's tokens.
        return [
            len(self._prompt_ids(prompt)) - count + len(completion)
            for (prompt, _), count, completion in zip(rendered, pictures, completions)
        ]

    def completion_ids(self, completions: Sequence[str]) -> list[list[int]]:
        """Token ids of rendered completions, each ending with the end-of-turn token."""
        found = self.tokenizer(list(completions), add_special_tokens=False)["input_ids"]
        end = self.tokenizer.eos_token_id
        # What a template writes after the end of turn (a line break) is never generated.
        return [[*ids[: ids.index(end)], end] if end in ids else [*ids, end] for ids in found]

    def _prompt_ids(self, prompt: str) -> np.ndarray:
        """Token ids of a rendered prompt, one placeholder for each picture."""
        if prompt not in self._prompts:
            ids = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
            self._prompts[prompt] = np.array(ids)
        return self._prompts[prompt]

    def __call__(self, rows: Sequence[dict]) -> dict[str, torch.Tensor]:
        """Collate rows; see the class for what comes out."""
        rendered = [self.render(row) for row in rows]
        grey = self.augment is None
        pictures = [scaled_pictures(row, self.image_height, grey) for row in rows]
        if self.augment:
            pictures = self.augment(rows, pictures)
        batch = self._processed([prompt for prompt, _ in rendered], pictures)
        sequences = {key: batch.pop(key) for key in ("input_ids", *_TOKEN_KEYS) if key in batch}
        # Mllama's: for every token the tiles that it looks at, (tokens, pictures, tiles) a row.
        crossing = batch.pop("cross_attention_mask", None)
        texts = [completion for _, completion in rendered]
        completions = [[]] * len(rows) if self.generation else self.completion_ids(texts)
        prompts = [len(ids) for ids in sequences["input_ids"]]
        lengths = [prompt + len(ids) for prompt, ids in zip(prompts, completions)]
        width = max(lengths)
        starts = [width - length if self.generation else 0 for length in lengths]
        padding = {**_TOKEN_KEYS, "input_ids": self.tokenizer.pad_token_id}
        for key, found in sequences.items():
            padded = np.full((len(rows), width), padding[key])
            for line, start, prompt in zip(padded, starts, found):
                line[start : start + len(prompt)] = prompt
            batch[key] = padded
        batch["attention_mask"] = np.zeros_like(batch["input_ids"])
        labels = np.full_like(batch["input_ids"], -100)
        for row, (start, prompt, length) in enumerate(zip(starts, prompts, lengths)):
            batch["attention_mask"][row, start : start + length] = 1
            batch["input_ids"][row, start + prompt : start + length] = completions[row]
            labels[row, start + prompt : start + length] = completions[row]
        if not self.generation:
            batch["labels"] = labels
            if self.characters:
                batch["label_characters"] = self._characters(texts, completions, prompts, width)
        if crossing is not None:
            batch["cross_attention_mask"] = _grown(crossing, prompts, lengths, self.generation)
        batch = {key: torch.as_tensor(value) for key, value in batch.items()}
        return {**batch, "ids": [row["id"] for row in rows]} if self.with_ids else batch

    def _processed(self, prompts: list[str], pictures: list[list[Image.Image]]) -> dict[str, Any]:
        """What the processor makes of prompts with pictures: lists of ids, and picture tensors.

        Where the processor is known, a shortcut comes to the same numbers several times faster.
        The first batch is made both ways, and a processor that was changed to do anything else is
        left to do it.
        """
        if self._shortcut is None:
            # A batch that the processor refuses decides nothing.
            own = self._by_processor(prompts, pictures)
            self._kinds = "mm_token_type_ids" in own
            known = cuts(self.processor.image_processor)
            short = self._short(prompts, pictures) if known else None
            self._shortcut = short is not None and _equal(own, short)
            return own
        short = self._short(prompts, pictures) if self._shortcut else None
        return short or self._by_processor(prompts, pictures)

    def _by_processor(
        self, prompts: list[str], pictures: list[list[Image.Image]]
    ) -> dict[str, Any]:
        pictures = [[image.convert("RGB") for image in images] for images in pictures]
        return dict(
            self.processor(text=prompts, images=pictures, padding=False, add_special_tokens=False)
        )

    def _short(
        self, prompts: list[str], pictures: list[list[Image.Image]]
    ) -> dict[str, Any] | None:
        """As `_by_processor`, for processors that `cuts` holds for; None where it cannot be so."""
        picture = getattr(self.processor, "image_token_id", None)
        known = [self._prompt_ids(prompt) for prompt in prompts]
        video = getattr(self.processor, "video_token_id", None)
        if any((ids == picture).sum() != len(row) for ids, row in zip(known, pictures)) or any(
            (ids == video).any() for ids in known if video is not None
        ):
            return None
        flat = [image for row in pictures for image in row]
        batch: dict[str, Any] = cut_patches(flat, self.processor.image_processor) if flat else {}
        merged = self.processor.image_processor.merge_size**2
        counts = iter((batch["image_grid_thw"].prod(dim=1) // merged).tolist() if flat else [])
        ids = []
        for tokens in known:
            places = tokens == picture
            repeats = np.ones(len(tokens), int)
            repeats[places] = [next(counts) for _ in range(places.sum())]
            ids.append(tokens.repeat(repeats))
        batch["input_ids"] = ids
        if self._kinds:
            batch["mm_token_type_ids"] = [(tokens == picture).astype(int) for tokens in ids]
        batch["attention_mask"] = [np.ones_like(tokens) for tokens in ids]
        return batch

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


def _equal(own: dict[str, Any], short: dict[str, Any]) -> bool:
    """Whether a processor's batch and the shortcut's hold the same numbers."""
    pictures = {"pixel_values", "image_grid_thw"}
    return (
        own.keys() == short.keys()
        and all(torch.equal(torch.as_tensor(own[key]), short[key]) for key in pictures & set(own))
        and all(
            list(map(list, own[key])) == list(map(list, short[key])) for key in set(own) - pictures
        )
    )


def _grown(
    crossing: Any, prompts: Sequence[int], lengths: Sequence[int], left: bool
) -> torch.Tensor:
    """The prompts' cross-attention masks, padded like the tokens and grown with the completions.

    A completion looks at what the last token of its prompt looks at.

    Args:
        crossing: (rows, longest prompt, pictures, tiles), from the processor, right of each row's
            prompt undefined.
        prompts: tokens of each row's prompt.
        lengths: tokens of each row.
        left: pad on the left.
    """
    crossing = torch.as_tensor(crossing)
    width = max(lengths)
    grown = crossing.new_zeros(len(crossing), width, *crossing.shape[2:])
    for row, (prompt, length) in enumerate(zip(prompts, lengths)):
        start = width - length if left else 0
        grown[row, start : start + prompt] = crossing[row, :prompt]
        grown[row, start + prompt : start + length] = crossing[row, prompt - 1]
    return grown


def scaled_pictures(
    row: dict, image_height: int | None = None, grey: bool = False
) -> list[Image.Image]:
    """The row's pictures in RGB, scaled to `image_height` pixels where that is set.

    Args:
        grey: leave grey pictures in mode L, which costs a third.
    """
    images = [open_image(image) for image in row["images"]]
    kept = ("L", "RGB") if grey else ("RGB",)
    images = [image if image.mode in kept else image.convert("RGB") for image in images]
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
    listed = isinstance(data, Sequence)
    # A column that is walked through row by row costs many times what it costs at once.
    rows = [row["sizes"] for row in data] if listed else data["sizes"][:]
    sizes = [[(height, width) for width, height in row] for row in rows]
    if image_height:
        sizes = [[(image_height, max(1, round(w * image_height / h))) for h, w in s] for s in sizes]
    return sizes


def picture_tokens(data: Any, processor: Any, config: TrainConfig) -> list[int]:
    """Tokens of each row's pictures, counted by the processor from their sizes.

    A picture in tiles (Mllama) takes one token of the text, which looks at its tiles across.
    """
    sizes = picture_sizes(data, config.image_height)
    # An extreme strip has no size in the processor's terms; it is found when it is read.
    every = [size for row in sizes for size in row]
    if hasattr(processor, "_get_num_multimodal_tokens"):
        counts = processor._get_num_multimodal_tokens(image_sizes=every).num_image_tokens
    elif hasattr(processor.image_processor, "max_image_tiles"):
        counts = [1] * len(every)
    else:
        pictures = processor.image_processor
        merged = pictures.merge_size**2
        counts = [pictures.get_number_of_image_patches(h, w) // merged for h, w in every]
    tokens = iter(counts)
    return [sum(next(tokens) for _ in row) for row in sizes]


def picture_canvases(
    data: Any, processor: Any, config: TrainConfig
) -> list[list[tuple[int, float]]]:
    """(tiles, share of its side that it keeps: above 1, enlarged) of every picture of each row.

    For processors that lay pictures out in tiles (Mllama), as their `max_image_tiles` allows.
    """
    from transformers.models.mllama.image_processing_mllama import get_optimal_tiled_canvas

    pictures = processor.image_processor
    side, most = pictures.size["height"], pictures.max_image_tiles
    canvases = []
    for row in picture_sizes(data, config.image_height):
        canvases.append([])
        for height, width in row:
            high, wide = (int(n) for n in get_optimal_tiled_canvas(height, width, most, side))
            scale = min(high / height, wide / width)
            canvases[-1].append((high * wide // side**2, scale))
    return canvases


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
    listed = isinstance(data, Sequence)
    source = data if listed else data.select_columns(["prompt", "completion", "sizes"])
    images, texts = [], []
    for start in range(0, len(data), _TOGETHER):
        rows = source[start : start + _TOGETHER]
        if not listed:
            rows = [dict(zip(rows, values)) for values in zip(*rows.values())]
        images += picture_tokens(rows, processor, config)
        texts += collator.text_tokens(rows)
    return images, texts
