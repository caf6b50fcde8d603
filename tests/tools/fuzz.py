"""File fuzzing: damage files with a seed, and check how a source handles the damaged copies."""

import random
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

from data_prep.convert import load_source
from data_prep.dataset.rows import STAGED_PICTURES, process_batch
from data_prep.dataset.schema import PROMPTS, DataError, FileRefused, Item, Reject, Row

INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
SYNTAX = ['"', "[", "]", "{", "}", ",", ":", "null", "-1e999", "1" * 400, '"\\ud800"', "\\", "\0"]


def mutations(data: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """Yield `count` damaged copies: flipped bits, overwritten, deleted or repeated bytes."""
    chance = random.Random(seed)
    for _ in range(count):
        damaged = bytearray(data)
        for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
            at = chance.randrange(len(damaged) + 1)
            kind = chance.randrange(6)
            if kind == 0 and at < len(damaged):
                damaged[at] ^= 1 << chance.randrange(8)
            elif kind == 1:
                width = chance.choice((1, 2, 4))
                value = chance.choice(INTERESTING) & ((1 << 8 * width) - 1)
                damaged[at : at + width] = value.to_bytes(width, "little")
            elif kind == 2:
                del damaged[at : at + chance.choice((1, 2, 4, 50, 10_000))]
            elif kind == 3:
                damaged[at:at] = chance.randbytes(chance.choice((1, 2, 4, 50)))
            elif kind == 4:
                damaged[at:at] = damaged[at : at + chance.choice((4, 30, 300))]
            elif damaged and chance.random() < 0.3:
                del damaged[at:]
            if not damaged:
                damaged = bytearray(chance.randbytes(4))
        yield bytes(damaged)


def json_mutations(text: str, count: int, seed: int = 0) -> Iterator[bytes]:
    """Yield `count` damaged copies of a JSON text: `mutations`, or inserted pieces of syntax."""
    chance = random.Random(seed)
    for damaged in mutations(text.encode(), count, seed):
        if chance.random() < 0.5:
            at = chance.randrange(len(text) + 1)
            piece = chance.choice(SYNTAX)
            end = at + chance.choice((0, 0, 1, 5, 20))
            damaged = (text[:at] + piece + text[end:]).encode("utf-8", "surrogatepass")
        yield damaged


def assert_survives(
    source: str, damaged: Iterator[bytes], folder: Path, name: str, **options: object
) -> int:
    """Assert that every damaged copy converts to rows, rejects or one sentence, and quickly.

    Each case may take a second, and may allocate 64 MiB or ten times its input (traced for every
    20th case, because tracing is slow). Returns the number of rows: some damage is harmless, so 0
    would mean that nothing was read.
    """
    row_count = 0
    module = load_source(source)
    common = {"task": module.TASKS[0], "prompt": None, "inputs": [str(folder / "in")]}
    settings = SimpleNamespace(**module.OPTIONS | common | options)
    out = folder / "out"
    (out / STAGED_PICTURES).mkdir(parents=True, exist_ok=True)
    path = folder / "in" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    for case, data in enumerate(damaged):
        path.write_bytes(data)
        traced = case % 20 == 0
        if traced:
            tracemalloc.start()
        start = time.process_time()
        try:
            items = list(module.rows(str(folder / "in"), settings))
        except (DataError, FileRefused) as error:
            items = []
            assert "\n" not in str(error)
        spent = time.process_time() - start
        if traced:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak <= max(10 * len(data), 64 * 2**20), f"case {case} allocated {peak}"
        assert spent < (5 if traced else 1), f"case {case} took {spent} s"
        for item in items:
            assert isinstance(item, Item | Reject)
            if isinstance(item, Item) and item.prompt is None:
                item.prompt = PROMPTS[item.task]
        results = process_batch(items, str(out), source)
        assert len(results) == len(items)
        for outcome, *_ in results:
            assert isinstance(outcome, Row | Reject)
            outcome.to_json().encode("utf-8")
            row_count += isinstance(outcome, Row)
    return row_count
