"""Line drawing: render Bangla, Korean, Chinese or Latin as print, handwriting or a painted sign.

Ten lines are a page, with the same font, background and ink.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from data_prep.dataset.pictures import fit_height
from data_prep.synthetic import scenes
from data_prep.synthetic.fonts import has_capitals_only, missing_glyphs
from data_prep.synthetic.render import degrade_thermal, load_font
from data_prep.synthetic.texts import LENGTHS, SIGN_LENGTHS, Vocabulary, graphemes, line_text

LINES_PER_PAGE = 10
# Letters that define the body height: fonts of the same em size differ in it.
_BODY = {"bn": "অক", "ko": "한글", "zh": "国中", "en": "HE"}
# Lowest and highest body height in pixels. Chinese needs more pixels than Latin.
_SIZES = {"bn": (26, 44), "ko": (28, 46), "zh": (30, 50), "en": (20, 36)}


@dataclass(frozen=True)
class Line:
    """A line to draw; `page` seeds the look of the whole page, `seed` that of the line."""

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
    """Plan `count` lines; each depends only on the seed and its number.

    Pages alternate between the keys of `fonts`: (language, face) -> family -> fonts. A line that no
    font of its face can draw is yielded as (text, missing characters).
    """
    kinds = list(fonts)
    vocabulary_of = {vocabulary.language: vocabulary for vocabulary in vocabularies}
    for index in range(count):
        number = index // per_page
        language, face = kinds[number % len(kinds)]
        page = f"{seed}/{number}"
        families = list(fonts[language, face].values())
        look = random.Random(f"{page}/font")
        order = [look.choice(family) for family in look.sample(families, len(families))]
        rng = random.Random(f"{page}/{index % per_page}/text")
        low, high = length or (SIGN_LENGTHS if face == "sign" else LENGTHS)[language]
        # The lines of a text file continue from one page to the next page of the same language.
        turn = [kind[0] for kind in kinds].count(language)
        earlier = sum(k[0] == language for k in kinds[: number % len(kinds)])
        at = (number // len(kinds) * turn + earlier) * per_page + index % per_page
        text = line_text(vocabulary_of[language], at, rng, low, high)
        font = next((candidate for candidate in order if not missing_glyphs(candidate, text)), None)
        if font is None:
            yield text, min((missing_glyphs(candidate, text) for candidate in order), key=len)
            continue
        if has_capitals_only(font):
            text = text.upper()
        yield Line(text, language, face, font, page, f"{page}/{index % per_page}")


def draw(line: Line, height: int | None = None) -> bytes:
    """JPEG bytes of a line, scaled to `height` pixels if it is not None."""
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
        # degrade_thermal tilts by up to 1.2 degrees: keep the ends of long lines in the picture.
        spare = 4 + round(0.012 * mask.shape[1])
        inner = np.pad(mask[pad:-pad, pad:-pad], ((spare, spare), (pad // 2, pad // 2)))
        return degrade_thermal(Image.fromarray((255 - 255 * inner).astype(np.uint8)), rng)
    if look.random() < 0.85:
        grey = look.uniform(0, 70)
        ink = grey, grey, grey
    else:
        ink = scenes.pen_colour(look)
    sheet = scenes.paper(mask.shape, body, baseline, kind, look)
    fade = 1 + scenes.smooth_noise(mask.shape, 0.7 * body, rng, look.uniform(0, 0.12))
    picture = scenes.paint(sheet, np.clip(mask * fade, 0, 1), ink)
    tilt = rng.uniform(0, 0.08) * body
    return _photograph_line(picture, mask, body, tilt, False, rng)


def _written(line: Line, look: random.Random, rng: random.Random) -> Image.Image:
    body = 1.1 * look.uniform(*_SIZES[line.language])
    mask, baseline = hand_mask(line, body, look.uniform(0.01, 0.05), rng)
    mask = scenes.shaken(mask, body, look.uniform(-0.08, 0.25), rng)
    mask = _pressed(mask, look, rng, body)
    kinds = ["white", "white", "ruled", "ruled", "tinted", "aged"]
    kinds += ["squared"] * (2 if line.language in ("ko", "zh") else 1)
    sheet = scenes.paper(mask.shape, body, baseline, look.choice(kinds), look)
    picture = scenes.paint(sheet, mask, scenes.pen_colour(look))
    return _photograph_line(picture, mask, body, rng.uniform(0, 0.12) * body, False, rng)


def _painted(line: Line, look: random.Random, rng: random.Random) -> Image.Image:
    body = 1.15 * look.uniform(*_SIZES[line.language])
    font = sized_font(line.font, line.language, body)
    pad = round(1.1 * body)
    mask, _ = text_mask(line.text, font, pad)
    ground, letters = scenes.sign_colours(look)
    edge = letters if look.random() < 0.6 else scenes.sign_colours(look)[1]
    picture = scenes.board(mask.shape, body, ground, edge, look)
    style = look.choice(("flat", "flat", "flat", "shadow", "raised", "outlined"))
    red, green, blue = ground
    dark = (0.35 * red, 0.35 * green, 0.35 * blue)
    reach = max(1, round(0.05 * body))
    if style == "outlined":
        wide, _ = text_mask(line.text, font, pad, stroke_width=reach)
        grey = 255.0 if scenes.brightness(letters) < 128 else 20.0
        picture = scenes.paint(picture, wide, (grey, grey, grey))
    elif style != "flat":
        for step in range(1 if style == "raised" else reach, reach + 1):
            shadow = np.roll(mask, (step, step), axis=(0, 1))
            picture = scenes.paint(picture, 0.8 * shadow, dark)
    picture = scenes.paint(picture, mask, letters)
    return _photograph_line(picture, mask, body, rng.uniform(0.05, 0.3) * body, True, rng)


def _photograph_line(
    picture: np.ndarray, mask: np.ndarray, body: float, tilt: float, harsh: bool, rng: random.Random
) -> Image.Image:
    """Crop a picture to its ink, with random perspective and camera effects."""
    rows, columns = np.flatnonzero(mask.max(axis=1) > 0.1), np.flatnonzero(mask.max(axis=0) > 0.1)
    box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    left, top, right, bottom = (body * rng.uniform(0.06, 0.3) for _ in range(4))
    cut = scenes.tilted(picture, box, tilt, (left, top, right, bottom), rng)
    return scenes.photographed(cut, body, harsh, rng)


# --- ink ---


@lru_cache(maxsize=2000)
def _em_of_body(font: str, letters: str) -> float:
    _, top, _, bottom = load_font(font, 100).getbbox(letters, anchor="ls")
    return 100 / max(bottom - top, 1)


def sized_font(font: str, language: str, body: float) -> ImageFont.FreeTypeFont:
    """The font at the size at which the language's letters are `body` pixels high."""
    letters = _BODY[language]
    scale = 1.2 if missing_glyphs(font, letters) else _em_of_body(font, letters)
    return load_font(font, max(8, round(body * scale)))


def text_mask(
    text: str, font: ImageFont.FreeTypeFont, pad: int, stroke_width: int = 0
) -> tuple[np.ndarray, float]:
    """Ink mask of a line with `pad` empty pixels around the ink, and the row of the baseline."""
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
    """Ink mask of handwriting, and the row of the baseline: pieces vary in size and position.

    Pieces are words in Bangla and Latin, where letters join, and characters in Korean and Chinese.
    `unrest` is the standard deviation of size and position, as a share of `body`.
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
    """Vary stroke width and pen pressure of a mask."""
    if look.random() < 0.35 and body > 30:
        wider = Image.fromarray((255 * mask).astype(np.uint8)).filter(ImageFilter.MaxFilter(3))
        mask = 0.5 * mask + 0.5 * np.asarray(wider, dtype=np.float32) / 255
    pressure = look.uniform(0.75, 1.0) + scenes.smooth_noise(mask.shape, 0.5 * body, rng, 0.12)
    if look.random() < 0.25:  # pencil on grainy paper
        pressure = 0.75 * pressure + scenes.smooth_noise(mask.shape, 1.5, rng, 0.18)
    return np.clip(mask * np.clip(pressure, 0.45, 1), 0, 1)
