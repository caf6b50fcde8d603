"""Training lines of the embedded model: synthetic printed lines of four scripts.

A script is named by a language: "en" (Latin), "bn", "ko" and "zh". Some fonts of each script are
held out, so that the model can be evaluated on unseen fonts.
"""

import random
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from data_prep.dataset.pictures import fit_height
from data_prep.dataset.schema import DataError
from data_prep.synthetic.fonts import installed_fonts, missing_glyphs
from data_prep.synthetic.line_drawing import sized_font
from data_prep.synthetic.receipts import TILL_FONTS, line_of
from data_prep.synthetic.render import draw_line, shipped_fonts
from data_prep.synthetic.texts import graphemes, line_text, load_vocabulary, standard_characters

SCRIPTS = {"en": "Latin", "bn": "Bangla", "ko": "Hangul", "zh": "Han"}
HEIGHT = 32
MAX_WIDTH = 576

# Script -> font family (as in fontconfig) -> Debian package.
FONTS: dict[str, dict[str, str]] = {
    "en": {
        "DejaVu Sans Condensed": "fonts-dejavu-extra",
        "Liberation Sans": "fonts-liberation",
        "Liberation Serif": "fonts-liberation",
        "Liberation Mono": "fonts-liberation",
        "FreeMono": "fonts-freefont-ttf",
        "FreeSans": "fonts-freefont-ttf",
        "FreeSerif": "fonts-freefont-ttf",
        "Roboto": "fonts-roboto-unhinted",
        "Roboto Condensed": "fonts-roboto-unhinted",
        "Open Sans": "fonts-open-sans",
        "Lato": "fonts-lato",
        "OCRB": "fonts-ocr-b",
        "Courier Prime": "fonts-courier-prime",
        "Courier Prime Sans": "fonts-courier-prime",
        "Inconsolata": "fonts-inconsolata",
        "Anonymous Pro": "fonts-anonymous-pro",
        "Noto Mono": "fonts-noto-mono",
        "Cantarell": "fonts-cantarell",
        "Carlito": "fonts-crosextra-carlito",
        "TeX Gyre Cursor": "fonts-texgyre",
        "Nimbus Mono PS": "fonts-urw-base35",
        "Nimbus Sans Narrow": "fonts-urw-base35",
        "C059": "fonts-urw-base35",
        "P052": "fonts-urw-base35",
        "JetBrains Mono": "fonts-jetbrains-mono",
        "Tlwg Typewriter": "fonts-tlwg-typewriter-ttf",
    },
    "bn": {
        "Noto Sans Bengali": "fonts-noto-core",
        "Noto Sans Bengali UI": "fonts-noto-ui-core",
        "Noto Serif Bengali": "fonts-noto-core",
        "Mukti": "fonts-beng-extra",
        "Likhan": "fonts-beng-extra",
        "Jamrul": "fonts-beng-extra",
    },
    "ko": {
        "NanumGothic": "fonts-nanum",
        "NanumMyeongjo": "fonts-nanum",
        "NanumSquare": "fonts-nanum",
        "Noto Sans CJK KR": "fonts-noto-cjk",
        "Noto Serif CJK KR": "fonts-noto-cjk",
        "UnBatang": "fonts-unfonts-core",
        "UnDotum": "fonts-unfonts-core",
        "Baekmuk Batang": "fonts-baekmuk",
        "Baekmuk Dotum": "fonts-baekmuk",
    },
    "zh": {
        "Noto Sans CJK SC": "fonts-noto-cjk",
        "Noto Serif CJK SC": "fonts-noto-cjk",
        "AR PL UMing CN": "fonts-arphic-uming",
        "WenQuanYi Micro Hei": "fonts-wqy-microhei",
        "LXGW WenKai": "fonts-lxgw-wenkai",
    },
}
# Without Computer Modern's cmr10 and cmss10, which draw "¡" for "<" and a dash for "|".
_SHIPPED = (
    "DejaVuSans DejaVuSans-Bold DejaVuSans-Oblique DejaVuSerif DejaVuSerif-Bold STIXGeneral "
    "STIXGeneralBol"
).split()
# Held-out fonts; those of Latin are matplotlib's, by file name.
HELD_OUT: dict[str, dict[str, str]] = {
    "en": dict.fromkeys(TILL_FONTS, "matplotlib"),
    "bn": {"Lohit Bengali": "fonts-lohit-beng-bengali"},
    "ko": {"NanumBarunGothic": "fonts-nanum", "Baekmuk Gulim": "fonts-baekmuk"},
    "zh": {"WenQuanYi Zen Hei": "fonts-wqy-zenhei"},
}

