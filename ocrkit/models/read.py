"""Greedy generation in batches of like length, one result at a time."""

import hashlib
import json
import math
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from tqdm.auto import tqdm

from data_prep.dataset.pictures import PictureError, read_header
from ocrkit.config import TrainConfig
from ocrkit.data.collate import Collator, picture_sizes
from ocrkit.data.rows import picture_hashes
from ocrkit.models.backend import inference_mode

#: Begins the error of a row whose logits were no numbers.
NO_NUMBERS = "the model computed no numbers"


class _Confidence:
    """Adds up the log-probabilities of the greedily chosen tokens while they are generated.

    Keeping the logits of a long batch until its end would cost gigabytes. A row whose logits are
    NaN or infinite is made to end at once: whatever token is chosen there was not read.

    Args:
        end: the token that ends a turn.
    """

    def __init__(self, end: int) -> None:
        self.end = end
        self.steps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        best = scores.float().max(dim=-1).values - scores.float().logsumexp(dim=-1)
        self.steps.append(best)
        ending = torch.full_like(scores[:1], -torch.inf)
        ending[:, self.end] = 0
        return torch.where(best.isfinite()[:, None], scores, ending)

    def mean(self, row: int, length: int) -> float:
        """Geometric mean of the probabilities of the row's first `length` tokens.

        NaN where the logits of one of them were NaN or infinite.
        """
        if not length:
            return 0.0
        steps = torch.stack([step[row] for step in self.steps[:length]])
        return float(steps.mean().exp()) if steps.isfinite().all() else math.nan


def predict_stream(
    model: Any,
    processor: Any,
    data: Any,
    config: TrainConfig,
    progress_bar: bool = True,
    warn: bool = True,
) -> Iterator[dict[str, Any]]:
    """Read every row of `data`; yields `{id, prediction, confidence, finish_reason, error}`.

    Rows come in the order of their pictures' size, longest first, so that a batch too large for
    the memory shows at once; out of memory halves the batch and goes on, and leaves the size that
    fits in `config` for the next call. A row whose picture cannot be read or whose generation fails
    yields an empty prediction with the error's text, and so does one for which the model computes
    NaN or infinity. `finish_reason` is "stop" (the model ended its turn) or "length"
    (`max_new_tokens` ended it).

    Args:
        model: what `load_model` returned.
        processor: likewise.
        data: rows with `id`, `prompt` and `images`: a Dataset, or a list of dicts whose pictures
            are paths, PIL pictures or `{path, bytes}`.
        config: the settings of the run.
        progress_bar: show one.
        warn: tell at the end how many rows had no numbers.
    """
    collate = Collator(processor, config.image_height, generation=True)
    ids, areas = _ids_and_areas(data, config)
    order = sorted(range(len(ids)), key=lambda i: -areas[i])
    batch_size, start, broken = config.per_device_eval_batch_size, 0, 0
    bar = tqdm(total=len(order), desc="reading", delay=2, disable=not progress_bar)
    with inference_mode(model), bar as progress:
        while start < len(order):
            config.per_device_eval_batch_size = batch_size
            chosen = order[start : start + batch_size]
            try:
                results = read_batch(model, collate, [data[i] for i in chosen], config)
            except torch.cuda.OutOfMemoryError:
                if batch_size > 1:
                    batch_size = halved(batch_size)
                    continue
                torch.cuda.empty_cache()
                results = [_failed("out of memory with a batch of 1; lower max_pixels")]
            except Exception as error:
                # One bad row must not take its neighbours along: read them one by one.
                if len(chosen) > 1:
                    results = [_read_one(model, collate, data, i, config) for i in chosen]
                else:
                    results = [_failed(error)]
            if len(chosen) > 1:
                # Rows share a picture encoder's pass, where one without numbers spoils its masks.
                results = [
                    _read_one(model, collate, data, i, config)
                    if without_numbers(result)
                    else result
                    for i, result in zip(chosen, results)
                ]
            broken += sum(map(without_numbers, results))
            for i, result in zip(chosen, results):
                yield {"id": ids[i], **result}
            progress.update(len(chosen))
            start += len(chosen)
    if broken and warn:
        warn_of_no_numbers(model, broken, len(order))


def without_numbers(result: dict[str, Any]) -> bool:
    """Whether a row failed because its logits were NaN or infinite."""
    return (result["error"] or "").startswith(NO_NUMBERS)


def warn_of_no_numbers(model: Any, count: int, total: int) -> None:
    """Print how many of the rows that were read failed for logits of NaN, and the way out."""
    tqdm.write(f"{count} of {total} rows failed: {_no_numbers(model)}", file=sys.stderr)


def _no_numbers(model: Any) -> str:
    dtype = str(model.dtype).removeprefix("torch.")
    way = "set dtype=bfloat16 or dtype=float32, whose range is wider"
    if dtype == "float32":
        way = "its weights hold NaN or infinity, so take an earlier checkpoint or another model"
    elif dtype == "bfloat16":
        way = "set dtype=float32; if that does not help, its weights are damaged"
    return f"{NO_NUMBERS} but NaN or infinity in {dtype}; {way}."


def halved(batch_size: int) -> int:
    """Half of a batch that ran out of memory, which is freed and said."""
    torch.cuda.empty_cache()
    tqdm.write(f"Out of memory: going on with {batch_size // 2} samples at once.")
    return batch_size // 2


def predict(model: Any, processor: Any, data: Any, config: TrainConfig) -> list[str]:
    """The text that the model reads on each row of `data`, in the rows' order.

    A row that fails gives an empty string; `predict_stream` says why.
    """
    ids, _ = _ids_and_areas(data, config)
    texts = {r["id"]: r["prediction"] for r in predict_stream(model, processor, data, config)}
    return [texts[i] for i in ids]


