"""Model training: train the embedded model from scratch on lines that are drawn during training.

A curriculum starts with single characters of a few hundred classes. As the loss falls, lines become
longer, more Hangul and Han classes and the tasks of `data_prep.synthetic.toys` are added, and
finally varied sizes, tight crops and noise.
"""

import json
import math
import random
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import MethodType
from typing import Any, cast

import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin
from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb_vision

from data_prep.synthetic.toy_content import TASKS, write_toy
from data_prep.synthetic.toys import toy_picture
from ocrkit.data.collate import Collator
from ocrkit.metrics import cer, exact_match
from tests.tools.tiny_model.build import (
    build_model,
    build_processor,
    build_tokenizer,
    read_lines,
    sample_row,
    save,
)
from tests.tools.tiny_model.lines import (
    FONTS,
    HELD_OUT,
    MAX_WIDTH,
    SCRIPTS,
    body_of,
    draw_sample,
    fitting_text,
    fonts,
    frequent,
    held_out_lines,
    widened,
)

# First level of the curriculum: widest line in pixels, Hangul and Han classes, variety.
START = {"width": 32, "classes": 200, "variety": 0.0}
MOST_CLASSES = len(frequent("zh"))
# Share of each script. Latin has the largest: receipts are Latin, and its letters have the most
# look-alikes.
SHARES = {"en": 0.4, "bn": 0.2, "ko": 0.18, "zh": 0.22}
TOYS_FROM, TOYS_SHARE = 320, 0.18  # line width from which toys are added, their share of batches
AVERAGED = 0.997  # decay of the exponential moving average of the weights


