"""Rows to batches: one collator for training and generation, on both backends.

Fixes three things that stock vision collators do to text lines: pictures are never shrunk behind
the user's back (only the processor's own pixel budget applies), only the completion and its
end-of-turn token carry labels, and a padding token equal to the end token masks nothing, because
labels are set by position.
"""

import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jinja2 import TemplateError
from PIL import Image

from data_prep.dataset.pictures import PictureError, fit_height, open_image
from ocrkit.config import TrainConfig
from ocrkit.data.patches import cut_patches, cuts
from ocrkit.data.rows import IMAGE_MARK, text_of
from ocrkit.errors import DataError

# Not found in any text; where a template puts it, a completion goes.
_COMPLETION = " \ue000 "

# Rows whose tokens are counted at once: so few that Python need not look for garbage, which takes
# longer than the counting, with all that is imported.
_TOGETHER = 64

# Encodes a text without reading control tokens in it.
_AS_TEXT = {"add_special_tokens": False, "split_special_tokens": True}

# Per-token sequences that processors return beside input_ids, and what padding holds there.
_TOKEN_KEYS = {"attention_mask": 0, "mm_token_type_ids": 0, "token_type_ids": 0}


class RowRefused(ValueError):
    """A row that this model cannot take: the `reason`, which names the kind, and the `detail`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


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
        augment: of `ocrkit.data.augment.augmenter`: what is done to the pictures of training rows.

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
        self._control = _control_ids(processor, self.tokenizer)
        self._turns: list[str] | None = None
        self._ends: dict[str, tuple[list[int], int]] = {}
        self._prompts: dict[str, np.ndarray] = {}
        # None: not yet known; see `_processed`. Then, whether the processor tells kinds of token.
        self._shortcut: bool | None = None
        self._kinds = False

    def render(self, row: dict) -> tuple[str, str, str]:
        """The row's prompt as the chat template writes it, its completion, and the end of turn.

        Raises:
            RowRefused: the prompt holds tokens that turns are made of, or the template refuses it.
            ValueError: the template serves no row.
        """
        # Prompts repeat over a dataset; the template is rendered once for each.
        key = json.dumps([row["prompt"], len(row["images"])], ensure_ascii=False)
        if key not in self._rendered:
            prompt = with_image_parts(row["prompt"], len(row["images"]))
            try:
                self._check_prompt(row["prompt"])
                self._rendered[key] = self._conversation(prompt)
            except TemplateError as error:
                raise RowRefused("refused by the chat template", str(error)) from None
        before, after, trims = self._rendered[key]
        text = text_of(row["completion"]) if row.get("completion") else ""
        return before, text.strip() if trims else text, after

    def _conversation(self, prompt: list[dict]) -> tuple[str, str, bool]:
        """What stands before an answer and after it, and whether the template trims the answer."""
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
        return before, body.rpartition(mark)[2].removeprefix(" "), _COMPLETION not in body

    def _check_prompt(self, prompt: list[dict]) -> None:
        """Refuse a prompt whose text would be read as turns or pictures.

        Other tokens of the model's own, such as names of tasks, may well be meant.
        """
        if self._turns is None:
            user = {"role": "user", "content": "x"}
            before, after, _ = self._conversation(with_image_parts([user], 1))
            ids = self.tokenizer(before + after, add_special_tokens=False)["input_ids"]
            ids = {*ids, *_picture_ids(self.processor), self.tokenizer.eos_token_id}
            self._turns = self.tokenizer.convert_ids_to_tokens(sorted(ids & self._control))
        for message in prompt:
            text = text_of([message])
            for token in self._turns:
                if token in text:
                    raise RowRefused(
                        "control token in the prompt",
                        f"{token} in {text[:80]!r} would end a turn or stand for a picture; "
                        "take it out",
                    )

    def text_tokens(self, rows: Sequence[dict]) -> list[float]:
        """Tokens of each row's prompt and completion, without those of its pictures.

        Infinite where the row is refused.
        """
        counts, rendered, places = [math.inf] * len(rows), [], []
        for place, row in enumerate(rows):
            try:
                rendered.append(self.render({**row, "images": [None] * len(row["sizes"])}))
                places.append(place)
            except RowRefused:
                continue
        completions, _ = self._completions(rendered)
        for place, (prompt, *_), completion in zip(places, rendered, completions):
            # The placeholder that the prompt holds for a picture is one of the picture's tokens.
            own = len(self._prompt_ids(prompt)) - len(rows[place]["sizes"])
            counts[place] = math.inf if completion is None else own + len(completion)
        return counts

    def check_text(self, row: dict) -> None:
        """Refuse, with a reason, a row whose text this model cannot take.

        Raises:
            RowRefused: its prompt or its completion holds control tokens.
        """
        rendered = self.render(row)
        if self._completions([rendered])[0][0] is None:
            raise RowRefused(
                "control token in the text",
                f"{rendered[1][:80]!r} cannot be spelt without this model's control tokens",
            )

    def _completions(
        self, rendered: Sequence[tuple[str, str, str]]
    ) -> tuple[list[list[int] | None], list[bool]]:
        """Token ids of completions, each ending with the end-of-turn token, and which were split.

        A text that holds control tokens is split: spelt letter for letter, as any other text. None
        where the tokenizer cannot do that.
        """
        texts = [text + after for _, text, after in rendered]
        found = self.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        completions, split = [], []
        for ids, (_, text, after) in zip(found, rendered):
            end, controls = self._end(after)
            split.append(sum(map(self._control.__contains__, ids)) != controls)
            if split[-1]:
                ids = self._split(text)
                completions.append(None if ids is None else [*ids, *end])
                continue
            # What a template writes after the end of turn (a line break) is never generated.
            last = end[-1]
            completions.append([*ids[: ids.index(last)], last] if last in ids else [*ids, last])
        return completions, split

    def _end(self, after: str) -> tuple[list[int], int]:
        """Ids of what a template writes after an answer, to the end of turn; its control tokens."""
        if after not in self._ends:
            ids = self.tokenizer(after, add_special_tokens=False)["input_ids"] if after else []
            end = self.tokenizer.eos_token_id
            until = ids[: ids.index(end)] if end in ids else ids
            self._ends[after] = [*until, end], sum(map(self._control.__contains__, ids))
        return self._ends[after]

    def _split(self, text: str) -> list[int] | None:
        """Ids of a text in which control tokens are spelt as text; None where they cannot be."""
        ids = self.tokenizer(text, **_AS_TEXT)["input_ids"]
        return ids if self._control.isdisjoint(ids) else None

    def _prompt_ids(self, prompt: str) -> np.ndarray:
        """Token ids of a rendered prompt, one placeholder for each picture."""
        if prompt not in self._prompts:
            ids = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
            self._prompts[prompt] = np.array(ids)
        return self._prompts[prompt]

    def __call__(self, rows: Sequence[dict]) -> dict[str, torch.Tensor]:
        """Collate rows; see the class for what comes out."""
        rendered = [self.render(row) for row in rows]
        pictures = [self._pictures(row) for row in rows]
        if self.augment:
            pictures = self.augment(rows, pictures)
        batch = self._processed([prompt for prompt, *_ in rendered], pictures)
        sequences = {key: batch.pop(key) for key in ("input_ids", *_TOKEN_KEYS) if key in batch}
        # Mllama's: for every token the tiles that it looks at, (tokens, pictures, tiles) a row.
        crossing = batch.pop("cross_attention_mask", None)
        completions, split = [[]] * len(rows), []
        if not self.generation:
            completions, split = self._completions(rendered)
            if None in completions:
                self.check_text(rows[completions.index(None)])
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
                batch["label_characters"] = self._characters(
                    rendered, split, completions, prompts, width
                )
        if crossing is not None:
            batch["cross_attention_mask"] = _grown(crossing, prompts, lengths, self.generation)
        batch = {key: torch.as_tensor(value) for key, value in batch.items()}
        return {**batch, "ids": [row["id"] for row in rows]} if self.with_ids else batch

    def _pictures(self, row: dict) -> list[Image.Image]:
        """The row's pictures; one that cannot be opened is named with its row."""
        try:
            return scaled_pictures(row, self.image_height, grey=self.augment is None)
        except PictureError as error:
            if not self.with_ids:
                raise
            raise DataError(
                f"Row {row['id']!r} cannot be read ({error}); `python -m data_prep.validate` lists "
                "every such row: take them out of the dataset."
            ) from None

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
        self,
        rendered: Sequence[tuple[str, str, str]],
        split: Sequence[bool],
        completions: list[list[int]],
        starts: list[int],
        width: int,
    ) -> torch.Tensor:
        # The end of turn, always last, touches no character.
        found = [
            touched(self.tokenizer, text if alone else text + after, alone)[: len(ids) - 1]
            for (_, text, after), alone, ids in zip(rendered, split, completions)
        ]
        at, points = [], []
        for row, (start, tokens) in enumerate(zip(starts, found)):
            for place, codes in enumerate(tokens, start):
                at += [(row, place, slot) for slot in range(len(codes))]
                points += codes
        most = max((slot + 1 for _, _, slot in at), default=1)
        characters = torch.zeros(len(rendered), width, most, dtype=torch.int32)
        if at:
            characters[tuple(torch.tensor(at).T)] = torch.tensor(points, dtype=torch.int32)
        return characters


