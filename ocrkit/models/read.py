"""Greedy generation in batches of like length, one result at a time; fingerprints of weights.

The module is a little above 400 lines, so that everything that a reading depends on is in one file.
"""

import hashlib
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict, cast

import torch
from tqdm.auto import tqdm

from data_prep.dataset.pictures import PictureError, read_header
from ocrkit.config import TrainConfig
from ocrkit.data.collate import Collator
from ocrkit.data.lengths import picture_sizes
from ocrkit.data.rows import Row, picture_hashes
from ocrkit.errors import clear_frames
from ocrkit.models.backend import inference_mode
from ocrkit.models.checks import reads_alike_in_batches
from ocrkit.models.confidence import Confidence, doubtful_spans

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, ProcessorMixin

    Rows = Dataset | Sequence[Row]

# Rows of a stream that are held at the same time, with their pictures.
CHUNK = 64
# Start of the error of a row whose logits are NaN or infinite.
NAN_LOGITS = "the model computed no numbers"


class Prediction(TypedDict):
    """Result of reading a row.

    `finish_reason` is "stop" (the model ended its turn), "length" (`max_new_tokens` ended it) or
    "error", with an empty prediction and the error's text in `error`. `doubts`, where asked for,
    are spans (start, end) of doubtful characters.
    """

    id: str
    prediction: str
    confidence: float | None
    finish_reason: str
    error: str | None
    doubts: NotRequired[list[list[int]]]


