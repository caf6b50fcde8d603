"""Self-checks of a model on drawn lines, each made once for an architecture and its versions.

Models are added to transformers every month, and some depend on what they must not: on the other
rows of a batch, or on later labels. A check costs two or three forward passes.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch

from ocrkit.data.collate import Collator, process, scaled_pictures
from ocrkit.data.read_rows import drawn_rows
from ocrkit.environment import remembered

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Changes of a logit, in standard deviations of all of them, above which they are no rounding: in
# 32 bits, and in 16.
_TOLERANCE, _TOLERANCE_16_BITS = 1e-3, 0.1


def architecture(model: "PreTrainedModel") -> str:
    """Name of a model's architecture with what else decides how it computes."""
    config = model.config
    backend = getattr(model, "ocrkit_backend", "")
    parts = (config.architectures, config.model_type, config._attn_implementation, backend)
    return " ".join(map(str, (*parts, model.dtype, model.device.type)))


def reads_alike_in_batches(model: "PreTrainedModel", collate: Collator) -> bool:
    """Whether a padded batch begins its readings as single rows do.

    Args:
        model: in `inference_mode`.
        collate: a collator for generation.
    """
    return remembered("batch", architecture(model), lambda: _reads_alike(model, collate))


def leaks_labels(model: "PreTrainedModel", collate: Collator) -> bool:
    """Whether a later label changes earlier logits, so that training would teach to copy it.

    Args:
        model: as it trains.
        collate: a collator for training.
    """
    return remembered("leak", architecture(model), lambda: _leaks(model, collate))


def trains_alike_in_batches(model: "PreTrainedModel", collate: Collator) -> bool:
    """Whether a padded batch has the logits of single rows; arguments of `leaks_labels`."""
    return remembered("padding", architecture(model), lambda: _trains_alike(model, collate))


def logits_at(
    model: "PreTrainedModel", inputs: Mapping[str, Any], positions: torch.Tensor
) -> torch.Tensor:
    """Logits of a batch, (rows, positions, vocabulary), at some positions of every row.

    Args:
        inputs: arguments of the model's forward, without labels.
        positions: indices of tokens, ascending.
    """
    # A list indexes hidden states on any card (device_map=auto); a tensor has to be on theirs, but
    # compiled models take it without compiling anew for every batch.
    spread = len({*(getattr(model, "hf_device_map", None) or {}).values()}) > 1
    kept = positions.tolist() if spread else positions
    logits = model(**inputs, logits_to_keep=kept, use_cache=False).logits
    # Some models compute all logits, whatever is asked for.
    return logits if logits.shape[1] == len(positions) else logits[:, positions.to(logits.device)]


def supervised_positions(labels: torch.Tensor) -> torch.Tensor:
    """Positions whose logits predict a label in at least one row of the batch.

    Args:
        labels: (rows, tokens), −100 where a label does not count.

    Returns:
        Indices p, ascending, such that some row has a label at p + 1. Logits are needed only at
        these: the prompt and the picture, which need none, are most of a batch.
    """
    return (labels[:, 1:] != -100).any(dim=0).nonzero(as_tuple=True)[0]


def conversation_difference(collate: Collator) -> str:
    """Name what differs between a collated row and its whole conversation; empty: nothing.

    The conversation is rendered and processed by the processor alone. Where its template writes a
    generation prompt that is no part of a conversation, they cannot be the same.

    Args:
        collate: a collator for training.
    """
    (row,) = drawn_rows(1)
    rendered = collate.conversation.render(row)
    whole = collate.conversation.whole(row)
    if not whole.startswith(rendered.prompt):
        return ""
    collated = collate([row])
    # The end of turn may be no part of the text, and what follows it is never generated.
    length = collated["input_ids"].shape[1] - 1
    pictures = [scaled_pictures(row, collate.image_height)]
    expected = process(collate.processor, [whole], pictures)
    for name in collated.keys() & expected.keys() - {"labels"}:
        value, wanted = collated[name], expected[name]
        if wanted.shape[:2] == expected["input_ids"].shape:
            value, wanted = value[:, :length], wanted[:, :length]
        if not torch.equal(value, wanted):
            return name
    return ""


def _lines() -> list[Any]:
    """Three drawn lines, the second of a tall picture, the last with a longer prompt."""
    rows: list[Any] = drawn_rows(3)
    rows[2] = {**rows[2], "prompt": [{"role": "user", "content": "Read the line. " * 3}]}
    rows[1] = {**rows[1], "images": [rows[1]["images"][0].resize((64, 96))]}
    return rows


