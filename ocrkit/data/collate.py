"""Collator: rows to padded batches, for training and generation, on both backends.

Fixes three things that stock vision collators do to text lines: pictures are never shrunk behind
the user's back (only the processor's own pixel budget applies), only the completion and its
end-of-turn token carry labels, and a padding token equal to the end token masks nothing, because
labels are set by position.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from data_prep.dataset.pictures import PictureError, fit_height, open_image
from ocrkit.data.conversation import Answer, ConversationTokenizer, Rendered
from ocrkit.data.patches import cut_patches, supports_cut_patches
from ocrkit.data.rows import Row
from ocrkit.errors import DataError

if TYPE_CHECKING:
    from transformers import ProcessorMixin

# Start of the `where` of training rows whose pictures cannot be decoded.
UNREADABLE = "unreadable train row "


class Collator:
    """Collate rows of `prompt`, `completion` and `images` into what the model's forward takes.

    Args:
        processor: of a vision-language model; its image processor holds the pixel budget.
        image_height: scale every picture to this height in pixels first, its proportions kept
            (readers of single lines, such as the embedded model); None leaves sizes alone.
        generation: collate prompts only, padded on the left, for `model.generate`.
        characters: add `label_characters` of shape (rows, tokens, most), the code points of each
            label's token, padded with 0; a loss with weights per character looks them up.
        with_ids: add the rows' `ids` and the `unreadable` training rows, as `{where, reason,
            detail}`, which the trainer names and keeps from the model.
        augment: of `ocrkit.data.augment.augmenter`: augmentation of the pictures of training rows.

    The batch holds `input_ids`, `attention_mask` and `labels` of shape (rows, tokens), −100 where
    a label does not count, and the processor's own tensors, those over tokens extended. A training
    row (it carries `epoch`) whose picture cannot be decoded becomes a blank page without labels, so
    that nothing is learnt from it and the other rows come when they would have come.
    """

    def __init__(
        self,
        processor: "ProcessorMixin",
        image_height: int | None = None,
        generation: bool = False,
        characters: bool = False,
        with_ids: bool = False,
        augment: Callable[[Sequence[Row], list], list] | None = None,
    ):
        self.processor = processor
        self.conversation = ConversationTokenizer(processor)
        self.tokenizer = self.conversation.tokenizer
        self.image_height = image_height
        self.generation, self.characters, self.with_ids = generation, characters, with_ids
        self.augment = augment
        # Whether `_fast_batch` equals the processor's batch; None before the first batch.
        self._fast: bool | None = None
        self._has_token_types = False

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Collate rows; see the class for the batch.

        Raises:
            RowRefused: a row's text cannot be encoded for this model.
            DataError: a picture of a row that is no training row cannot be opened, with `with_ids`,
                which lets the error name its row; without, PictureError.
        """
        rendered = [self.conversation.render(row) for row in rows]
        unreadable: dict[int, dict[str, str]] = {}
        pictures = [self._pictures(row, n, unreadable) for n, row in enumerate(rows)]
        if self.augment:
            pictures = self.augment(rows, pictures)
        batch = self._processed([row.prompt for row in rendered], pictures)
        prompts = [len(ids) for ids in batch["input_ids"]]
        answers = [] if self.generation else self._answers(rows, rendered)
        completions = [answer.ids for answer in answers] or [[]] * len(rows)
        lengths = [prompt + len(ids) for prompt, ids in zip(prompts, completions)]
        width = max(lengths)
        starts = [width - length if self.generation else 0 for length in lengths]
        labels = np.full((len(rows), width), -100)
        for key in [key for key, value in batch.items() if _is_ragged(value)]:
            padding = self.tokenizer.pad_token_id if key == "input_ids" else 0
            batch[key] = _extend(batch[key], starts, lengths, width, padding)
        for row, (start, prompt, length) in enumerate(zip(starts, prompts, lengths)):
            batch["input_ids"][row, start + prompt : start + length] = completions[row]
            if row not in unreadable:
                labels[row, start + prompt : start + length] = completions[row]
        if not self.generation:
            batch["labels"] = labels
            if self.characters:
                batch["label_characters"] = self._characters(rendered, answers, prompts, width)
        batch = {
            key: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            for key, value in batch.items()
        }
        if self.with_ids:
            problems = [*unreadable.values()]
            return {**batch, "ids": [row["id"] for row in rows], "unreadable": problems}
        return batch

    def _answers(self, rows: Sequence[Row], rendered: Sequence[Rendered]) -> list[Answer]:
        """Encode the rows' completions; RowRefused for one that holds control tokens."""
        answers = self.conversation.answer_ids(rendered)
        if None in answers:
            self.conversation.check_text(rows[answers.index(None)])
        return [answer for answer in answers if answer is not None]

    def _pictures(
        self, row: Row, number: int, unreadable: dict[int, dict[str, str]]
    ) -> list[Image.Image]:
        """Open a row's pictures; blank ones of a training row, which is added to `unreadable`."""
        try:
            return scaled_pictures(row, self.image_height, grey=self.augment is None)
        except PictureError as error:
            if "epoch" in row:
                where, reason = f"{UNREADABLE}{row['id']}", error.reason.replace("image", "picture")
                unreadable[number] = {"where": where, "reason": reason, "detail": error.detail}
                blank = [Image.new("RGB", tuple(size), "white") for size in row["sizes"]]
                return scaled_pictures({"images": blank}, self.image_height)
            if not self.with_ids:
                raise
            raise DataError(
                f"Row {row['id']!r} cannot be read ({error}); `python -m data_prep.validate` lists "
                "every such row: take them out of the dataset."
            ) from None

    def _processed(self, prompts: list[str], pictures: list[list[Image.Image]]) -> dict[str, Any]:
        """Process prompts with pictures into lists of ids and picture tensors, without padding.

        `_fast_batch` gives the same numbers as a known processor, several times faster. The first
        batch is made both ways; where they differ (a changed processor), the processor is used.
        """
        if self._fast is None:
            # If the processor raises, the next batch decides.
            own = self._processor_batch(prompts, pictures)
            self._has_token_types = "mm_token_type_ids" in own
            known = supports_cut_patches(self.processor.image_processor)
            fast = self._fast_batch(prompts, pictures) if known else None
            self._fast = fast is not None and same_batch(own, fast)
            return own
        fast = self._fast_batch(prompts, pictures) if self._fast else None
        return fast or self._processor_batch(prompts, pictures)

    def _processor_batch(
        self, prompts: list[str], pictures: list[list[Image.Image]]
    ) -> dict[str, Any]:
        """Process as TRL does; sequences of tokens become a list of arrays without padding."""
        pictures = [[image.convert("RGB") for image in images] for images in pictures]
        batch = process(self.processor, prompts, pictures)
        mask = batch.pop("attention_mask").bool()
        ids = batch["input_ids"]
        # A processor may return labels of its own, of the prompt.
        batch.pop("labels", None)
        batch = {
            key: [row[kept].numpy() for row, kept in zip(value, mask)]
            if _is_sequence(value, ids)
            else value
            for key, value in batch.items()
        }
        return {**batch, "attention_mask": [np.ones(len(row), int) for row in batch["input_ids"]]}

    def _fast_batch(
        self, prompts: list[str], pictures: list[list[Image.Image]]
    ) -> dict[str, Any] | None:
        """Return what `_processor_batch` does, by `cut_patches`; None where that is impossible."""
        image_token = getattr(self.processor, "image_token_id", None)
        video_token = getattr(self.processor, "video_token_id", None)
        encoded = [self.conversation.prompt_ids(prompt) for prompt in prompts]
        if any((ids == image_token).sum() != len(row) for ids, row in zip(encoded, pictures)) or (
            video_token is not None and any((ids == video_token).any() for ids in encoded)
        ):
            return None
        flat = [image for row in pictures for image in row]
        batch: dict[str, Any] = cut_patches(flat, self.processor.image_processor) if flat else {}
        merged = self.processor.image_processor.merge_size**2
        counts = iter((batch["image_grid_thw"].prod(dim=1) // merged).tolist() if flat else [])
        ids = []
        for tokens in encoded:
            is_image = tokens == image_token
            repeats = np.ones(len(tokens), int)
            repeats[is_image] = [next(counts) for _ in range(is_image.sum())]
            ids.append(tokens.repeat(repeats))
        batch["input_ids"] = ids
        if self._has_token_types:
            batch["mm_token_type_ids"] = [(tokens == image_token).astype(int) for tokens in ids]
        batch["attention_mask"] = [np.ones_like(tokens) for tokens in ids]
        return batch

    def _characters(
        self,
        rendered: Sequence[Rendered],
        answers: Sequence[Answer],
        starts: list[int],
        width: int,
    ) -> torch.Tensor:
        """Code points of each label's token, (rows, width, most in a token), padded with 0."""
        positions, points = [], []
        for row, (texts, answer, start) in enumerate(zip(rendered, answers, starts)):
            tokens = self.conversation.answer_characters(texts, answer)
            for position, codes in enumerate(tokens, start):
                positions += [(row, position, slot) for slot in range(len(codes))]
                points += codes
        most = max((slot + 1 for _, _, slot in positions), default=1)
        characters = torch.zeros(len(rendered), width, most, dtype=torch.int32)
        if positions:
            characters[tuple(torch.tensor(positions).T)] = torch.tensor(points, dtype=torch.int32)
        return characters


def process(
    processor: "ProcessorMixin", prompts: Sequence[str], pictures: Sequence[Sequence[object]]
) -> dict[str, Any]:
    """Process prompts with pictures as TRL's collator does, to tensors padded on the right.

    Args:
        pictures: of each prompt; a processor that takes no nested list gets a flat one.
    """
    options: dict[str, Any] = {
        "text": [*prompts],
        "padding": True,
        "padding_side": "right",
        "add_special_tokens": False,
        "return_tensors": "pt",
    }
    nested = [[*images] for images in pictures]
    flat = [image for images in nested for image in images]
    if not flat:
        return dict(processor(images=None, **options))
    try:
        return dict(processor(images=nested, **options))
    except Exception as error:  # of any type, by a processor that takes no nested list
        try:
            return dict(processor(images=flat, **options))
        except Exception:  # the first error names the cause
            raise error from None


def same_batch(own: dict[str, Any], fast: dict[str, Any]) -> bool:
    """Whether two batches without padding hold the same numbers."""
    return own.keys() == fast.keys() and all(
        all(map(np.array_equal, own[key], fast[key]))
        if _is_ragged(own[key])
        else torch.equal(own[key], fast[key])
        for key in own
    )


def _is_sequence(value: object, ids: torch.Tensor) -> bool:
    """Whether a tensor holds a number, or several, for each token of a batch."""
    return (
        isinstance(value, torch.Tensor)
        and not value.is_floating_point()
        and value.shape[:2] == ids.shape
    )


def _is_ragged(value: object) -> bool:
    """Whether a value is a list of sequences of tokens, without padding."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], np.ndarray)


def _extend(
    sequences: Sequence[np.ndarray],
    starts: Sequence[int],
    lengths: Sequence[int],
    width: int,
    padding: int,
) -> np.ndarray:
    """Pad sequences over the tokens of prompts and extend them over the completions.

    A completion has what the last token of its prompt has: in the mask a 1, no type of a picture,
    the same tiles to attend to.

    Args:
        sequences: a number or an array for each token of a prompt.
        starts: where a row begins.
        lengths: tokens of each row.
        width: tokens of the batch.
        padding: number beside the rows.
    """
    shape = (len(sequences), width, *sequences[0].shape[1:])
    extended = np.full(shape, padding, sequences[0].dtype)
    for line, sequence, start, length in zip(extended, sequences, starts, lengths):
        line[start : start + len(sequence)] = sequence
        line[start + len(sequence) : start + length] = sequence[-1]
    return extended


def scaled_pictures(
    row: Row, image_height: int | None = None, grey: bool = False
) -> list[Image.Image]:
    """Open a row's pictures in RGB, scaled to `image_height` pixels where that is set.

    Args:
        grey: leave grey pictures in mode L, which costs a third.

    Raises:
        PictureError: a picture cannot be opened.
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