class Reader:
    """Reads rows, and keeps its collator and the batch size that fits the memory between calls.

    Args:
        model: from `load_model`.
        processor: from `load_model`.
        config: settings of the run.
        doubts: tell of each prediction which characters are doubtful.

    Attributes:
        batch_size: rows that are read at once, halved whenever memory runs out.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        processor: "ProcessorMixin",
        config: TrainConfig,
        doubts: bool = False,
    ) -> None:
        self.doubts = doubts
        self.model, self.processor, self.config = model, processor, config
        self.collate = Collator(processor, config.image_height, generation=True)
        self.batch_size = config.per_device_eval_batch_size
        self._nan_rows = 0
        self._rows = 0
        self._batch_failed = False

    def read(self, rows: "Rows", progress_bar: bool = True) -> Iterator[Prediction]:
        """Read every row, as `predict_stream` does, without its warning of NaN logits."""
        ids, areas = _ids_and_areas(rows, self.config)
        order = sorted(range(len(ids)), key=lambda i: -areas[i])
        start = 0
        bar = tqdm(total=len(order), desc="reading", delay=2, disable=not progress_bar)
        with inference_mode(self.model), bar as progress:
            if self.batch_size > 1 and len(order) > 1:
                self._check_batches()
            while start < len(order):
                batch = order[start : start + self.batch_size]
                try:
                    results = self._read_batch([cast("Row", rows[i]) for i in batch])
                except torch.cuda.OutOfMemoryError as error:
                    clear_frames(error)
                    if self.batch_size > 1:
                        self.batch_size = halve_batch(self.batch_size)
                        continue
                    torch.cuda.empty_cache()
                    cause = "out of memory with a batch of 1; lower max_pixels"
                    results = [_failed(ids[batch[0]], cause)]
                except Exception as error:  # processors and models raise errors of any type
                    # A bad row must not fail the batch: its rows are read separately.
                    if len(batch) > 1:
                        self._say_batch_failed(error)
                        results = [self._read_row(rows, i, ids[i]) for i in batch]
                    else:
                        results = [_failed(ids[batch[0]], error)]
                if len(batch) > 1:
                    # Rows share the vision tower's pass, where NaN of a row can spoil the masks.
                    results = [
                        self._read_row(rows, i, ids[i]) if has_nan_logits(result) else result
                        for i, result in zip(batch, results)
                    ]
                self._nan_rows += sum(map(has_nan_logits, results))
                self._rows += len(results)
                yield from results
                progress.update(len(batch))
                start += len(batch)

    def read_stream(self, rows: Iterable[Row]) -> Iterator[Prediction]:
        """Read any number of rows, `CHUNK` at a time, of which the largest come first."""
        stream = iter(rows)
        while chunk := list(islice(stream, CHUNK)):
            yield from self.read(chunk)
        self.warn_of_nan()

    def fingerprint(self, rows: "Rows") -> str:
        """Checksum of weights, pictures, prompts and settings; see `fingerprint`."""
        return fingerprint(self.model, self.processor, rows, self.config)

    def _check_batches(self) -> None:
        """Read rows one by one where a padded batch reads otherwise, and say so."""
        try:
            alike = reads_alike_in_batches(self.model, self.collate)
        except Exception:  # the first batch fails as well, and says why
            alike = True
        if not alike:
            self.batch_size = 1
            tqdm.write(
                f"{self.model.config.model_type}: this model reads a padded batch otherwise than "
                "its rows, so rows are read one by one.",
                file=sys.stderr,
            )

    def _say_batch_failed(self, error: Exception) -> None:
        """Say, once, that the rows of a batch that failed are read one by one."""
        if not self._batch_failed:
            cause = " ".join(str(error).split())[:200] or type(error).__name__
            tqdm.write(
                f"A batch failed ({cause}); the rows of such a batch are read one by one.",
                file=sys.stderr,
            )
        self._batch_failed = True

    def warn_of_nan(self) -> None:
        """Print how many rows failed because of NaN logits, if any, and the way out."""
        if self._nan_rows:
            count = f"{self._nan_rows} of {self._rows} rows failed"
            tqdm.write(f"{count}: {_nan_message(self.model)}", file=sys.stderr)
        self._nan_rows = self._rows = 0

    def _read_batch(self, rows: Sequence[Row]) -> list[Prediction]:
        return read_batch(self.model, self.collate, rows, self.config, doubts=self.doubts)

    def _read_row(self, rows: "Rows", index: int, id: str) -> Prediction:
        try:
            return self._read_batch([cast("Row", rows[index])])[0]
        except Exception as error:  # any error of a row fails this row alone
            return _failed(id, error)


def predict_stream(
    model: "PreTrainedModel",
    processor: "ProcessorMixin",
    data: "Rows",
    config: TrainConfig,
    progress_bar: bool = True,
) -> Iterator[Prediction]:
    """Read every row of `data` and yield a `Prediction` for each, in another order.

    Rows with the largest pictures come first, so that a batch that is too large for the memory
    fails at once; out of memory halves the batch size for this call. A row whose picture cannot be
    read, whose generation fails or for which the model computes NaN or infinity yields an empty
    prediction with the error's text.

    Args:
        model: from `load_model`.
        processor: from `load_model`.
        data: rows with `id`, `prompt` and `images`: a Dataset, or a list of dicts whose pictures
            are paths, PIL pictures or `{path, bytes}`.
        config: settings of the run.
        progress_bar: whether to show a progress bar.
    """
    reader = Reader(model, processor, config)
    yield from reader.read(data, progress_bar)
    reader.warn_of_nan()


def predict(
    model: "PreTrainedModel",
    processor: "ProcessorMixin",
    data: "Rows",
    config: TrainConfig,
) -> list[str]:
    """Text that the model reads on each row of `data`, in the rows' order.

    A row that fails gives an empty string; `predict_stream` gives the reason.
    """
    ids, _ = _ids_and_areas(data, config)
    texts = {r["id"]: r["prediction"] for r in predict_stream(model, processor, data, config)}
    return [texts[i] for i in ids]


@torch.inference_mode()
def read_batch(
    model: "PreTrainedModel",
    collate: Collator,
    rows: Sequence[Row],
    config: TrainConfig,
    watch: Callable[[list[tuple[int, float]]], None] | None = None,
    doubts: bool = False,
) -> list[Prediction]:
    """Read rows as one batch; the model has to be in `inference_mode`.

    Args:
        model: from `load_model`.
        collate: a collator for generation.
        rows: rows with `id`, `prompt` and `images`.
        config: settings of the run.
        watch: called after each token with the tokens of the first row, (id, probability).
        doubts: see `Reader`.
    """
    from transformers import LogitsProcessorList

    batch = {key: value.to(model.device) for key, value in collate(rows).items()}
    if "pixel_values" in batch and batch["pixel_values"].is_floating_point():
        batch["pixel_values"] = batch["pixel_values"].to(model.dtype)
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    end = next((token for token in ends if token is not None), collate.tokenizer.eos_token_id)
    prompt = batch["input_ids"].shape[1]

    def watched(ids: torch.Tensor) -> None:
        if watch:
            pairs = zip(ids[0, prompt:], confidence.steps)
            watch([(int(token), float(step[0].exp())) for token, step in pairs])

    confidence = Confidence(end, watched)
    # transformers declares `generate` for a protocol that PreTrainedModel does not meet.
    output = cast(Any, model).generate(
        **batch,
        max_new_tokens=config.max_new_tokens,
        # Greedy decoding, whatever the checkpoint's own generation settings are.
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        **dict.fromkeys(("temperature", "top_p", "top_k")),
        logits_processor=LogitsProcessorList([confidence]),
    )
    watched(output)
    generated = output[:, prompt:].tolist()
    ends = {collate.tokenizer.eos_token_id, *ends}
    results: list[Prediction] = []
    for number, (row, tokens) in enumerate(zip(rows, generated)):
        length = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
        stopped = length < len(tokens)
        mean = confidence.mean(number, length + stopped)
        if math.isnan(mean):
            results.append(_failed(row["id"], _nan_message(model)))
            continue
        results.append(
            {
                "id": row["id"],
                "prediction": collate.conversation.reading(tokens[:length]),
                "confidence": round(mean, 6),
                "finish_reason": "stop" if stopped else "length",
                "error": None,
            }
        )
        if doubts:
            sure = [float(step[number].exp()) for step in confidence.steps[:length]]
            decode = partial(collate.tokenizer.decode, skip_special_tokens=True)
            # A character of several tokens is a replacement character until its last one.
            texts = [decode(tokens[:end]).rstrip("\ufffd") for end in range(1, length + 1)]
            results[-1]["doubts"] = doubtful_spans(list(map(len, texts)), sure)
    return results


def halve_batch(batch_size: int) -> int:
    """Half of a batch size that ran out of memory; frees the cache and prints the new size."""
    torch.cuda.empty_cache()
    tqdm.write(f"Out of memory: going on with {batch_size // 2} samples at once.")
    return batch_size // 2


def has_nan_logits(result: Prediction) -> bool:
    """Whether a row failed because its logits were NaN or infinite."""
    return (result["error"] or "").startswith(NAN_LOGITS)


def _nan_message(model: "PreTrainedModel") -> str:
    dtype = str(model.dtype).removeprefix("torch.")
    way_out = "set dtype=bfloat16 or dtype=float32, whose range is wider"
    if dtype == "float32":
        way_out = "its weights hold NaN or infinity, so take an earlier checkpoint or another model"
    elif dtype == "bfloat16":
        way_out = "set dtype=float32; if that does not help, its weights are damaged"
    return f"{NAN_LOGITS} but NaN or infinity in {dtype}; {way_out}."


def _failed(id: str, error: Exception | str) -> Prediction:
    text = " ".join(str(error).split())[:300] or type(error).__name__
    return {
        "id": id,
        "prediction": "",
        "confidence": 0.0,
        "finish_reason": "error",
        "error": text,
    }


def _ids_and_areas(data: "Rows", config: TrainConfig) -> tuple[list[str], list[int]]:
    """Ids of the rows, and the pixels of each row's pictures together."""
    if isinstance(data, Sequence):
        sizes = [[_size(image) for image in row["images"]] for row in data]
        ids = [row["id"] for row in data]
    else:
        sizes, ids = picture_sizes(data, config.image_height), list(data["id"])
    return ids, [sum(height * width for height, width in row) for row in sizes]


