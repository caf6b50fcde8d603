"""Which tokens should the embedded model have? Trains it briefly with each kind, and compares.

On Bangla, where a character that people see is often several code points, and on Hangul, where it
is one; both are three bytes a code point. `python -m ocrkit.tiny tokenizers` writes
`tokenizers.json` into the model's folder.
"""

import random
import time
from collections import Counter
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from data_prep.texts import graphemes
from ocrkit.metrics import bootstrap_ci, process_cer
from ocrkit.tiny import (
    build_model,
    build_processor,
    build_tokenizer,
    read_lines,
    with_special_tokens,
)
from ocrkit.tiny_lines import FONTS, SCRIPTS, held_out_lines, text_of_script
from ocrkit.tiny_train import Lines, adamw, attend_apart, lr_lambda, train_step

SCRIPTS_COMPARED = ("bn", "ko")
# Hangul syllables, and pixels of the widest line: what can be learned in minutes.
CLASSES, WIDEST = 200, 288
CLUSTERS = 1000
RATE = 2e-3


def character_tokenizer() -> PreTrainedTokenizerFast:
    """A token for each code point of the scripts and for each byte of the rest."""
    return build_tokenizer(SCRIPTS_COMPARED)


def grapheme_tokenizer() -> PreTrainedTokenizerFast:
    """`character_tokenizer` with a token for each of the most frequent clusters of code points."""
    counts = Counter(unit for text in _texts() for unit in graphemes(text) if len(unit) > 1)
    tokenizer = character_tokenizer()
    clusters = [cluster for cluster, _ in counts.most_common(CLUSTERS)]
    tokenizer.add_tokens([AddedToken(cluster, normalized=False) for cluster in clusters])
    return tokenizer


def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE as Qwen's, learned from such lines, with as many tokens as graphemes take."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=len(grapheme_tokenizer()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    return with_special_tokens(tokenizer)


TOKENIZERS = {
    "characters": character_tokenizer,
    "graphemes": grapheme_tokenizer,
    "byte-level BPE": byte_level_tokenizer,
}


def compare_tokenizers(minutes: float = 8, count: int = 100, seed: int = 0) -> dict:
    """Train from scratch with each tokenizer for as long, and read `count` lines of each script.

    All see the same stream of lines, which grow from one character to `WIDEST` pixels over half
    of the time. The lines read are new; their fonts are those of training.

    Args:
        minutes: of one core's time a tokenizer, so that what else the machine does plays no part.

    Returns:
        {"minutes": those, "lines": count, tokenizer: {"vocabulary": tokens, "steps": made,
        "tokens a character": of the lines read, script: {"value": CER, "low": .., "high": ..}}}.
    """
    found: dict = {"minutes": minutes, "lines": count}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    tests = {
        script: held_out_lines(script, FONTS[script], count, 778, CLASSES, widest=WIDEST)
        for script in SCRIPTS_COMPARED
    }
    for name, make in TOKENIZERS.items():
        tokenizer = make()
        processor, model = build_processor(tokenizer), build_model(tokenizer, seed)
        figures = {"vocabulary": len(tokenizer)}
        figures["steps"] = _train(model, processor, minutes, seed, name)
        texts = [text for _, lines in tests.values() for text in lines]
        tokens = sum(len(ids) for ids in tokenizer(texts)["input_ids"])
        figures["tokens a character"] = round(tokens / sum(map(len, texts)), 2)
        for script, (images, lines) in tests.items():
            tally = process_cer(lines, read_lines(model, processor, images, max_new_tokens=240))
            low, high = bootstrap_ci(tally.part, tally.whole)
            figures[script] = {"value": tally.rate, "low": low, "high": high}
        found[name] = figures
    torch.set_num_threads(threads)
    return found


def _train(model: Any, processor: Any, minutes: float, seed: int, name: str) -> int:
    """Train for so many minutes of one core; returns the steps that were made."""
    limits = torch.tensor([32, CLASSES, 0]).share_memory_()
    shares = dict.fromkeys(SCRIPTS_COMPARED, 1 / len(SCRIPTS_COMPARED))
    lines = Lines(processor, limits, 32, f"tokenizers/{seed}", shares)
    batches = iter(torch.utils.data.DataLoader(lines, batch_size=None, num_workers=1))
    optimizers = [adamw(model.parameters(), RATE)]
    began, steps, done = time.process_time(), 0, 0.0
    with tqdm(desc=name, total=100, unit="%") as progress:
        while done < 1:
            limits[0] = round(32 + (WIDEST - 32) * min(1, 2 * done))
            loss = train_step(model, next(batches), optimizers, RATE * lr_lambda(steps, done))
            steps += 1
            done = (time.process_time() - began) / 60 / minutes
            progress.n = round(min(100, 100 * done))
            progress.set_postfix(loss=f"{loss:.2f}", steps=steps)
    attend_apart(model)
    return steps


def _texts(count: int = 20_000) -> list[str]:
    """Lines of both scripts as training draws them."""
    rng = random.Random("tokenizers")
    return [
        text_of_script(script, rng, rng.randint(1, 16), CLASSES)
        for script in SCRIPTS_COMPARED
        for _ in range(count)
    ]


def table(found: dict) -> str:
    """What `compare_tokenizers` found, in Markdown."""
    names = " | ".join(f"{SCRIPTS[script]} CER" for script in SCRIPTS_COMPARED)
    lines = [f"| tokens | vocabulary | tokens a character | steps | {names} |"]
    lines.append("| --- " * (4 + len(SCRIPTS_COMPARED)) + "|")
    for name in TOKENIZERS:
        row = found[name]
        cells = [f"{row['vocabulary']:,}", f"{row['tokens a character']:.2f}", f"{row['steps']:,}"]
        for script in SCRIPTS_COMPARED:
            cells.append("{value:.1%} [{low:.1%}, {high:.1%}]".format(**row[script]))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
