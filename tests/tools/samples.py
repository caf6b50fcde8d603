"""Shipped samples: draw the small datasets in ocrkit/assets/samples, one for each domain.

`python -m tests.tools.samples OUT [DOMAIN...]` draws them; `make samples` replaces the shipped
samples. The same fonts give the same bytes. Pictures are grey, with lines of 32 pixels, stored as
WebP in parquet, of low quality or of few greys, so that each folder stays below 300 KB.
"""

import io
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from PIL import Image

from data_prep.dataset.schema import PROMPTS, Item, Picture
from data_prep.dataset.write import write_dataset
from data_prep.synthetic.fonts import font_name
from data_prep.synthetic.line_drawing import Line, draw, plan_lines
from data_prep.synthetic.lines import choose_fonts
from data_prep.synthetic.receipts import BASE_FONTS, TILL_FONTS, draw_printed_line, line_of
from data_prep.synthetic.render import shipped_fonts
from data_prep.synthetic.texts import load_vocabulary
from data_prep.synthetic.toys import toy_items

SEED = 0
LINES_PER_PAGE = 5
LIMIT = 300_000  # bytes of a folder


@dataclass(frozen=True)
class Lines:
    """Settings of a sample of lines; few `words` make each of them frequent in few lines."""

    language: str
    face: str
    length: tuple[int, int]
    count: int = 560
    words: int = 120
    quality: int = 35
    split: tuple[float, float, float] = (0.72, 0.1, 0.18)


@dataclass(frozen=True)
class Toys:
    """Settings of a sample of toys: (task, count) pairs, drawn worn and rephrased.

    The embedded model was not trained on the rephrased questions and field names.
    """

    tasks: tuple[tuple[str, int], ...]
    quality: int = 20
    split: tuple[float, float, float] = (0.72, 0.1, 0.18)


@dataclass(frozen=True)
class Print:
    """Settings of the sample of clean lines in the embedded model's fonts, for `replay`."""

    count: int = 350
    length: tuple[int, int] = (4, 44)
    greys: int = 8
    split: tuple[float, float, float] = (1.0, 0.0, 0.0)


SAMPLES = {
    "bangla": Lines("bn", "handwriting", (3, 9)),
    "korean": Lines("ko", "sign", (2, 7)),
    "chinese": Lines("zh", "handwriting", (2, 7), count=530),
    "financial": Toys((("receipts", 250), ("tables", 125)), quality=12),
    "vqa": Toys((("questions", 560),)),
    "print": Print(),
}


def line_items(spec: Lines) -> Iterator[Item]:
    """Dataset items of lines in one face; a page of five lines is a group."""
    whole = load_vocabulary(spec.language, random_share=0)
    chosen = random.Random(SEED).sample(whole.words, min(spec.words, len(whole.words)))
    vocabulary = replace(whole, words=tuple(chosen))
    fonts, _ = choose_fonts([spec.language], [spec.face])
    planned = plan_lines([vocabulary], fonts, spec.count, SEED, spec.length, LINES_PER_PAGE)
    for index, line in enumerate(planned):
        if isinstance(line, Line):
            yield Item(
                key=f"{spec.language}-{index:04d}",
                where=f"line {index}",
                text=line.text,
                pictures=[Picture(load=partial(_line_picture, line, spec.quality))],
                group=f"{index // LINES_PER_PAGE:04d}",
                language=spec.language,
                prompt=PROMPTS["transcription"],
                meta={"face": line.face, "font": font_name(line.font)},
            )


def task_items(spec: Toys) -> Iterator[Item]:
    """Dataset items of worn toys, with the tasks mixed evenly."""
    fonts = [str(path) for path in shipped_fonts(*TILL_FONTS)]
    placed = []
    for task, count in spec.tasks:
        items = toy_items(task, count, SEED, 1.0, True, fonts, rephrase=True)
        for number, item in enumerate(items):
            load = partial(_packed, item.pictures[0].load, spec.quality)
            placed.append((number / count, replace(item, pictures=[Picture(load=load)])))
    yield from (item for _, item in sorted(placed, key=lambda pair: pair[0]))


def print_items(spec: Print) -> Iterator[Item]:
    """Dataset items of clean lines of print; each is a group."""
    fonts = [str(path) for path in shipped_fonts(*BASE_FONTS)]
    rng = random.Random(SEED)
    for index in range(spec.count):
        text = line_of(rng, *spec.length)
        load = partial(_clean_picture, text, rng.choice(fonts), rng.randint(19, 22), spec.greys)
        yield Item(
            key=f"print-{index:04d}",
            where=f"line {index}",
            text=text,
            pictures=[Picture(load=load)],
            group=f"{index:04d}",
            language="en",
            prompt=PROMPTS["transcription"],
        )


def items_of(spec: Lines | Toys | Print) -> Iterator[Item]:
    """Dataset items of a sample."""
    if isinstance(spec, Print):
        return print_items(spec)
    return line_items(spec) if isinstance(spec, Lines) else task_items(spec)


def _line_picture(line: Line, quality: int) -> bytes:
    return _webp(Image.open(io.BytesIO(draw(line, 32))), quality)


def _clean_picture(text: str, font: str, size: int, greys: int) -> bytes:
    step = 255 / (greys - 1)
    image = draw_printed_line(text, font, size, "").convert("L")
    buffer = io.BytesIO()
    image.point(lambda grey: round(round(grey / step) * step)).save(
        buffer, "WEBP", lossless=True, method=6
    )
    return buffer.getvalue()


def _packed(load: partial, quality: int) -> bytes:
    return _webp(load(), quality)


def _webp(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.convert("L").save(buffer, "WEBP", quality=quality, method=6)
    return buffer.getvalue()


def make_sample(domain: str, out: str | Path) -> dict:
    """Draw the sample of a domain into the dataset folder `out`; returns its dataset.json.

    Raises:
        DataError: a face has no font, or `out` holds something else.
        ValueError: the folder is larger than `LIMIT`.
    """
    spec = SAMPLES[domain]
    items = partial(items_of, spec)
    settings = {"seed": SEED, "layout": "prompt_completion", "format": "parquet"}
    settings |= {"sample": repr(spec)}
    manifest = write_dataset(
        items, out, f"sample-{domain}", [], settings, spec.split, progress=False
    )
    size = sum(path.stat().st_size for path in Path(out).rglob("*") if path.is_file())
    if size > LIMIT:
        raise ValueError(
            f"{out} has {size:,} bytes, more than {LIMIT:,}; lower count or quality in SAMPLES."
        )
    rows = ", ".join(f"{split} {count}" for split, count in manifest["rows"].items())
    print(f"{out}: {rows}; {size:,} bytes")
    return manifest


if __name__ == "__main__":
    for name in sys.argv[2:] or SAMPLES:
        make_sample(name, Path(sys.argv[1]) / name)