# Body height in pixels at which signs above and below the letters fit into the line.
_BODY = {"en": 15, "bn": 16, "ko": 24, "zh": 25}
_PUNCTUATION = {
    "ko": ".,?!()~-·:%/",
    "zh": "，。、：；？！“”（）《》·…—￥%.-",
    "bn": "।,?!-:()৳%.",
}


def characters() -> dict[str, str]:
    """Characters of each script that have a token."""
    bangla = "".join(chr(c) for c in range(0x980, 0xA00) if chr(c).isprintable())
    return {
        "en": "".join(map(chr, range(32, 127))),
        "bn": bangla + "।॥\u200c\u200d",
        "ko": "".join(frequent("ko")) + _PUNCTUATION["ko"],
        "zh": "".join(frequent("zh")) + _PUNCTUATION["zh"] + "‘’〈〉「」『』【】～",
    }


@lru_cache(maxsize=4)
def frequent(script: str) -> tuple[str, ...]:
    """Hangul syllables (KS X 1001) or Han characters (GB 2312 level 1), most frequent first."""
    path = Path(__file__).parent / "frequent" / f"{script}.txt"
    lines = path.read_text(encoding="utf-8").splitlines()
    return tuple("".join(line for line in lines if not line.startswith("#")))


def fonts(script: str, families: dict[str, str]) -> list[str]:
    """Installed fonts of the families; fonts that matplotlib ships count as installed.

    Raises:
        DataError: no font is installed; the message names the packages.
    """
    shipped = _SHIPPED if families is FONTS["en"] else families if script == "en" else ()
    files = [str(path) for path in shipped_fonts(*shipped)]
    for family in families:
        files += [font for _, font in installed_fonts().get(family, [])]
    if not files:
        packages = " ".join(dict.fromkeys(families.values()))
        raise DataError(
            f"No font for {SCRIPTS[script]} is installed; `apt-get install fontconfig {packages}`."
        )
    return files


@lru_cache(maxsize=4)
def _words(script: str):
    return load_vocabulary(script, random_share=0.0)


def text_of_script(script: str, rng: random.Random, length: int, classes: int) -> str:
    """About `length` graphemes: words and numbers, or random characters.

    Args:
        classes: number of the most frequent Hangul syllables or Han characters to choose from.
    """
    if script == "en":
        if rng.random() < 0.25:
            return line_text(_words("en"), 0, rng, length, length)
        return line_of(rng, length, length)
    # Mix words with random characters: words alone never show rare characters.
    if length > 3 and rng.random() < 0.45:
        text = line_text(_words(script), 0, rng, length, length)
    else:
        known = standard_characters("bn") if script == "bn" else frequent(script)[:classes]
        text = ""
        for at in range(length):
            spaced = script != "zh" and at and rng.random() < 0.25
            mark = at and rng.random() < 0.05
            text += " " if spaced else ""
            text += rng.choice(_PUNCTUATION[script]) if mark else rng.choice(known)
    if rng.random() < 0.1:
        other = line_of(rng, 2, 8)
        text = f"{text} {other}" if rng.random() < 0.5 else f"{other} {text}"
    return text


def fitting_text(
    script: str, font: str, body: float, width: int, rng: random.Random, classes: int
) -> str:
    """A text of about `width` pixels in a font that has all its characters."""
    drawn = sized_font(font, script, body)
    for _ in range(20):
        per_character = {"en": 0.75, "bn": 1.15, "ko": 1.05, "zh": 1.12}[script] * body
        text = text_of_script(script, rng, max(1, round(width / per_character)), classes)
        units = graphemes(text)
        while len(units) > 1 and drawn.getlength("".join(units)) > width:
            units = units[: min(len(units) - 1, int(len(units) * 0.95))]
        text = " ".join("".join(units).split())
        if text and not missing_glyphs(font, text):
            return text
    return "1"


