"""Validation during training: which metrics its rows give, and the cross entropy over them."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ocrkit.config import TrainConfig
from ocrkit.errors import ConfigError, DataError, clear_frames
from ocrkit.evaluation.evaluate import records_of
from ocrkit.evaluation.records import Record
from ocrkit.evaluation.scoring import SampleCounts
from ocrkit.models.read import halve_batch
from ocrkit.training.losses import label_mass, supervised_loss

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, ProcessorMixin

    Collate = Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]


def check_validation(
    rows: "Dataset | None", processor: "ProcessorMixin", config: TrainConfig
) -> None:
    """Reject, before the first step, settings that the validation rows cannot serve.

    Args:
        rows: the validation rows, or None where nothing is evaluated.

    Raises:
        DataError: settings need a validation split and there is none.
        ConfigError: a best model by a metric that these rows do not have, or character weights
            with a tokenizer that does not return offsets.
        ValueError: the normalisation profile does not serve the rows' languages.
    """
    if rows is None:
        if setting := _setting_that_needs_validation(config):
            raise DataError(
                f"{config.dataset} has no validation split, which {setting} needs; split it with "
                "`python -m data_prep.convert --split`, or leave that setting out."
            )
        return
    if "confusion" in config.loss and not processor.tokenizer.is_fast:
        raise ConfigError(
            f"loss={config.loss!r} needs a tokenizer that returns the offsets of its tokens in a "
            f"text, and {type(processor.tokenizer).__name__} does not; take loss=focal."
        )
    names = ["loss", *scores(records_of(rows), config)]
    metric = (config.metric_for_best_model or "loss").removeprefix("eval_")
    if metric not in names:
        raise ConfigError(
            f"metric_for_best_model={metric!r} cannot be read from the validation rows of "
            f"{config.dataset}; it is one of {', '.join(names)}."
        )


def _setting_that_needs_validation(config: TrainConfig) -> str | None:
    if config.load_best_model_at_end:
        return "load_best_model_at_end"
    if config.early_stopping_patience is not None:
        return "early_stopping_patience"
    return f"loss={config.loss}" if "confusion" in config.loss else None


def scores(records: Sequence[Record], config: TrainConfig) -> dict[str, float]:
    """Every metric of an evaluation, without intervals, and the number of failed rows."""
    counts = SampleCounts(records, config.normalization_profile, config.locale)
    rates = {name: tally.rate for name, tally in counts.tallies.items()}
    return rates | {"failed": float(sum(bool(record.get("error")) for record in records))}


def cross_entropy_of_rows(
    model: "PreTrainedModel", rows: "Dataset", collate: "Collate", batch_size: int
) -> tuple[float, int]:
    """Sum of the cross entropy in nats, and number of labels; out of memory halves the batches.

    Batches hold rows of like length. Rows that cannot be read, and those whose loss is NaN or
    infinite, count in neither.

    Args:
        collate: makes a batch of rows on the model's device.
    """
    lengths = rows["length"] if "length" in rows.column_names else [0] * len(rows)
    order = sorted(range(len(rows)), key=lambda i: -lengths[i])
    training = model.training
    total, labels, start = 0.0, 0, 0
    model.eval()
    while start < len(order):
        chosen = order[start : start + batch_size]
        try:
            nats, count = _batch_loss(model, collate, [rows[i] for i in chosen])
        except torch.cuda.OutOfMemoryError as error:
            if batch_size == 1:
                raise
            clear_frames(error)
            batch_size = halve_batch(batch_size)
            continue
        except (ValueError, OSError):
            nats, count = math.nan, 0
        if not math.isfinite(nats):
            # Some row of the batch cannot be read: reading it counts it as failed.
            each = [_row_loss(model, collate, rows, i) for i in chosen]
            nats, count = (sum(values) for values in zip(*each))
        total, labels, start = total + nats, labels + count, start + len(chosen)
    model.train(training)
    return total, labels


def _batch_loss(
    model: "PreTrainedModel", collate: "Collate", rows: list[dict[str, Any]]
) -> tuple[float, int]:
    batch = collate(rows)
    with torch.no_grad():
        nats = supervised_loss(model, batch, num_items=1).item()
    return nats, int(label_mass(batch["labels"]))


def _row_loss(
    model: "PreTrainedModel", collate: "Collate", rows: "Dataset", number: int
) -> tuple[float, int]:
    """Nats and labels of one row; zeros for a row that cannot be read or has no finite loss."""
    try:
        nats, labels = _batch_loss(model, collate, [rows[number]])
    except (ValueError, OSError):
        return 0.0, 0
    return (nats, labels) if math.isfinite(nats) else (0.0, 0)
