"""Font lookup: installed fonts of a language and face, missing glyphs, and Debian package names.

A font is a path; `#2` after the path selects the third face of a font collection (as in
`render.load_font`). fontconfig lists the installed fonts; Latin print falls back to the fonts that
matplotlib ships.
"""

import subprocess
from collections.abc import Sequence
from functools import lru_cache
from typing import cast

from PIL import ImageFont

from data_prep.dataset.schema import DataError
from data_prep.synthetic.render import load_font, shipped_fonts

LANGUAGES = {"bn": "Bangla", "ko": "Korean", "zh": "Chinese", "en": "Latin"}
KINDS = ("print", "handwriting", "sign")

# Language | face | Debian and Ubuntu package | families. Left out on purpose: families that break
# the script (Mitra separates Bangla vowel signs, FreeSans and FreeSerif form no conjuncts) and worn
# or outlined families that nobody could read. No package has a Bangla handwriting font: these are
# printed fonts with irregular shapes, which `scenes.shaken` distorts.
_FAMILIES = """
bn | print | fonts-noto-core | Noto Sans Bengali; Noto Serif Bengali
bn | print | fonts-lohit-beng-bengali | Lohit Bengali
bn | print | fonts-beng-extra | Mukti; Likhan
bn | handwriting | fonts-beng-extra | Ani; Likhan; Mukti
bn | handwriting | fonts-lohit-beng-bengali | Lohit Bengali
bn | sign | fonts-noto-core | Noto Sans Bengali; Noto Serif Bengali
bn | sign | fonts-beng-extra | Mukti; Jamrul
ko | print | fonts-nanum | NanumGothic; NanumMyeongjo; NanumBarunGothic; NanumSquare
ko | print | fonts-noto-cjk | Noto Sans CJK KR; Noto Serif CJK KR
ko | print | fonts-unfonts-core | UnBatang; UnDotum
ko | print | fonts-unfonts-extra | UnTaza
ko | print | fonts-baekmuk | Baekmuk Batang; Baekmuk Dotum; Baekmuk Gulim
ko | handwriting | fonts-nanum-extra | Nanum Pen Script; Nanum Brush Script; NanumBarunpen
ko | handwriting | fonts-unfonts-core | UnPilgi
ko | handwriting | fonts-unfonts-extra | UnPilgia; UnPen; UnVada
ko | handwriting | fonts-alee | Eunjin; Eunjin Nakseo
ko | sign | fonts-nanum | NanumSquareRound; NanumGothic
ko | sign | fonts-unfonts-core | UnDinaru
ko | sign | fonts-baekmuk | Baekmuk Headline
ko | sign | fonts-woowa-bm | BM DoHyeon; BM EULJIRO TTF; BM HANNA Pro
ko | sign | fonts-woowa-bm | BM JUA_TTF; BM KIRANGHAERANG; BM YEONSUNG
ko | sign | fonts-alee | Guseul
zh | print | fonts-noto-cjk | Noto Sans CJK SC; Noto Serif CJK SC
zh | print | fonts-arphic-uming | AR PL UMing CN
zh | print | fonts-wqy-zenhei | WenQuanYi Zen Hei
zh | print | fonts-wqy-microhei | WenQuanYi Micro Hei
zh | handwriting | fonts-arphic-ukai | AR PL UKai CN
zh | handwriting | fonts-arphic-gkai00mp | AR PL KaitiM GB
zh | handwriting | fonts-lxgw-wenkai | LXGW WenKai
zh | sign | fonts-noto-cjk | Noto Sans CJK SC; Noto Serif CJK SC
zh | sign | fonts-wqy-zenhei | WenQuanYi Zen Hei
zh | sign | fonts-wqy-microhei | WenQuanYi Micro Hei
zh | sign | fonts-smiley-sans | Smiley Sans
zh | sign | fonts-lxgw-wenkai | LXGW WenKai
en | print | fonts-dejavu-core | DejaVu Sans; DejaVu Serif; DejaVu Sans Mono
en | print | fonts-liberation | Liberation Sans; Liberation Serif; Liberation Mono
en | print | fonts-noto-core | Noto Sans; Noto Serif
en | handwriting | fonts-dancingscript | Dancing Script
en | handwriting | fonts-dkg-handwriting | DkgHandwriting
en | handwriting | fonts-breip | Breip
en | handwriting | fonts-rufscript | Rufscript
en | handwriting | fonts-sjfonts | Steve
en | handwriting | fonts-comic-neue | Comic Neue
en | sign | fonts-allerta | Allerta
en | sign | fonts-bebas-neue | Bebas Neue
en | sign | fonts-kaushanscript | Kaushan Script
en | sign | fonts-league-spartan | League Spartan
en | sign | fonts-leckerli-one | Leckerli One
en | sign | fonts-lobster | Lobster Two
en | sign | fonts-national-park | National Park
"""
# {language: {face: {family: package}}}
FACES: dict[str, dict[str, dict[str, str]]] = {}
for _line in _FAMILIES.strip().splitlines():
    _language, _face, _package, _names = _line.split(" | ")
    _families = FACES.setdefault(_language, {}).setdefault(_face, {})
    _families |= dict.fromkeys(_names.split("; "), _package)
