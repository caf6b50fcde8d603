"""Trains the embedded model from scratch on lines that are drawn as it learns.

It begins with single characters of a few hundred classes. As the loss falls, lines become longer,
more Hangul and Han classes come in, beside lines the small tasks of `data_prep.synthetic.toys`, and
at last sizes, tight boxes and noise.
"""

import json
import math
import random
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast
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

# Lines: widest in pixels, classes of Hangul and of Han, variety.
START = {"width": 32, "classes": 200, "variety": 0.0}
MOST_CLASSES = len(frequent("zh"))
# Receipts are Latin, and of the four scripts its letters have the most look-alikes; Hangul and Han
# share how they are drawn.
SHARES = {"en": 0.4, "bn": 0.2, "ko": 0.18, "zh": 0.22}
TOYS_FROM, TOYS_SHARE = 320, 0.18  # lines as wide as this, share of the batches
AVERAGED = 0.997  # what is kept, at a step, of the running average of the weights


class Lines(torch.utils.data.IterableDataset):
    """Endless batches, drawn in a worker so that drawing and training overlap.

    `limits` is shared memory that training changes: width, classes, variety in thousandths.
    """

    def __init__(self, processor: Any, limits: torch.Tensor, batch: int, seed: str):
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
                # A step should be worth its overhead also while lines are short.
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
    """Rows of `count` lines of the scripts, all pictures of one size, so little is padding."""
    width = rng.randint(16, widest) if rng.random() < 0.5 else widest
    scripts = rng.choices(list(shares), list(shares.values()), k=count)
    drawn = []
    for script in scripts:
        font, body = rng.choice(known[script]), body_of(script, rng, variety)
        text = fitting_text(script, font, body, round(width * rng.uniform(0.8, 1)), rng, classes)
        drawn.append((text, draw_sample(text, script, font, body, rng, variety)))
    # A text cut to its ink and scaled up may be much wider than it was meant to be.
    most = min(max(32, round(1.15 * width)), max(image.width for _, image in drawn))
    most = 16 * math.ceil(most / 16)
    return [sample_row(text, fitted(image, most)) for text, image in drawn]


def fitted(image: Image.Image, width: int) -> Image.Image:
    """The picture on paper of `width`, squeezed where it is wider."""
    if image.width > width:
        return image.resize((width, image.height), Image.Resampling.BICUBIC)
    return widened(image, width)


def toy_rows(rng: random.Random, known: list[str], count: int, variety: float) -> list[dict]:
    """Rows of one of the small tasks in a Latin font."""
    task = rng.choice(TASKS)
    rows = []
    for _ in range(count):
        toy = write_toy(task, rng)
        image = toy_picture(toy, rng, known, 0.2 * variety)
        rows.append(sample_row(toy.completion, image, toy.prompt))
    return rows


