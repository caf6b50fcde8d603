"""Rows of a run: the training rows that fit the model's context, and the validation subset."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import concatenate_datasets

from ocrkit.config import TrainConfig
from ocrkit.data.collate import Collator
from ocrkit.data.lengths import picture_counter, refusal, row_lengths
from ocrkit.data.load import load_data, without_bars
from ocrkit.data.order import SLOT
from ocrkit.data.stream import RowStream
from ocrkit.environment import is_main_process, process_count
from ocrkit.errors import DataError
from ocrkit.metrics.text import language_codes
from ocrkit.run_folder import record_skipped
from ocrkit.training.batch_size import resolve_batch, resolved_batch_size

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from transformers import PreTrainedModel

# Rows of a stream that stand for all of them before it is read.
STREAM_SAMPLE = 256


def train_rows(
    rows: "Dataset | RowStream",
    model: "PreTrainedModel",
    collator: Collator,
    config: TrainConfig,
    saved: Mapping[str, Any] | None,
) -> "tuple[Dataset | RowStream, TrainConfig]":
    """The rows that fit the context, or the stream of them, and the settings with a batch size.

    Args:
        saved: what the checkpoint that the run resumes was made with; a stream begins after the
            batches that it has seen.

    Raises:
        DataError: no row fits.
    """
    replay = replay_rows(rows, config) if config.replay else None
    if not isinstance(rows, RowStream):
        rows = fit_context(rows, "train", model, collator, config)
        if replay is not None and not isinstance(replay, RowStream):
            replay = fit_context(replay, "replay", model, collator, config)
            rows = with_replay(rows, replay, config.replay_share)
        return rows, resolve_batch(config, model, collator, rows, rows["length"])
    context = context_length(model, config)
    stream = rows.fitting(collator.processor, context)
    if isinstance(replay, RowStream):
        stream = stream.mixed_with(replay.fitting(collator.processor, context), config.replay_share)
    sample = stream.take(STREAM_SAMPLE)
    if not len(sample):
        raise DataError(
            f"No train row of {config.dataset} can be used: each is unreadable or longer than the "
            f"context of {context} tokens; raise max_length or lower max_pixels."
        )
    lengths = row_lengths(sample, collator.processor, config, collator.conversation)
    config = resolve_batch(config, model, collator, sample, lengths)
    rows_per_batch = resolved_batch_size(config) * process_count()
    batches = saved["step"] * config.gradient_accumulation_steps if saved else 0
    return stream.after(batches, rows_per_batch), config


def epoch_samples(data: "DatasetDict", config: TrainConfig) -> "Dataset":
    """The samples of an epoch with the replayed ones, before any is left out.

    Of a stream the first rows, and as many replayed ones as belong to them.

    Raises:
        DataError: as `replay_rows`.
    """
    rows = data["train"].take(STREAM_SAMPLE) if config.streaming else data["train"]
    if not config.replay:
        return rows
    replay = replay_rows(data["train"], config)
    replay = replay.take(STREAM_SAMPLE) if isinstance(replay, RowStream) else replay
    slots = range(replay_slots(len(rows), config.replay_share))
    return concatenate_datasets([rows, replay.select([n % len(replay) for n in slots])])


def replay_rows(rows: "Dataset | RowStream", config: TrainConfig) -> "Dataset | RowStream":
    """The training rows of the dataset `config.replay`, or the stream of them.

    Args:
        rows: the training rows that they are mixed with.

    Raises:
        DataError: there are none, or they have another task or another language.
    """
    own = replace(config, dataset=config.replay_folder, replay=None, max_train_samples=None)
    replay = load_data(own)["train"]
    samples = [x.take(STREAM_SAMPLE) if isinstance(x, RowStream) else x for x in (rows, replay)]
    if not len(samples[1]):
        raise DataError(f"replay={config.replay!r} has no usable training row; leave replay out.")
    for name, stated in (("task", lambda tasks: {*tasks} - {None}), ("language", language_codes)):
        trained, replayed = (stated(data.unique(name)) for data in samples)
        if trained and replayed and not trained & replayed:
            raise DataError(
                f"replay={config.replay!r} holds rows of {name} {', '.join(sorted(replayed))} and "
                f"{config.dataset} of {', '.join(sorted(trained))}: what is kept by replay is what "
                f"the model did before, in the same {name}; give such a dataset or replay=none."
            )
    return replay


def replay_slots(rows: int, share: float) -> int:
    """Replayed samples beside so many rows, such that `share` of all are replayed."""
    return max(1, round(rows * share / (1 - share)))


def with_replay(rows: "Dataset", replay: "Dataset", share: float) -> "Dataset":
    """Add replayed rows in as many slots as make them `share` of an epoch's samples.

    Rows of like length share a slot and take turns by epoch, so that all of them are seen over
    some epochs; with fewer rows than slots they are seen several times an epoch.

    Args:
        rows: rows with `length`, which get a slot each; likewise `replay`.
    """
    slots = replay_slots(len(rows), share)
    order = np.argsort(replay["length"][:], kind="stable")
    numbers = np.arange(max(slots, len(replay)))
    with without_bars():
        replay = replay.select(np.sort(numbers % len(replay)) if slots > len(replay) else order)
        replay_slot = len(rows) + numbers * slots // len(numbers)
        both = [(rows, np.arange(len(rows))), (replay, replay_slot)]
        return concatenate_datasets([data.add_column(SLOT, slot.tolist()) for data, slot in both])


def validation_rows(data: "DatasetDict", config: TrainConfig) -> "Dataset | None":
    """The validation rows that every evaluation of a run reads; None: nothing is evaluated."""
    if "validation" not in data or not config.eval_steps:
        return None
    rows = data["validation"]
    if len(rows) <= config.eval_samples:
        return rows
    return rows.shuffle(seed=config.seed).select(range(config.eval_samples))


def fit_context(
    rows: "Dataset", split: str, model: "PreTrainedModel", collator: Collator, config: TrainConfig
) -> "Dataset":
    """The rows that fit the context, with their token counts in a column `length`.

    The others are listed in skipped.jsonl under the split's name. So are training rows that the
    model refuses; in another split these stay, for a row that cannot be read is a failed reading.

    Raises:
        DataError: no row fits.
    """
    processor = collator.processor
    lengths = row_lengths(rows, processor, config, collator.conversation)
    if is_main_process() and (counting := str(picture_counter(processor))):
        print(f"{split} rows: {counting}.")
    context = context_length(model, config)
    kept, left_out = [], []
    for number, (name, length) in enumerate(zip(rows["id"], lengths)):
        problem = {
            "reason": "longer than the context",
            "detail": f"{length} tokens, the context holds {context}",
        }
        if math.isinf(length):
            problem = refusal(
                rows.remove_columns("images")[number], processor, config, collator.conversation
            )
            lengths[number] = 0
        if length <= context or (math.isinf(length) and split not in ("train", "replay")):
            kept.append(number)
        else:
            left_out.append({"where": f"{split} row {name}", **problem})
    record_skipped(config.output_dir, left_out, place=f"{split} row ")
    if not kept:
        raise DataError(
            f"No {split} row fits the context of {context} tokens ({left_out[0]['reason']}: "
            f"{left_out[0]['detail']}); raise max_length or lower max_pixels."
        )
    with without_bars():
        return rows.select(kept).add_column("length", [lengths[i] for i in kept])


def context_length(model: "PreTrainedModel", config: TrainConfig) -> int:
    """Tokens that a sample may have: `max_length`, or what the model's positions allow."""
    text = model.config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None) or 1 << 30
    return min(config.max_length or positions, positions)