class Lines(torch.utils.data.IterableDataset):
    """Endless batches, drawn in a worker process in parallel to training.

    `limits` is a tensor in shared memory that training updates: width, classes, and variety in
    thousandths.
    """

    def __init__(self, processor: ProcessorMixin, limits: torch.Tensor, batch: int, seed: str):
        self.collator, self.limits = Collator(processor), limits
        self.batch, self.seed = batch, seed
        self.fonts = {script: fonts(script, FONTS[script]) for script in SHARES}

    def __iter__(self):
        torch.set_num_threads(1)
        rng = random.Random(self.seed)
        while True:
            widest, classes, thousandths = self.limits.tolist()
            variety = thousandths / 1000
            if widest >= TOYS_FROM and rng.random() < TOYS_SHARE:
                yield self.collator(toy_rows(rng, self.fonts["en"], self.batch // 2, variety))
            else:
                # Larger batches while lines are short, so that the overhead of a step stays small.
                count = round(self.batch * min(3, max(1, 256 / widest)))
                rows = line_rows(rng, SHARES, self.fonts, count, widest, classes, variety)
                yield self.collator(rows)


def line_rows(
    rng: random.Random,
    shares: dict[str, float],
    known: dict[str, list[str]],
    count: int,
    widest: int,
    classes: int,
    variety: float,
) -> list[dict]:
    """Rows of `count` lines; all pictures have the same size, so that there is little padding."""
    width = rng.randint(16, widest) if rng.random() < 0.5 else widest
    scripts = rng.choices(list(shares), list(shares.values()), k=count)
    drawn = []
    for script in scripts:
        font, body = rng.choice(known[script]), body_of(script, rng, variety)
        text = fitting_text(script, font, body, round(width * rng.uniform(0.8, 1)), rng, classes)
        drawn.append((text, draw_sample(text, script, font, body, rng, variety)))
    # A text cropped to its ink and scaled up may be much wider than planned.
    most = min(max(32, round(1.15 * width)), max(image.width for _, image in drawn))
    most = 16 * math.ceil(most / 16)
    return [sample_row(text, fitted(image, most)) for text, image in drawn]


def fitted(image: Image.Image, width: int) -> Image.Image:
    """Pad a picture to `width`, or squeeze it if it is wider."""
    if image.width > width:
        return image.resize((width, image.height), Image.Resampling.BICUBIC)
    return widened(image, width)


def toy_rows(rng: random.Random, known: list[str], count: int, variety: float) -> list[dict]:
    """Rows of a random toy task in Latin fonts."""
    task = rng.choice(TASKS)
    rows = []
    for _ in range(count):
        toy = write_toy(task, rng)
        image = toy_picture(toy, rng, known, 0.2 * variety)
        rows.append(sample_row(toy.completion, image, toy.prompt))
    return rows


def loss_of(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Cross entropy at the labelled positions; logits are computed only there."""
    labels = batch["labels"][:, 1:]
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    hidden = model.model(**inputs).last_hidden_state[:, :-1]
    chosen = labels != -100
    return functional.cross_entropy(model.lm_head(hidden[chosen]), labels[chosen])


def attend_together(model: PreTrainedModel) -> None:
    """Patch vision attention to process all pictures of a batch at once; they must have one size.

    The original layer processes them one after the other.
    """
    for block in model.model.visual.blocks:
        block.attn.forward = MethodType(_attention, block.attn)


def attend_apart(model: PreTrainedModel) -> None:
    """Undo `attend_together`."""
    for block in model.model.visual.blocks:
        block.attn.__dict__.pop("forward", None)


def _attention(
    self: Any,
    hidden_states: torch.Tensor,
    cu_seqlens: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    **ignored: Any,
) -> torch.Tensor:
    projected = self.qkv(hidden_states).reshape(len(hidden_states), 3, self.num_heads, -1).unbind(1)
    query, key = apply_rotary_pos_emb_vision(projected[0], projected[1], *position_embeddings)
    shape = (len(cu_seqlens) - 1, -1, self.num_heads, self.head_dim)
    query, key, value = (
        tensor.reshape(shape).transpose(1, 2) for tensor in (query, key, projected[2])
    )
    scores = (query @ key.transpose(2, 3) * self.scaling).softmax(-1)
    return self.proj((scores @ value).transpose(1, 2).reshape(hidden_states.shape))


def train_step(
    model: PreTrainedModel,
    batch: dict[str, torch.Tensor],
    optimizers: list[torch.optim.Optimizer],
    rate: float,
) -> float:
    """One optimizer step at a learning rate; returns the loss before it."""
    (attend_together if _one_size(batch) else attend_apart)(model)
    # bfloat16 autocast halves the time on processors that support it.
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(model, batch)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return loss.item()


def lr_lambda(step: int, done: float) -> float:
    """Learning-rate factor: 50 steps of warm-up, constant, linear decay over the last 40%.

    Args:
        done: share of the whole training, 0 to 1.
    """
    return min(1, (step + 1) / 50) * min(1, max(0.02, (1 - done) / 0.4))


def make_optimizers(model: PreTrainedModel, learning_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for weight matrices, AdamW for embeddings, biases and norms.

    Over the same 100 steps, the mean loss was 0.37 with Muon and 0.50 with AdamW.
    """
    tables = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    layers = [p for p in model.parameters() if p.ndim == 2 and id(p) not in tables]
    taken = {id(p) for p in layers}
    rest = [p for p in model.parameters() if id(p) not in taken]
    muon = torch.optim.Muon(
        layers, lr=learning_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
    )
    return [muon, adamw(rest, learning_rate)]


def adamw(weights: Iterable[torch.nn.Parameter], learning_rate: float) -> torch.optim.AdamW:
    """AdamW with weight decay for matrices only."""
    weights = list(weights)
    groups = [
        {"params": [p for p in weights if p.ndim > 1], "weight_decay": 0.01},
        {"params": [p for p in weights if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98), fused=True)


def train_reader(
    minutes: float,
    steps: int | None = None,
    start: Path | None = None,
    out: Path = Path("runs/tiny"),
    batch: int = 32,
    learning_rate: float = 2e-3,
    seed: int = 0,
    measured: int = 40,
    every: int = 1500,
) -> tuple[PreTrainedModel, ProcessorMixin, dict]:
    """Train on freshly drawn lines; returns model, processor and what `curve.json` holds.

    The learning rate follows `lr_lambda`. The model that is measured, saved and returned is an
    exponential moving average of the weights.

    Args:
        minutes: training time.
        steps: most steps, even if there is time left.
        start: folder of an earlier build to continue from.
        out: folder in which the model is saved at every measurement.
        measured: number of lines for each script and kind of font at a measurement.
        every: steps between measurements.
    """
    tokenizer = build_tokenizer()
    processor, model = build_processor(tokenizer), build_model(tokenizer, seed)
    history: dict = {"parts": [], "curve": []}
    if start:
        load_weights(model, tokenizer, start)
        history = json.loads((start / "curve.json").read_text())
    history["parts"].append({"minutes": minutes, "learning_rate": learning_rate, "seed": seed})
    curve = history["curve"]
    last = curve[-1] if curve else {"step": 0, "minutes": 0, **START}
    level = {name: last[name] for name in START}
    limits = torch.tensor(_limits(level)).share_memory_()
    # The seed contains the step, so that a continued training does not repeat lines.
    lines = Lines(processor, limits, batch, f"{seed}/{last['step']}")
    stems = {script: {Path(font).stem for font in files} for script, files in lines.fonts.items()}
    history["fonts"] = {script: sorted(names) for script, names in stems.items()}
    batches = iter(torch.utils.data.DataLoader(lines, batch_size=None, num_workers=1))
    optimizers = make_optimizers(model, learning_rate)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(AVERAGED))
    history["parameters"] = sum(weight.numel() for weight in model.parameters())
    losses, grown, began, step = [], 0, time.time(), 0
    progress = tqdm(desc="tiny", mininterval=10)
    while (done := _done(began, minutes, step, steps)) < 1:
        rate = learning_rate * lr_lambda(step, done)
        losses.append(train_step(model, next(batches), optimizers, rate))
        averaged.update_parameters(model)
        step += 1
        recent = losses[-10:]
        # Late classes would not be learned any more: keep the level after 40% of training.
        settled = done > 0.4 or step - grown < 10
        if not settled and harder(level, sum(recent) / len(recent)):
            grown = step
            limits.copy_(torch.tensor(_limits(level)))
        progress.update()
        progress.set_postfix(loss=f"{sum(recent) / len(recent):.3f}", **level)
        if step % every == 0 or _done(began, minutes, step, steps) >= 1:
            entry = {"step": last["step"] + step, "loss": round(sum(losses[-200:]) / 200, 4)}
            entry["minutes"] = round(last["minutes"] + (time.time() - began) / 60, 1)
            mean_model = cast(PreTrainedModel, averaged.module)
            entry |= level | read_held_out(mean_model, processor, measured)
            curve.append(entry)
            history["parts"][-1]["steps"] = step
            tqdm.write(json.dumps(entry), file=sys.stderr)
            save(mean_model, processor, history, out)
    return cast(PreTrainedModel, averaged.module), processor, history


def read_held_out(
    model: PreTrainedModel, processor: ProcessorMixin, count: int
) -> dict[str, float]:
    """CER and exact match of `count` lines for each script, in known and in unseen fonts."""
    metrics = {}
    for kind, families in (("known", FONTS), ("unseen", HELD_OUT)):
        for script in SCRIPTS:
            images, texts = held_out_lines(script, families[script], count, seed=777)
            predictions = read_lines(model, processor, images)
            metrics[f"cer_{script}_{kind}"] = round(cer(texts, predictions), 4)
            metrics[f"exact_{script}_{kind}"] = round(exact_match(texts, predictions), 4)
    return metrics


def average(folders: list[Path], out: Path, measured: int = 40) -> dict:
    """Write the mean weights of builds with a common start; returns the merged history.

    The mean has a lower error rate than each build (model soup, https://arxiv.org/abs/2203.05482),
    and the builds can run in parallel.
    """
    tokenizer = build_tokenizer()
    processor, model = build_processor(tokenizer), build_model(tokenizer)
    total: dict[str, torch.Tensor] = {}
    for folder in folders:
        load_weights(model, tokenizer, folder)
        for name, value in model.state_dict().items():
            total[name] = total.get(name, 0) + value / len(folders)
    model.load_state_dict(total)
    history, *others = (json.loads((f / "curve.json").read_text()) for f in folders)
    curve = history["curve"]
    entry = dict(curve[-1])
    for other in others:
        before = [point for point in other["curve"] if point in curve]
        for name in ("step", "minutes"):
            entry[name] += other["curve"][-1][name] - (before[-1][name] if before else 0)
        history["parts"] += [run for run in other["parts"] if run not in history["parts"]]
        curve += [point for point in other["curve"] if point not in curve]
    entry["minutes"] = round(entry["minutes"], 1)
    history["parts"].append({"averaged": len(folders)})
    curve.append(entry | read_held_out(model, processor, measured))
    save(model, processor, history, out)
    return history


def _one_size(batch: dict[str, torch.Tensor]) -> bool:
    return bool((batch["image_grid_thw"] == batch["image_grid_thw"][0]).all())


def load_weights(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Load the weights of an earlier build; tokens are matched by name, new ones stay untrained."""
    state = load_file(folder / "model.safetensors")
    theirs = PreTrainedTokenizerFast.from_pretrained(folder).get_vocab()
    name = "model.language_model.embed_tokens.weight"
    embedding = model.get_input_embeddings().weight.detach().clone()
    shared = [(index, theirs[t]) for t, index in tokenizer.get_vocab().items() if t in theirs]
    ours, others = map(list, zip(*shared))
    embedding[ours] = state[name][others].to(embedding.dtype)
    # lm_head.weight is the embedding itself, so it is not in the file.
    missing = model.load_state_dict({**state, name: embedding}, strict=False).missing_keys
    if missing != ["lm_head.weight"]:
        raise ValueError(f"{folder} is another architecture: it lacks {', '.join(missing)}.")


def harder(level: dict[str, Any], loss: float) -> bool:
    """Raise the curriculum level in place if the loss is low; returns whether it changed.

    Lines become longer before classes are added: finding the next character is learned first.
    """
    before = dict(level)
    if loss < 1.2:
        level["width"] = min(MAX_WIDTH, math.ceil(level["width"] * 1.1))
    if loss < 1.0:
        level["classes"] = min(MOST_CLASSES, math.ceil(level["classes"] * 1.1))
    if loss < 1.0 and before["width"] == MAX_WIDTH:
        level["variety"] = min(0.9, round(level["variety"] + 0.02, 2))
    return level != before


def _limits(level: dict[str, Any]) -> list[int]:
    return [level["width"], level["classes"], round(1000 * level["variety"])]


def _done(began: float, minutes: float, step: int, steps: int | None) -> float:
    return max((time.time() - began) / 60 / minutes, step / steps if steps else 0)