def loss_of(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Cross entropy at the supervised positions; only they are multiplied with the vocabulary."""
    labels = batch["labels"][:, 1:]
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    hidden = model.model(**inputs).last_hidden_state[:, :-1]
    chosen = labels != -100
    return functional.cross_entropy(model.lm_head(hidden[chosen]), labels[chosen])


def attend_together(model: Any) -> None:
    """Let all pictures of a batch attend in one product a layer; they must be of one size.

    The stock layer goes through them one after the other.
    """
    for block in model.model.visual.blocks:
        block.attn.forward = MethodType(_attention, block.attn)


def attend_apart(model: Any) -> None:
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
    parts = self.qkv(hidden_states).reshape(len(hidden_states), 3, self.num_heads, -1).unbind(1)
    query, key = apply_rotary_pos_emb_vision(parts[0], parts[1], *position_embeddings)
    shape = (len(cu_seqlens) - 1, -1, self.num_heads, self.head_dim)
    query, key, value = (part.reshape(shape).transpose(1, 2) for part in (query, key, parts[2]))
    scores = (query @ key.transpose(2, 3) * self.scaling).softmax(-1)
    return self.proj((scores @ value).transpose(1, 2).reshape(hidden_states.shape))


def train_step(
    model: Any,
    batch: dict[str, torch.Tensor],
    optimizers: list[torch.optim.Optimizer],
    rate: float,
) -> float:
    """One step at a learning rate; returns the loss before it."""
    (attend_together if _one_size(batch) else attend_apart)(model)
    # Products in bfloat16, which take half the time where the processor has them.
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
    """Share of the learning rate at a step: 50 of warm-up, then all of it, falling after 60 %.

    Args:
        done: share of the whole training, 0 to 1.
    """
    return min(1, (step + 1) / 50) * min(1, max(0.02, (1 - done) / 0.4))


def make_optimizers(model: Any, learning_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices between layers, AdamW for embeddings, biases and norms.

    Over the same 100 steps from one start, Muon's mean loss was 0.37 where AdamW's was 0.50.
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
    """AdamW that lets only matrices decay."""
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
) -> tuple[Any, Any, dict]:
    """Train on freshly drawn lines; returns model, processor and what `curve.json` holds.

    The rate is constant after 50 steps of warm-up and falls linearly over the last 40 %. What is
    measured, saved and returned is a running average of the weights.

    Args:
        minutes: how long; more reads better.
        steps: stop after so many steps even if there is time left.
        start: folder of an earlier build to go on from, instead of from scratch.
        out: where what was learned so far is saved at every measurement.
        measured: lines read of each script and kind of font at a measurement.
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
    # Seeds differ from those of earlier parts, so no part repeats another's lines.
    lines = Lines(processor, limits, batch, f"{seed}/{last['step']}")
    stems = {script: {Path(font).stem for font in found} for script, found in lines.fonts.items()}
    history["fonts"] = {script: sorted(found) for script, found in stems.items()}
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
        # What came in late would not be learned any more.
        settled = done > 0.4 or step - grown < 10
        if not settled and harder(level, sum(recent) / len(recent)):
            grown = step
            limits.copy_(torch.tensor(_limits(level)))
        progress.update()
        progress.set_postfix(loss=f"{sum(recent) / len(recent):.3f}", **level)
        if step % every == 0 or _done(began, minutes, step, steps) >= 1:
            entry = {"step": last["step"] + step, "loss": round(sum(losses[-200:]) / 200, 4)}
            entry["minutes"] = round(last["minutes"] + (time.time() - began) / 60, 1)
            entry |= level | read_held_out(averaged.module, processor, measured)
            curve.append(entry)
            history["parts"][-1]["steps"] = step
            tqdm.write(json.dumps(entry), file=sys.stderr)
            save(averaged.module, processor, history, out)
    return averaged.module, processor, history


def read_held_out(model: Any, processor: Any, count: int) -> dict[str, float]:
    """CER and exact match of `count` lines of each script, in fonts of training and unseen ones."""
    found = {}
    for kind, families in (("known", FONTS), ("unseen", HELD_OUT)):
        for script in SCRIPTS:
            images, texts = held_out_lines(script, families[script], count, seed=777)
            read = read_lines(model, processor, images)
            found[f"cer_{script}_{kind}"] = round(cer(texts, read), 4)
            found[f"exact_{script}_{kind}"] = round(exact_match(texts, read), 4)
    return found


def average(folders: list[Path], out: Path, measured: int = 40) -> dict:
    """Write the mean of the weights of builds that share a beginning; returns its history.

    It reads better than each of them, and builds side by side use every core (as model soups,
    https://arxiv.org/abs/2203.05482).
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
        history["parts"] += [part for part in other["parts"] if part not in history["parts"]]
        curve += [point for point in other["curve"] if point not in curve]
    entry["minutes"] = round(entry["minutes"], 1)
    history["parts"].append({"averaged": len(folders)})
    curve.append(entry | read_held_out(model, processor, measured))
    save(model, processor, history, out)
    return history


def _one_size(batch: dict[str, torch.Tensor]) -> bool:
    return bool((batch["image_grid_thw"] == batch["image_grid_thw"][0]).all())


def load_weights(model: Any, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Take the weights of an earlier build; tokens are found by name, new ones stay untrained."""
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
    """One step up, in place, where the loss allows it; returns whether anything was changed.

    Lines become longer first: to find the next character is learned before all are told apart.
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
