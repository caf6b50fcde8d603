"""What is measured on: lines, photographs, handwriting and pairs of texts, drawn from a seed."""

import io
import math
import random
import struct
import unicodedata
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from data_prep.dataset.schema import PROMPTS, Item, Picture
from data_prep.dataset.write import write_dataset
from data_prep.synthetic.receipts import line_of
from data_prep.synthetic.render import draw_line, load_font, shipped_fonts

# --- dataset folders ---


def printed_lines(out: Path, count: int, longest: int = 48, seed: int = 0) -> None:
    """A dataset of printed lines, 32 pixels high, their lengths spread as on real receipts.

    Of 1,419 lines of SROIE half have up to 7 characters and 95 % up to 30; the longest has 45.
    """

    def items() -> Iterator[Item]:
        rng = random.Random(seed)
        font = str(shipped_fonts("DejaVuSans")[0])
        for number in range(count):
            length = min(longest, max(1, round(rng.lognormvariate(math.log(7), 0.88))))
            text = line_of(rng, max(1, length - 1), length)
            yield _item(number, text, partial(_printed, text, font))

    _write(items, out, "bench-lines", count, seed)


def street_signs(out: Path, count: int, size: tuple[int, int] = (1280, 960), seed: int = 0) -> None:
    """A dataset of JPEG photographs with five to ten signs, their text 20 to 60 pixels high."""

    def items() -> Iterator[Item]:
        for number in range(count):
            rng = random.Random(f"{seed}/{number}")
            texts = [line_of(rng, 4, 20) for _ in range(rng.randint(5, 10))]
            load = partial(_street, texts, size, f"{seed}/{number}")
            yield _item(number, "\n".join(texts), load)

    _write(items, out, "bench-signs", count, seed)


def _item(number: int, text: str, load: partial) -> Item:
    key = f"{number:06d}"
    prompt = PROMPTS["transcription"]
    return Item(key, key, text, [Picture(load)], key, "en", prompt=prompt)


def _write(items: Callable, out: Path, source: str, count: int, seed: int) -> None:
    settings = {"count": count, "seed": seed, "layout": "prompt_completion"}
    write_dataset(items, out, source, [], settings, (1.0, 0.0, 0.0), progress=False)


def _printed(text: str, font: str) -> Image.Image:
    return draw_line(text, load_font(font, 21))


def _street(texts: list[str], size: tuple[int, int], seed: str) -> bytes:
    """A JPEG: walls and windows as a camera sees them, with signs one below the other."""
    rng = random.Random(seed)
    width, height = size
    coarse = np.random.default_rng(rng.getrandbits(32)).integers(40, 215, (12, 16, 3), np.uint8)
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    font = str(shipped_fonts("DejaVuSans-Bold")[0])
    step = height / len(texts)
    for number, text in enumerate(texts):
        # A capital is 0.73 of the size of DejaVu Sans.
        tall = min(rng.randint(20, 60), int(step * 0.6))
        face = load_font(font, max(8, round(tall / 0.73)))
        paper = tuple(rng.randint(0, 255) for _ in range(3))
        ink = (255, 255, 255) if sum(paper) < 380 else (0, 0, 0)
        left, top = rng.randint(0, width // 4), round(number * step)
        box = pen.textbbox((left + 8, top + 4), text, font=face)
        pen.rectangle((left, top, box[2] + 8, box[3] + 6), fill=paper)
        pen.text((left + 8, top + 4), text, font=face, fill=ink)
    pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(0.6))).astype(np.float32)
    pixels += np.random.default_rng(rng.getrandbits(32)).normal(0, 4, pixels.shape)
    buffer = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


# --- handwriting in the formats of CASIA-HWDB ---