def _size(image: Any) -> tuple[int, int]:
    """(height, width) in pixels; (0, 0) for a picture that cannot be opened, which fails later."""
    try:
        header = read_header(image)
    except PictureError:
        return 0, 0
    return header.height, header.width


# --- fingerprints


def weights_fingerprint(
    model: "PreTrainedModel", gathered: "Mapping[str, torch.Tensor] | None" = None
) -> str:
    """Checksum of a model's weights, 16 hex digits.

    It is the same before and after saving and loading, in float32 and in the 16 bits that weights
    are saved in, and with either backend. Of a model with trained adapters only the adapters are
    hashed; adapters that change nothing, as new adapters do, are left out and the base is hashed.

    Args:
        gathered: the weights of a model that is sharded over processes, by name.
    """
    base, adapters = _weights(model, gathered)
    # New adapters have a random matrix and a matrix of zeros, so only the latter shows training.
    random_matrix = re.compile("lora_A|lora_embedding_B")
    if any(bool(w.any()) for name, w in adapters.items() if not random_matrix.search(name)):
        settings = model.peft_config["default"]
        scale = {name: getattr(settings, name, None) for name in ("r", "lora_alpha", "use_rslora")}
        return _hash_of_weights(adapters, json.dumps(scale))
    return _hash_of_weights(base)