def _picture_ids(processor: Any) -> set[int]:
    """Tokens that stand for pictures and videos in a prompt."""
    names = ("image_token_id", "video_token_id")
    ids = (getattr(processor, name, None) for name in names)
    return {token for token in ids if isinstance(token, int)}


def _control_ids(processor: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that are no text: special ones and pictures', but not that of unknown characters."""
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    ids = special | set(tokenizer.all_special_ids) | _picture_ids(processor)
    return frozenset(ids - {tokenizer.unk_token_id})


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


def picture_tokens(data: Any, processor: Any, config: TrainConfig) -> list[float]:
    """Tokens of each row's pictures, counted by the processor from their sizes.

    Infinite where the processor refuses a picture (Qwen's: one more than 200 times as long as it is
    wide). A picture in tiles (Mllama) takes one token of the text, which looks at its tiles across.
    """
    sizes = picture_sizes(data, config.image_height)
    try:
        tokens = iter(_counted([size for row in sizes for size in row], processor))
        return [sum(next(tokens) for _ in row) for row in sizes]
    except ValueError:
        return [_counted_or_infinite(row, processor) for row in sizes]


def _counted(sizes: list[tuple[int, int]], processor: Any) -> list[int]:
    """Tokens of pictures of (height, width); ValueError where the processor refuses one."""
    if hasattr(processor, "_get_num_multimodal_tokens"):
        return processor._get_num_multimodal_tokens(image_sizes=sizes).num_image_tokens
    if hasattr(processor.image_processor, "max_image_tiles"):
        return [1] * len(sizes)
    pictures = processor.image_processor
    merged = pictures.merge_size**2
    return [pictures.get_number_of_image_patches(h, w) // merged for h, w in sizes]


def _counted_or_infinite(sizes: list[tuple[int, int]], processor: Any) -> float:
    try:
        return sum(_counted(sizes, processor))
    except ValueError:
        return math.inf


def refusal(row: dict, processor: Any, config: TrainConfig, collator: Collator) -> dict[str, str]:
    """The `reason` and `detail` of a row for which `token_lengths` gives no finite number."""
    try:
        collator.check_text({**row, "images": [None] * len(row["sizes"])})
        _counted(picture_sizes([row], config.image_height)[0], processor)
    except RowRefused as error:
        return {"reason": error.reason, "detail": error.detail}
    except ValueError as error:
        drawn = ", ".join("{}x{}".format(*size) for size in row["sizes"])
        detail = f"{drawn} pixels: {error}; cut it into parts"
        return {"reason": "picture refused by the model's processor", "detail": detail}
    raise AssertionError(f"row {row['id']!r} is not refused")


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
) -> tuple[list[float], list[float]]:
    """Tokens of each row: (of its pictures, of its text with prompt and end of turn).

    Pictures are counted by the processor from their sizes, as the model will see them. A row that
    the model cannot take has infinitely many, and `refusal` says why.

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


def touched(tokenizer: Any, text: str, split: bool = False) -> list[list[int]]:
    """Code points that each token of `text` touches with at least one byte, each one once.

    Taken from where the tokenizer says that its tokens lie in the text, not from what they decode
    to: a token that is part of a character decodes to nothing.

    Args:
        tokenizer: a fast one, which knows its offsets.
        text: as it is tokenized, without adding special tokens.
        split: control tokens in the text are spelt as text.
    """
    split = {"split_special_tokens": True} if split else {}
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, **split)
    found, reached = [], 0
    for start, stop in offsets["offset_mapping"]:
        # Some tokenizers leave white space out of the offsets of the token that holds it, which
        # then begin after the last one's end or are empty.
        start, reached = min(start, reached), max(stop, reached)
        found.append(sorted({ord(char) for char in text[start : max(stop, start + 1)]}))
    return found