def _ids_and_areas(data: Any, config: TrainConfig) -> tuple[list[str], list[int]]:
    """Ids, and the pixels of each row's pictures together."""
    if isinstance(data, Sequence):
        sizes = [[_size(image) for image in row["images"]] for row in data]
        ids = [row["id"] for row in data]
    else:
        sizes, ids = picture_sizes(data, config.image_height), list(data["id"])
    return ids, [sum(height * width for height, width in row) for row in sizes]


def _size(image: Any) -> tuple[int, int]:
    """(height, width) in pixels; (0, 0) where it cannot be opened, as its reading will tell."""
    try:
        header = read_header(image)
    except PictureError:
        return 0, 0
    return header.height, header.width


def _failed(error: Exception | str) -> dict[str, Any]:
    text = " ".join(str(error).split())[:300] or type(error).__name__
    return {"prediction": "", "confidence": 0.0, "finish_reason": "error", "error": text}


def _read_one(model: Any, collate: Collator, data: Any, index: int, config: TrainConfig) -> dict:
    try:
        return read_batch(model, collate, [data[index]], config)[0]
    except Exception as error:
        return _failed(error)


@torch.inference_mode()
def read_batch(model: Any, collate: Collator, rows: list[dict], config: TrainConfig) -> list[dict]:
    """Read rows as one batch, in `inference_mode`; what `predict_stream` yields, without ids.

    Args:
        collate: one for generation.
    """
    from transformers import LogitsProcessorList

    batch = {key: value.to(model.device) for key, value in collate(rows).items()}
    if "pixel_values" in batch and batch["pixel_values"].is_floating_point():
        batch["pixel_values"] = batch["pixel_values"].to(model.dtype)
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    end = next((token for token in ends if token is not None), collate.tokenizer.eos_token_id)
    confidence = _Confidence(end)
    output = model.generate(
        **batch,
        max_new_tokens=config.max_new_tokens,
        # Greedy, whatever the checkpoint's own settings: reading is not a matter of taste.
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        temperature=None,
        top_p=None,
        top_k=None,
        logits_processor=LogitsProcessorList([confidence]),
    )
    generated = output[:, batch["input_ids"].shape[1] :].tolist()
    ends = {collate.tokenizer.eos_token_id, *ends}
    results = []
    for row, tokens in enumerate(generated):
        length = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
        stopped = length < len(tokens)
        sure = confidence.mean(row, length + stopped)
        if math.isnan(sure):
            results.append(_failed(_no_numbers(model)))
            continue
        results.append(
            {
                "prediction": collate.tokenizer.decode(tokens[:length], skip_special_tokens=True),
                "confidence": round(sure, 6),
                "finish_reason": "stop" if stopped else "length",
                "error": None,
            }
        )
    return results


def weights_fingerprint(model: Any) -> str:
    """A hash that tells a model's weights from those of every other model.

    It is the same before and after saving and loading, in float32 and in the 16 bits that it was
    saved in, and with either backend. Adapters that were trained are hashed without their base;
    adapters that change nothing, as new ones, count as none, and the base is hashed.
    """
    base, adapters = _weights(model)
    # One of the two matrices of an adapter is drawn at random, the other begins as zeros.
    drawn = re.compile("lora_A|lora_embedding_B")
    if any(bool(values.any()) for name, values in adapters.items() if not drawn.search(name)):
        settings = model.peft_config["default"].to_dict()
        scale = {name: settings.get(name) for name in ("r", "lora_alpha", "use_rslora")}
        return _hash_of_weights(adapters, json.dumps(scale))
    return _hash_of_weights(base)


def _weights(model: Any) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Parameters of the base and of its adapters, by the names that they have without PEFT."""
    base, adapters = {}, {}
    for name, parameter in model.named_parameters():
        if hasattr(model, "peft_config"):
            name = name.removeprefix("base_model.model.")
            name = name.replace(".base_layer.", ".").replace(".original_module.", ".")
        part = adapters if "default" in name.split(".") else base
        part[name] = parameter.detach().flatten()
    return base, adapters


def _hash_of_weights(weights: dict[str, torch.Tensor], settings: str = "") -> str:
    """A hash over a sample of each tensor, and over the sum of its bits, which sees every value."""
    digest = hashlib.sha256(settings.encode())
    for name, values in sorted(weights.items()):
        sample = values[:: max(1, values.numel() // 1024)].cpu().float()
        bits = (part.float().view(torch.int32).sum() for part in values.split(1 << 24))
        digest.update(name.encode() + sample.numpy().tobytes())
        digest.update(str(sum(map(int, bits))).encode())
    return digest.hexdigest()[:16]


def fingerprint(model: Any, processor: Any, data: Any, config: TrainConfig) -> str:
    """What predictions depend on, as a hash: weights, pictures, prompts, generation settings.

    Truths do not count: a row whose truth was corrected is scored against the new one without
    being read again.
    """
    base, _ = _weights(model)
    digest = hashlib.sha256((weights_fingerprint(model) + _hash_of_weights(base)).encode())
    rows = isinstance(data, Sequence)
    settings = {
        "ids": [row["id"] for row in data] if rows else list(data["id"]),
        "prompts": [row["prompt"] for row in data] if rows else list(data["prompt"]),
        "pictures": picture_hashes(data),
        "dtype": str(model.dtype),
        "load_in_4bit": config.load_in_4bit,
        "size": str(getattr(processor.image_processor, "size", None)),
        "image_height": config.image_height,
        "max_new_tokens": config.max_new_tokens,
        "chat_template": processor.chat_template,
    }
    digest.update(json.dumps(settings, sort_keys=True).encode())
    return digest.hexdigest()[:16]