def handwriting(count: int, seed: int = 0) -> list[np.ndarray]:
    """Signs of grey strokes on pure white, as scans of HWDB are: 8 bits, 60 to 90 pixels high."""
    chance = random.Random(seed)
    signs = []
    for _ in range(count):
        size = chance.randint(60, 90)
        image = Image.new("L", (size, size), 255)
        pen = ImageDraw.Draw(image)
        for _ in range(chance.randint(3, 9)):
            points = [(chance.uniform(4, size - 4), chance.uniform(4, size - 4))]
            for _ in range(chance.randint(1, 3)):
                x, y = points[-1]
                points.append((x + chance.gauss(0, size / 3), y + chance.gauss(0, size / 5)))
            pen.line(
                points, fill=chance.randint(20, 110), width=chance.randint(3, 6), joint="curve"
            )
        pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(1.1))).astype(np.int16)
        grain = np.random.default_rng(chance.randrange(2**32)).normal(0, 9, pixels.shape)
        signs.append(np.where(pixels < 235, np.clip(pixels + grain, 0, 254), 255).astype(np.uint8))
    return signs


def write_pages(folder: Path, lines: int, seed: int = 0) -> None:
    """Pages of ten .dgrl lines each, a line of 15 to 30 signs."""
    chance = random.Random(seed)
    signs = handwriting(400, seed)
    folder.mkdir(parents=True)
    for number in range(lines // 10):
        # Header size, magic, remark, code type, code length, bits, page height and width, lines.
        head = struct.pack("<i", 43) + b"DGRL\0\0\0\0" + b"a page\0" + b"GB".ljust(20, b"\0")
        body = [head + struct.pack("<hhiii", 2, 8, 3000, 2000, 10)]
        for _ in range(10):
            chosen = [chance.choice(signs) for _ in range(chance.randint(15, 30))]
            pixels = np.full((100, sum(sign.shape[1] + 6 for sign in chosen)), 255, np.uint8)
            at = 0
            for sign in chosen:
                top = chance.randint(0, 100 - len(sign))
                pixels[top : top + len(sign), at : at + len(sign)] = sign
                at += len(sign) + chance.randint(-6, 6)
            codes = [chr(chance.randint(0x4E00, 0x9FA5)).encode("gb18030") for _ in chosen]
            body.append(struct.pack("<i", len(codes)) + b"".join(codes))
            body.append(struct.pack("<iiii", 7, 5, 100, at) + pixels[:, :at].tobytes())
        (folder / f"{number % 97:03d}-P{number:04d}.dgrl").write_bytes(b"".join(body))


def write_characters(path: Path, signs: list[np.ndarray], count: int) -> None:
    """A .gnt file of `count` records, the signs over and over."""
    tags = [chr(0x4E00 + number).encode("gb18030") for number in range(len(signs))]
    with path.open("wb") as file:
        for number in range(count):
            tag, sign = tags[number % len(tags)], signs[number % len(signs)]
            height, width = sign.shape
            file.write(struct.pack("<I", 10 + sign.size) + tag)
            file.write(struct.pack("<HH", width, height) + sign.tobytes())


# --- texts ---

ALPHABETS = {
    "latin": "abcdefghijABCDEFGHIJ0123456789 .,-éü",
    "bangla": "কখগঘঙচছজঝতথদধনপফবভমযরলশসহািীুূেোৌ্ঁংঃয়ড় \u200d।",
    "hangul": "가나다라마바사아자차카타파하각난닭값ㅋㅎ 0123()",
    "han": "一二三四五六七八九十國国龍龙。，、「」 ",
}


def noisy_pairs(count: int, rate: float, seed: int = 0) -> tuple[list[str], list[str]]:
    """Texts of 30 characters in four scripts and what was read of them, in NFC, none of them twice.

    Args:
        rate: share of characters with an error: another, one more or one missing.
    """
    chance = random.Random(seed)
    references, predictions = [], []
    for alphabet in ALPHABETS.values():
        for _ in range(count // len(ALPHABETS)):
            text = "".join(chance.choices(unicodedata.normalize("NFC", alphabet), k=30))
            references.append(unicodedata.normalize("NFC", text))
            read = noisy(text, alphabet, chance, rate)
            predictions.append(unicodedata.normalize("NFC", read))
    return references, predictions


def noisy(text: str, alphabet: str, chance: random.Random, rate: float) -> str:
    """The text with errors: another character, one more or one missing at a share of `rate`."""
    read = []
    for char in text:
        kind = chance.random() / rate
        if kind < 0.4:
            read.append(chance.choice(alphabet))
        elif kind < 0.7:
            read += [char, chance.choice(alphabet)]
        elif kind > 1:
            read.append(char)
    return "".join(read)