def _on_device(model: "PreTrainedModel", batch: dict[str, Any]) -> dict[str, Any]:
    """The batch without ids and characters, on the model's device and in its dtype."""
    names = [name for name in batch if name not in ("ids", "label_characters")]
    moved = {name: batch[name].to(model.device) for name in names}
    return {n: v.to(model.dtype) if v.is_floating_point() else v for n, v in moved.items()}


def _apart(model: "PreTrainedModel", first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether logits of a model differ by more than rounding does."""
    exact = model.dtype == first.dtype == torch.float32
    tolerance = _TOLERANCE if exact else _TOLERANCE_16_BITS
    first, second = first.float(), second.float()
    return bool((first - second).abs().max() > tolerance * first.std())


@torch.inference_mode()
def _reads_alike(model: "PreTrainedModel", collate: Collator) -> bool:
    def first_logits(rows: Sequence[Any]) -> list[torch.Tensor]:
        # transformers declares `generate` for a protocol that PreTrainedModel does not meet.
        output = cast(Any, model).generate(
            **_on_device(model, collate(rows)),
            max_new_tokens=1,
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            output_logits=True,
            return_dict_in_generate=True,
        )
        return [*output.logits[0]]

    return _same_in_batch(model, collate, first_logits)


def _answer_logits(model: "PreTrainedModel", batch: dict[str, Any]) -> list[torch.Tensor]:
    """Logits of each row at the positions that predict its labels."""
    counted = batch["labels"][:, 1:] != -100
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    # As the losses call it. Dropout, if any, is the same in each call.
    positions = supervised_positions(batch["labels"])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        logits = logits_at(model, inputs, positions)
    return [row[kept] for row, kept in zip(logits, counted[:, positions])]


@torch.no_grad()
def _leaks(model: "PreTrainedModel", collate: Collator) -> bool:
    batch = _on_device(model, collate(drawn_rows(1)))
    before = _answer_logits(model, batch)[0]
    ids = batch["input_ids"].clone()
    # The last label predicts nothing; that before it is the last of the answer.
    labels = (batch["labels"][0] != -100).nonzero().flatten()
    ids[0, labels[-2:]] = ids[0, labels[0]].item()
    after = _answer_logits(model, {**batch, "input_ids": ids})[0]
    # These predict labels up to the first that was changed.
    return _apart(model, before[:-1], after[:-1])


@torch.no_grad()
def _trains_alike(model: "PreTrainedModel", collate: Collator) -> bool:
    def logits(rows: Sequence[Any]) -> list[torch.Tensor]:
        return _answer_logits(model, _on_device(model, collate(rows)))

    training = model.training
    # Dropout and stochastic depth draw other numbers for a batch than for each of its rows.
    model.eval()
    try:
        return _same_in_batch(model, collate, logits)
    finally:
        model.train(training)


def _same_in_batch(
    model: "PreTrainedModel",
    collate: Collator,
    logits: Callable[[Sequence[Any]], Sequence[torch.Tensor]],
) -> bool:
    """Whether three lines have in a batch the positions and logits that each has alone.

    Args:
        logits: computes those of each of some rows.
    """
    rows = _lines()
    single = [logits([row])[0] for row in rows]
    try:
        together = logits(rows)
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception:  # of any type, by a model that takes no pictures of unlike sizes together
        return False
    alike = not any(_apart(model, *pair) for pair in zip(together, single))
    return alike and _same_positions(model, collate, rows)


def _same_positions(model: "PreTrainedModel", collate: Collator, rows: Sequence[Any]) -> bool:
    """Whether tokens have the same positions in a batch of `rows` as in a row alone.

    Some models number pictures over the batch, which hardly moves a logit where the slowest of the
    rotary embedding's frequencies tells them apart.
    """
    # Models with positions in two or three directions call this, by convention of transformers.
    rope_index = next(
        (m.get_rope_index for m in model.modules() if hasattr(type(m), "get_rope_index")), None
    )
    if rope_index is None:
        return True
    # Its declared type is that of a module's attributes.
    compute = cast(Callable[..., Any], rope_index)
    accepted = inspect.signature(compute).parameters

    def positions(lines: Sequence[Any]) -> list[torch.Tensor]:
        batch = _on_device(model, collate(lines))
        indices, _ = compute(**{name: batch[name] for name in accepted if name in batch})
        return [indices[:, row, mask] for row, mask in enumerate(batch["attention_mask"].bool())]

    single = [positions([row])[0] for row in rows]
    return all(map(torch.equal, positions(rows), single))
