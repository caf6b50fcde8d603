"""Difficulty of training rows for a curriculum: length, density, CER of the base, or a column."""

import hashlib
import json
import math
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.dataset.files import write_whole
from ocrkit.config import TrainConfig
from ocrkit.data.lengths import picture_tokens
from ocrkit.data.rows import picture_hashes, text_of
from ocrkit.environment import is_main_process, process_count, process_rank
from ocrkit.errors import DataError
from ocrkit.metrics.edits import cer
from ocrkit.metrics.text import graphemes
from ocrkit.models.read import frozen_weights_hash, predict

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, ProcessorMixin


def with_difficulty(
    rows: "Dataset", model: "PreTrainedModel", processor: "ProcessorMixin", config: TrainConfig
) -> "Dataset":
    """The training rows with a column `difficulty`, low for easy, as `config.curriculum` names it.

    - `length`: grapheme clusters of the text.
    - `density`: grapheme clusters per token of the picture, so how small the script is to the
      model.
    - `base_cer`: the CER of the model before training, predicted once and kept in the run folder.
    - anything else: a column of numbers, or a key of the rows' `meta`.

    Raises:
        DataError: a row has no number in that column or key.
    """
    if config.curriculum == "base_cer":
        values = _base_cer(rows, model, processor, config)
    elif config.curriculum in ("length", "density"):
        values = [float(len(graphemes(text_of(text)))) for text in rows["completion"]]
        if config.curriculum == "density":
            tokens = picture_tokens(rows, processor, config)
            values = [value / max(1, count) for value, count in zip(values, tokens)]
    elif config.curriculum is None:
        raise ValueError("curriculum=None orders no rows; set length, density or base_cer.")
    else:
        values = _numbers(rows, config.curriculum)
    return rows.add_column("difficulty", values)


def _numbers(rows: "Dataset", name: str) -> list[float]:
    """A number of each row, from a column or from `meta`."""
    if name in rows.column_names:
        stored: list[Any] = list(rows[name])
    else:
        stored = [_meta(text).get(name) for text in rows["meta"]]
    values = []
    for identity, value in zip(rows["id"], stored):
        try:
            values.append(math.nan if value is None else float(value))
        except (TypeError, ValueError):
            values.append(math.nan)
        if not math.isfinite(values[-1]):
            raise DataError(
                f"curriculum={name!r} needs a number in every training row, as a column or in "
                f"meta, but row {identity!r} has {value!r}; take length, density or base_cer."
            )
    return values


def _meta(text: str | None) -> dict[str, Any]:
    try:
        meta = json.loads(text or "{}")
    except ValueError:
        return {}
    return meta if isinstance(meta, dict) else {}


def _base_cer(
    rows: "Dataset", model: "PreTrainedModel", processor: "ProcessorMixin", config: TrainConfig
) -> list[float]:
    """The base model's CER on each row; cached in the run folder."""
    from accelerate.utils import gather_object

    path = Path(config.output_dir) / "base_cer.json"
    truths = [text_of(text) for text in rows["completion"]]
    size = str(getattr(processor.image_processor, "size", None))
    parts: list[Any] = [config.model_name_or_path, size, config.image_height, config.max_new_tokens]
    parts += [str(model.dtype), config.load_in_4bit, list(rows["id"]), truths]
    parts += [rows["prompt"][:], picture_hashes(rows), frozen_weights_hash(model)]
    fingerprint = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
    if path.is_file():
        cached = json.loads(path.read_text(encoding="utf-8"))
        if cached["fingerprint"] == fingerprint:
            return cached["cer"]
    share = range(process_rank(), len(rows), process_count())
    if is_main_process():
        print(f"Reading {len(rows)} training rows with the base model, for curriculum=base_cer.")
    with getattr(model, "disable_adapter", nullcontext)():
        texts = predict(model, processor, rows.select(share), config)
    predictions = dict(gather_object(list(zip(share, texts))))
    values = [float(cer([truth], [predictions[i]])) for i, truth in enumerate(truths)]
    if is_main_process():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps({"fingerprint": fingerprint, "cer": values}))
    return values