_FALLBACKS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono", "STIXGeneral")
_UNREADABLE = ("Outline", "Stencil", "Thin", "UltraLight", "ExtraLight")
# Zero-width joiners shape their neighbours and have no ink. The last code point of a plane is never
# assigned, so every font draws its missing-glyph box for it.
JOINERS = "\u200c\u200d"
NO_CHARACTER = "\U0010fffe"
_BOLD = 180  # fontconfig's weight of demibold


@lru_cache(maxsize=1)
def installed_fonts() -> dict[str, list[tuple[int, str]]]:
    """Installed fonts as family -> [(fontconfig weight, font)]; empty without fontconfig."""
    columns = "%{family}\t%{style[0]}\t%{weight}\t%{variable}\t%{file}\t%{index}\n"
    try:
        listed = subprocess.run(
            ["fc-list", "--format", columns], capture_output=True, check=True, timeout=120
        ).stdout.decode("utf-8", "replace")
    except (OSError, subprocess.SubprocessError):
        return {}
    fonts: dict[str, list[tuple[int, str]]] = {}
    seen: set[tuple[str, str]] = set()
    for line in sorted(listed.splitlines(), key=lambda line: line.split("\t")[4:]):
        families, style, weight, variable, file, index = line.split("\t")
        # fontconfig also lists every named instance of a variable font; those are used instead.
        if variable == "True" or any(word in style for word in _UNREADABLE):
            continue
        for family in dict.fromkeys(families.split(",")):
            # Two packages or two formats may hold the same face.
            if (family, style) not in seen:
                seen.add((family, style))
                font = file if index == "0" else f"{file}#{index}"
                fonts.setdefault(family, []).append((int(float(weight or 80)), font))
    return fonts


def find_fonts(language: str, face: str) -> dict[str, list[str]]:
    """Installed fonts of a language ("bn", "ko", "zh", "en") and a face of `KINDS`, by family.

    Signs use only the bold styles of a family that has bold styles.

    Raises:
        DataError: no font is installed; the message names the packages.
    """
    chosen: dict[str, list[str]] = {}
    for family in FACES[language][face]:
        fonts = installed_fonts().get(family, [])
        bold = [(weight, font) for weight, font in fonts if weight >= _BOLD]
        if fonts:
            chosen[family] = [font for _, font in (bold if face == "sign" and bold else fonts)]
    if not chosen and (language, face) == ("en", "print"):
        chosen = {path.stem: [str(path)] for path in shipped_fonts(*_FALLBACKS)}
    if not chosen:
        packages = " ".join(dict.fromkeys(FACES[language][face].values()))
        tools = "" if installed_fonts() else "fontconfig "
        raise DataError(
            f"No {face} font for {LANGUAGES[language]} is installed; install some with "
            f"`apt-get install {tools}{packages}`, or name a font file with --font."
        )
    return chosen


def font_name(font: str) -> str:
    """Family and style of a font, read from the font file; "Regular" is left out."""
    family, style = load_font(font, 24).getname()
    return " ".join(name for name in (family, style if style != "Regular" else "") if name)


def check_font(font: str) -> str:
    """Return the font if it can be opened, otherwise raise DataError."""
    try:
        load_font(font, 24)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{font} cannot be read as a font ({error}); name a .ttf or .otf."
        ) from None
    return font


def missing_glyphs(font: str, text: str) -> str:
    """Characters of a text whose glyph is missing or empty in a font; "" if there are none."""
    return "".join(c for c in dict.fromkeys(text) if not (c.isspace() or _draws(font, c)))


@lru_cache(maxsize=500_000)
def _draws(font: str, character: str) -> bool:
    if character in JOINERS:
        return True
    glyph = _glyph(font, character)
    return any(glyph[1]) and glyph != _glyph(font, NO_CHARACTER)


@lru_cache(maxsize=1000)
def has_capitals_only(font: str) -> bool:
    """Whether lower-case letters look like capitals, so that a text must be written in capitals."""
    return all(_glyph(font, small) == _glyph(font, small.upper()) for small in "agr")


def _glyph(font: str, character: str) -> tuple[tuple[int, int], bytes]:
    # Basic layout: raqm would place a lone vowel sign on a dotted circle, which has ink.
    mask = _plain_font(font).getmask(character)
    return mask.size, bytes(cast(Sequence[int], mask))


@lru_cache(maxsize=256)
def _plain_font(font: str) -> ImageFont.FreeTypeFont:
    path, _, index = font.partition("#")
    return ImageFont.truetype(path, 24, int(index or 0), layout_engine=ImageFont.Layout.BASIC)


def require_shaping() -> None:
    """Raise DataError if Pillow lacks raqm: it would draw Bangla with its signs in wrong places."""
    from PIL import features

    if not features.check("raqm"):
        raise DataError(
            "Pillow finds no raqm library, so it would draw Bangla wrongly; install it with "
            "`apt-get install libfribidi0` and `pip install --force-reinstall Pillow`."
        )


def font_table() -> str:
    """Table of every language, face, family and package, with the number of installed fonts."""
    lines, missing = [], set()
    for language, faces in FACES.items():
        for face, families in faces.items():
            for family, package in families.items():
                fonts = installed_fonts().get(family)
                missing |= set() if fonts else {package}
                state = f"{len(fonts):>3} fonts" if fonts else "  missing"
                lines.append(f"{language}  {face:<12}{family:<22}{state:<11}{package}")
    if missing:
        lines.append(f"\nMissing fonts: apt-get install {' '.join(sorted(missing))}")
    return "\n".join(lines)