def _weights(
    model: "PreTrainedModel", gathered: "Mapping[str, torch.Tensor] | None" = None
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Weights of the base and of its adapters, flat, by their names without PEFT's prefixes."""
    base, adapters = {}, {}
    for name, parameter in model.named_parameters():
        parameter = gathered[name] if gathered else parameter
        if hasattr(model, "peft_config"):
            name = name.removeprefix("base_model.model.")
            name = name.replace(".base_layer.", ".").replace(".original_module.", ".")
        weights = adapters if "default" in name.split(".") else base
        weights[name] = parameter.detach().flatten()
    return base, adapters


def _hash_of_weights(weights: dict[str, torch.Tensor], settings: str = "") -> str:
    """Checksum over a sample of each tensor and over the sum of its bits, which covers it all."""
    digest = hashlib.sha256(settings.encode())
    for name, values in sorted(weights.items()):
        sample = values[:: max(1, values.numel() // 1024)].cpu().float()
        bits = (chunk.float().view(torch.int32).sum() for chunk in values.split(1 << 24))
        digest.update(name.encode() + sample.numpy().tobytes())
        digest.update(str(sum(map(int, bits))).encode())
    return digest.hexdigest()[:16]


def frozen_weights_hash(model: "PreTrainedModel") -> str:
    """Hash of a sample of the frozen weights, by which another base is recognized."""
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            values = weight.detach().flatten()
            sample = values[:: max(1, values.numel() // 64)].to("cpu", torch.float32)
            digest.update(name.encode() + sample.numpy().tobytes())
    return digest.hexdigest()


def fingerprint(
    model: "PreTrainedModel",
    processor: "ProcessorMixin",
    data: "Rows",
    config: TrainConfig,
) -> str:
    """Checksum of all that predictions depend on: weights, pictures, prompts, settings.

    References are left out, so that a row with a corrected reference is scored anew without being
    read again.
    """
    base, _ = _weights(model)
    digest = hashlib.sha256((weights_fingerprint(model) + _hash_of_weights(base)).encode())
    is_list = isinstance(data, Sequence)
    settings = {
        "ids": [row["id"] for row in data] if is_list else list(data["id"]),
        "prompts": [row["prompt"] for row in data] if is_list else list(data["prompt"]),
        "pictures": picture_hashes(data),
        "dtype": str(model.dtype),
        "load_in_4bit": config.load_in_4bit,
        "size": str(getattr(processor.image_processor, "size", None)),
        "image_height": config.image_height,
        "max_new_tokens": config.max_new_tokens,
        "chat_template": processor.chat_template,
    }
    if config.processor_kwargs:
        settings["processor_kwargs"] = config.processor_kwargs
    digest.update(json.dumps(settings, sort_keys=True).encode())
    return digest.hexdigest()[:16]