def draw_sample(
    text: str, script: str, font: str, body: float, rng: random.Random, variety: float
) -> Image.Image:
    """Picture of a line, 32 pixels high.

    Args:
        variety: 0 (black on white, on the baseline) to 1 (cropped, stretched, scanned, inverted).
    """
    drawn = sized_font(font, script, body)
    if rng.random() >= variety:
        return draw_line(text, drawn, HEIGHT)
    image = draw_line(
        text,
        drawn,
        HEIGHT + 8,
        left=rng.randint(0, 6),
        right=rng.randint(0, 6),
        ink=rng.randint(0, 60),
    )
    if rng.random() < 0.5:
        left, top, right, bottom = (rng.randint(0, 4) for _ in range(4))
        image = fit_height(crop_to_ink(image, (left, top, right, bottom)), HEIGHT)
    else:
        top = rng.randint(2, 6)
        image = image.crop((0, top, image.width, top + HEIGHT))
    width = max(8, round(image.width * rng.uniform(0.8, 1.15)))
    image = image.resize((width, HEIGHT), Image.Resampling.BICUBIC)
    if rng.random() < 0.7:
        image = soften(image, rng)
    return ImageOps.invert(image) if rng.random() < 0.08 else image


def crop_to_ink(image: Image.Image, margins: tuple[int, int, int, int]) -> Image.Image:
    """Crop a picture to its ink plus (left, top, right, bottom) pixels, like an annotated box."""
    box = Image.eval(image, lambda value: 255 - value).getbbox()
    if box is None:
        return image
    left, top, right, bottom = margins
    area = (box[0] - left, box[1] - top, box[2] + right, box[3] + bottom)
    # crop() fills pixels beyond the edge with black, which would be ink: paste onto white instead.
    paper = Image.new("L", (area[2] - area[0], area[3] - area[1]), 255)
    paper.paste(image, (-area[0], -area[1]))
    return paper


def soften(image: Image.Image, rng: random.Random) -> Image.Image:
    """Simulate a scan of a line: blur, lower resolution, lower contrast, noise."""
    if rng.random() < 0.4:
        small = fit_height(image, rng.randint(14, 26))
        image = small.resize(image.size, Image.Resampling.BILINEAR)
    elif rng.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.8)))
    if rng.random() < 0.4:
        image = image.rotate(
            rng.uniform(-0.7, 0.7), resample=Image.Resampling.BILINEAR, fillcolor=255
        )
    pixels = np.asarray(image, dtype=np.float32)
    black, white = rng.uniform(0, 70), rng.uniform(215, 255)
    pixels = black + pixels * ((white - black) / 255)
    noise = np.random.default_rng(rng.getrandbits(32))
    pixels = pixels + noise.normal(0, rng.uniform(0, 6), size=pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def body_of(script: str, rng: random.Random, variety: float) -> float:
    """Body height in pixels: constant without `variety`, random with it."""
    wide = rng.uniform(0.8, 1.12) if rng.random() < variety else 1.0
    return _BODY[script] * wide


def widened(image: Image.Image, width: int) -> Image.Image:
    """Pad a picture on the right to `width` pixels, in the grey of its right edge."""
    edge = sorted(image.crop((image.width - 1, 0, image.width, image.height)).tobytes())
    paper = Image.new("L", (width, image.height), edge[len(edge) // 2])
    paper.paste(image, (0, 0))
    return paper


def held_out_lines(
    script: str,
    families: dict[str, str],
    count: int,
    seed: int,
    classes: int = 10_000,
    variety: float = 0.0,
    widest: int = 480,
) -> tuple[list[Image.Image], list[str]]:
    """Pictures and texts of lines that are not used for training (another random seed).

    A text is 40 to `widest` pixels wide.
    """
    rng = random.Random(f"held out/{script}/{seed}")
    chosen, images, texts = fonts(script, families), [], []
    for _ in range(count):
        font, body = rng.choice(chosen), body_of(script, rng, variety)
        text = fitting_text(script, font, body, rng.randint(40, widest), rng, classes)
        texts.append(text)
        images.append(draw_sample(text, script, font, body, rng, variety))
    return images, texts
