"""Draws lines of Bangla, Korean, Chinese and Latin: printed, written by hand, painted on signs.

`python -m data_prep.synthesize lines --help` tells what can be asked for. Ten lines make a page:
one font, one paper or board, one pen, and a group of its own when splits are dealt.
"""

import argparse
import hashlib
import io
import os
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from . import scenes
from .dataset import write_dataset
from .fonts import (
    FACES,
    KINDS,
    LANGUAGES,
    check_font,
    find_fonts,
    font_name,
    font_table,
    has_capitals_only,
    require_shaping,
    undrawn,
)
from .render import degrade_thermal, fit_height, load_font, shipped_fonts
from .schema import PROMPTS, DataError, Item, Picture, Reject, UsageError
from .split import parse_shares
from .texts import LENGTHS, SIGN_LENGTHS, Vocabulary, graphemes, line_text, load_vocabulary

LINES_PER_PAGE = 10
# Letters whose ink is as high as a line's body, to draw fonts of one em in equal sizes.
_BODY = {"bn": "অক", "ko": "한글", "zh": "国中", "en": "HE"}
# Height of the body in pixels, from and to. Chinese needs more of them than Latin.
_SIZES = {"bn": (26, 44), "ko": (28, 46), "zh": (30, 50), "en": (20, 36)}


@dataclass(frozen=True)
class Line:
    """One line to draw. `page` and `seed` seed what its page and what it alone looks like."""

    text: str
    language: str
    face: str
    font: str
    page: str
    seed: str


def plan_lines(
    vocabularies: Sequence[Vocabulary],
    fonts: dict[tuple[str, str], dict[str, list[str]]],
    count: int,
    seed: int | str,
    length: tuple[int, int] | None = None,
    per_page: int = LINES_PER_PAGE,
) -> Iterator[Line | tuple[str, str]]:
    """`count` lines, each decided by the seed and its own number: more lines change none.

    Pages go round the languages and faces that `fonts` has: (language, face) -> family -> fonts.
    A line that no font of its face can draw comes as (text, the characters that are missing).
    """
    kinds = list(fonts)
    spoken = {vocabulary.language: vocabulary for vocabulary in vocabularies}
    for index in range(count):
        number = index // per_page
        language, face = kinds[number % len(kinds)]
        page = f"{seed}/{number}"
        families = list(fonts[language, face].values())
        look = random.Random(f"{page}/font")
        order = [look.choice(family) for family in look.sample(families, len(families))]
        rng = random.Random(f"{page}/{index % per_page}/text")
        low, high = length or (SIGN_LENGTHS if face == "sign" else LENGTHS)[language]
        # Lines of a text file go on from page to page of their own language.
        turn = [kind[0] for kind in kinds].count(language)
        earlier = sum(k[0] == language for k in kinds[: number % len(kinds)])
        at = (number // len(kinds) * turn + earlier) * per_page + index % per_page
        text = line_text(spoken[language], at, rng, low, high)
        font = next((one for one in order if not undrawn(one, text)), None)
        if font is None:
            yield text, min((undrawn(one, text) for one in order), key=len)
            continue
        if has_capitals_only(font):
            text = text.upper()
        yield Line(text, language, face, font, page, f"{page}/{index % per_page}")


def draw(line: Line, height: int | None = None) -> bytes:
    """A line's picture as JPEG bytes, scaled to `height` pixels where one is given."""
    look, rng = random.Random(line.page), random.Random(line.seed)
    image = {"print": _printed, "handwriting": _written, "sign": _painted}[line.face](
        line, look, rng
    )
    if height:
        image = fit_height(image, height)
    if look.random() < {"print": 0.6, "handwriting": 0.4, "sign": 0.03}[line.face]:
        image = image.convert("L")
    return scenes.to_jpeg(image, rng.randint(60, 95))


# --- the three faces ---


def _printed(line: Line, look: random.Random, rng: random.Random) -> Image.Image:
    body = look.uniform(*_SIZES[line.language])
    font = sized_font(line.font, line.language, body)
    pad = round(0.8 * body)
    mask, baseline = text_mask(line.text, font, pad)
    kind = look.choice(("white", "white", "white", "tinted", "aged", "thermal"))
    if kind == "thermal":
        # Its tilt of up to 1.2 degrees must not lift the ends of a long line out of the picture.
        spare = 4 + round(0.012 * mask.shape[1])
        inner = np.pad(mask[pad:-pad, pad:-pad], ((spare, spare), (pad // 2, pad // 2)))
        return degrade_thermal(Image.fromarray((255 - 255 * inner).astype(np.uint8)), rng)
    ink = 3 * (look.uniform(0, 70),) if look.random() < 0.85 else scenes.pen_colour(look)
    sheet = scenes.paper(mask.shape, body, baseline, kind, look)
    fade = 1 + scenes.smooth_noise(mask.shape, 0.7 * body, rng, look.uniform(0, 0.12))
    picture = scenes.paint(sheet, np.clip(mask * fade, 0, 1), ink)
    tilt = rng.uniform(0, 0.08) * body
    return _seen(picture, mask, body, tilt, False, rng)


def _written(line: Line, look: random.Random, rng: random.Random) -> Image.Image:
    body = 1.1 * look.uniform(*_SIZES[line.language])
    mask, baseline = hand_mask(line, body, look.uniform(0.01, 0.05), rng)
    mask = scenes.shaken(mask, body, look.uniform(-0.08, 0.25), rng)
    mask = _pressed(mask, look, rng, body)
    kinds = ["white", "white", "ruled", "ruled", "tinted", "aged"]
    kinds += ["squared"] * (2 if line.language in ("ko", "zh") else 1)
    sheet = scenes.paper(mask.shape, body, baseline, look.choice(kinds), look)
    picture = scenes.paint(sheet, mask, scenes.pen_colour(look))
    return _seen(picture, mask, body, rng.uniform(0, 0.12) * body, False, rng)


def _painted(line: Line, look: random.Random, rng: random.Random) -> Image.Image:
    body = 1.15 * look.uniform(*_SIZES[line.language])
    font = sized_font(line.font, line.language, body)
    pad = round(1.1 * body)
    mask, _ = text_mask(line.text, font, pad)
    ground, letters = scenes.sign_colours(look)
    edge = letters if look.random() < 0.6 else scenes.sign_colours(look)[1]
    picture = scenes.board(mask.shape, body, ground, edge, look)
    style = look.choice(("flat", "flat", "flat", "shadow", "raised", "outlined"))
    dark = tuple(0.35 * channel for channel in ground)
    reach = max(1, round(0.05 * body))
    if style == "outlined":
        wide, _ = text_mask(line.text, font, pad, stroke_width=reach)
        rim = (255.0,) * 3 if scenes.brightness(letters) < 128 else (20.0,) * 3
        picture = scenes.paint(picture, wide, rim)
    elif style != "flat":
        for step in range(1 if style == "raised" else reach, reach + 1):
            shadow = np.roll(mask, (step, step), axis=(0, 1))
            picture = scenes.paint(picture, 0.8 * shadow, dark)
    picture = scenes.paint(picture, mask, letters)
    return _seen(picture, mask, body, rng.uniform(0.05, 0.3) * body, True, rng)


def _seen(
    picture: np.ndarray,
    mask: np.ndarray,
    body: float,
    tilt: float,
    harsh: bool,
    rng: random.Random,
) -> Image.Image:
    """The picture cut around its ink, from an angle, through a lens."""
    rows, columns = np.flatnonzero(mask.max(axis=1) > 0.1), np.flatnonzero(mask.max(axis=0) > 0.1)
    box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    margins = tuple(body * rng.uniform(0.06, 0.3) for _ in range(4))
    cut = scenes.tilted(picture, box, tilt, margins, rng)
    return scenes.photographed(cut, body, harsh, rng)


# --- ink ---


@lru_cache(maxsize=2000)
def _em_of_body(font: str, letters: str) -> float:
    _, top, _, bottom = load_font(font, 100).getbbox(letters, anchor="ls")
    return 100 / max(bottom - top, 1)


def sized_font(font: str, language: str, body: float) -> ImageFont.FreeTypeFont:
    """The font in the size at which the language's letters are `body` pixels high."""
    letters = _BODY[language]
    scale = 1.2 if undrawn(font, letters) else _em_of_body(font, letters)
    return load_font(font, max(8, round(body * scale)))


def text_mask(
    text: str, font: ImageFont.FreeTypeFont, pad: int, stroke_width: int = 0
) -> tuple[np.ndarray, float]:
    """A line's ink as a mask with `pad` empty pixels around all of it, and its baseline's row."""
    left, top, right, bottom = font.getbbox(text, anchor="ls")
    size = (int(right - left) + 1 + 2 * pad, int(bottom - top) + 1 + 2 * pad)
    image = Image.new("L", size)
    ImageDraw.Draw(image).text(
        (pad - left, pad - top), text, 255, font, "ls", stroke_width=stroke_width
    )
    return np.asarray(image, dtype=np.float32) / 255, pad - top


def hand_mask(
    line: Line, body: float, unrest: float, rng: random.Random
) -> tuple[np.ndarray, float]:
    """A line set piece by piece, each a little larger, higher or farther than it should be.

    Pieces are words where letters join (Bangla, Latin), characters in Korean and Chinese.
    """
    joins = line.language in ("bn", "en")
    words = line.text.split(" ") if joins else graphemes(line.text)
    space = body * rng.uniform(0.35, 0.6)
    placed, pen = [], 0.0
    for word in words:
        font = sized_font(line.font, line.language, body * (1 + rng.gauss(0, unrest)))
        if word.strip():
            placed.append((word, font, pen, body * rng.gauss(0, unrest)))
            pen += font.getlength(word) + body * rng.gauss(0, unrest)
        if joins or not word.strip():
            pen += space * rng.uniform(0.8, 1.3)
    boxes = [font.getbbox(word, anchor="ls") for word, font, _, _ in placed]
    left = min(x + box[0] for box, (_, _, x, _) in zip(boxes, placed))
    right = max(x + box[2] for box, (_, _, x, _) in zip(boxes, placed))
    top = min(y + box[1] for box, (_, _, _, y) in zip(boxes, placed))
    bottom = max(y + box[3] for box, (_, _, _, y) in zip(boxes, placed))
    pad = round(1.15 * body)
    size = (int(right - left) + 2 + 2 * pad, int(bottom - top) + 2 + 2 * pad)
    image = Image.new("L", size)
    canvas = ImageDraw.Draw(image)
    for word, font, x, y in placed:
        canvas.text((pad - left + x, pad - top + y), word, 255, font, "ls")
    return np.asarray(image, dtype=np.float32) / 255, pad - top


def _pressed(mask: np.ndarray, look: random.Random, rng: random.Random, body: float) -> np.ndarray:
    """The mask as a pen leaves it: thin or thick, and fainter where the hand pressed less."""
    if look.random() < 0.35 and body > 30:
        wider = Image.fromarray((255 * mask).astype(np.uint8)).filter(ImageFilter.MaxFilter(3))
        mask = 0.5 * mask + 0.5 * np.asarray(wider, dtype=np.float32) / 255
    pressure = look.uniform(0.75, 1.0) + scenes.smooth_noise(mask.shape, 0.5 * body, rng, 0.12)
    if look.random() < 0.25:  # pencil, broken by the paper's grain
        pressure = 0.75 * pressure + scenes.smooth_noise(mask.shape, 1.5, rng, 0.18)
    return np.clip(mask * np.clip(pressure, 0.45, 1), 0, 1)


# --- the dataset ---


def lines(
    out: str | Path,
    vocabularies: Sequence[Vocabulary],
    fonts: dict[tuple[str, str], dict[str, list[str]]],
    count: int = 1000,
    *,
    seed: int = 0,
    split: str = "0.8,0.1,0.1",
    length: tuple[int, int] | None = None,
    height: int | None = None,
    workers: int = 1,
    progress: bool = True,
) -> dict:
    """Write `count` lines as the dataset folder `out`; returns its dataset.json.

    The same arguments give the same bytes, whatever `workers`; a line does not depend on how many
    follow it.

    Args:
        vocabularies: a language each, from `texts.load_vocabulary`.
        fonts: what `choose_fonts` found.
        split: shares of train, validation and test, dealt by pages of ten lines.
        length: shortest and longest line in characters; None takes the language's usual ones.
        height: of every picture in pixels; None leaves them as large as they were drawn.

    Raises:
        DataError: `out` holds something else, or Pillow cannot shape Bangla.
    """
    if any(vocabulary.language == "bn" for vocabulary in vocabularies):
        require_shaping()

    def items() -> Iterator[Item | Reject]:
        for index, line in enumerate(plan_lines(vocabularies, fonts, count, seed, length)):
            where, group = f"line {index}", f"{index // LINES_PER_PAGE:06d}"
            if not isinstance(line, Line):
                text, missing = line
                yield Reject(where, "no font has the character", f"{missing} in {text}")
                continue
            yield Item(
                key=f"{line.language}-{index:07d}",
                where=where,
                text=line.text,
                pictures=[Picture(load=partial(draw, line, height))],
                group=group,
                language=line.language,
                prompt=PROMPTS["transcription"],
                meta={"face": line.face, "font": font_name(line.font)},
            )

    told = {
        "count": count,
        "seed": seed,
        "split": split,
        "length": list(length) if length else None,
        "height": height,
        "layout": "prompt_completion",
        "texts": {v.language: _digest(repr(v)) for v in vocabularies},
        "fonts": {
            "/".join(kind): sorted(Path(font).name for fonts in families.values() for font in fonts)
            for kind, families in fonts.items()
        },
    }
    shares = parse_shares(split)
    return write_dataset(
        items, out, "synthetic-lines", [], told, shares, workers, progress, total=count
    )


def choose_fonts(
    languages: Sequence[str], faces: Sequence[str] | None, files: Sequence[str] = ()
) -> tuple[dict[tuple[str, str], dict[str, list[str]]], list[str]]:
    """Fonts of every language and face, and sentences about the faces that have none.

    With `files` these are used for every face. A face that was asked for must have a font;
    without `faces`, those that have one are taken.

    Raises:
        DataError: a face asked for has no font, or no face has one.
    """
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    missing: list[str] = []
    for language in languages:
        before = len(found)
        for face in faces or KINDS:
            if files:
                found[language, face] = {file: [check_font(file)] for file in files}
                continue
            try:
                found[language, face] = find_fonts(language, face)
            except DataError as error:
                if faces:
                    raise
                missing.append(str(error))
        if len(found) == before:
            raise DataError(missing[-len(KINDS)])
    return found, missing


def sheet(
    out: str | Path,
    vocabularies: Sequence[Vocabulary],
    fonts: dict[tuple[str, str], dict[str, list[str]]],
    *,
    seed: int = 0,
    width: int = 960,
    rows: int = 2,
    colours: int = 128,
) -> None:
    """Draw samples of every language and face, each with its font's name, as the PNG `out`.

    It is `width` pixels wide with `rows` rows a face, in few `colours`, so that it stays small.
    """
    label = load_font(str(shipped_fonts("DejaVuSans")[0]), 11)
    title = load_font(str(shipped_fonts("DejaVuSans-Bold")[0]), 13)
    height, gap, side = 40, 8, 116
    page = Image.new("RGB", (width, gap + len(fonts) * (rows * (height + 22) + gap)), "white")
    canvas = ImageDraw.Draw(page)
    y = gap
    for (language, face), families in fonts.items():
        canvas.text((gap, y + 6), LANGUAGES[language], 0, title)
        canvas.text((gap, y + 24), face, (90, 90, 90), label)
        kind = {(language, face): families}
        planned = plan_lines(vocabularies, kind, 500, f"{seed}/{language}/{face}", per_page=1)
        drawn = (line for line in planned if isinstance(line, Line))
        for _ in range(rows):
            x, refused = side, 0
            for line in drawn:
                image = fit_height(Image.open(io.BytesIO(draw(line))), height)
                if x + image.width > width - gap:
                    refused += 1
                    if refused > 8:
                        break
                    continue
                page.paste(image.convert("RGB"), (x, y))
                name = _shortened(font_name(line.font), label, image.width)
                canvas.text((x, y + height + 2), name, (80, 80, 80), label)
                x += image.width + gap
            y += height + 22
        y += gap
    # Palettes that follow the counts of colours turn every board grey; this one does not.
    method = Image.Quantize.MAXCOVERAGE
    page = page.quantize(colours, method, kmeans=3, dither=Image.Dither.NONE)
    page.save(out, "PNG", optimize=True)


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    while text and font.getlength(text) > width:
        text = text[:-1]
    return text


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


# --- the command ---

GUIDE = """\
examples:
  python -m data_prep.synthesize lines ko --count 5000 --out data/signs --face sign
  python -m data_prep.synthesize lines bn --text novel.txt --face handwriting --out data/bangla
  python -m data_prep.synthesize lines zh en --count 20000 --split 0.9,0.05,0.05 --out data/zh_en
  python -m data_prep.synthesize lines bn ko zh en --sheet samples.png
  python -m data_prep.synthesize lines --list-fonts

Lines are made of the kit's own word lists, numbers, and random syllables that show rare characters
(--random). A font is used only for lines of which it draws every character; FILE#2 means the third
face of a collection. No package has a Bangla hand: --face handwriting shakes prints there, unless
--font names a hand of your own. The same options and fonts give the same bytes, whatever --workers;
with a larger --count the earlier lines stay as they are.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `lines`."""
    parser.epilog = GUIDE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add(
        "languages",
        metavar="LANGUAGE",
        nargs="*",
        help="bn (Bangla), ko (Korean), zh (Chinese), en (Latin); pages take turns",
    )
    add("--out", metavar="DIR", help="the dataset folder to make")
    add("--count", type=int, default=1000, metavar="N", help="lines (default 1000)")
    add("--face", nargs="+", choices=KINDS, help="what to draw (default: all that have fonts)")
    add("--font", nargs="+", default=[], metavar="FILE", help="font files to use instead")
    add("--text", metavar="FILE", help="draw the lines of this text, instead of random words")
    add("--words", metavar="FILE", help="word list to use instead of the kit's own")
    add("--characters", metavar="FILE", help="characters of the random strings")
    add(
        "--random",
        type=float,
        default=0.2,
        metavar="SHARE",
        help="share of lines that are random characters or syllables (default 0.2)",
    )
    add("--length", metavar="LOW,HIGH", help="characters of a line, such as 5,30")
    add("--height", type=int, metavar="PX", help="scale every picture to this height")
    add("--seed", type=int, default=0, help="decides texts, fonts and looks (default 0)")
    add("--split", default="0.8,0.1,0.1", help="shares of train, validation and test, by page")
    add("--workers", type=int, help="processes (default: one a core)")
    add("--sheet", metavar="PNG", help="draw a sheet of samples instead of a dataset")
    add("--list-fonts", action="store_true", help="list faces, families, and their packages")


def run(args: argparse.Namespace) -> int:
    """Do what the options say; returns the exit code."""
    if args.list_fonts:
        print(font_table())
        return 0
    check(args)
    length = parse_length(args.length)
    fonts, missing = choose_fonts(args.languages, args.face, args.font)
    for sentence in missing:
        print(f"note: {sentence}", file=sys.stderr)
    vocabularies = [
        load_vocabulary(
            language,
            args.text,
            args.words,
            args.characters,
            args.random,
            length[1] if length else None,
        )
        for language in args.languages
    ]
    if args.sheet:
        if "bn" in args.languages:
            require_shaping()
        sheet(args.sheet, vocabularies, fonts, seed=args.seed)
        print(f"{args.sheet}: samples of {len(fonts)} faces.")
        return 0
    result = lines(
        args.out,
        vocabularies,
        fonts,
        args.count,
        seed=args.seed,
        split=args.split,
        length=length,
        height=args.height,
        workers=args.workers or os.cpu_count() or 1,
    )
    made = ", ".join(f"{split} {count:,}" for split, count in result["rows"].items())
    print(f"{args.out}: {sum(result['rows'].values()):,} lines ({made})")
    for reason, count in result["rejects"].items():
        print(f"  {count:>9,}  {reason} (see rejects.jsonl)")
    return 0


def check(args: argparse.Namespace) -> None:
    """UsageError where options cannot be meant so."""
    if not args.languages:
        raise UsageError(f"No LANGUAGE is given: name one or more of {', '.join(FACES)}.")
    for language in args.languages:
        if language not in FACES:
            raise UsageError(f"{language!r} is no language here: take one of {', '.join(FACES)}.")
    if len(set(args.languages)) < len(args.languages):
        raise UsageError(f"A language is named twice in {' '.join(args.languages)}; name it once.")
    if not args.out and not args.sheet:
        raise UsageError("Neither --out DIR, the dataset to make, nor --sheet PNG is given.")
    for option in ("text", "words", "characters"):
        if getattr(args, option) and len(args.languages) > 1:
            raise UsageError(f"--{option} is of one language, but {len(args.languages)} are named.")
    for option in ("count", "workers", "height"):
        value = getattr(args, option)
        if value is not None and value < (16 if option == "height" else 1):
            least = 16 if option == "height" else 1
            raise UsageError(f"--{option} is {value}, but takes {least} or more.")
    if not 0 <= args.random <= 1:
        raise UsageError(f"--random is {args.random}, but takes a share from 0 to 1.")
    if parse_shares(args.split) is None:
        raise UsageError("--split is 'source', but drawn lines have none: give 0.8,0.1,0.1.")


def parse_length(text: str | None) -> tuple[int, int] | None:
    """Read --length: two numbers, the first not above the second."""
    if text is None:
        return None
    try:
        low, high = (int(part) for part in text.split(","))
    except ValueError:
        low, high = 0, 0
    if not 1 <= low <= high:
        raise UsageError(f"--length is {text!r}, but takes two counts such as 5,30.")
    return low, high
