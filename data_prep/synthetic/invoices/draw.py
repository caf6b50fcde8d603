"""Invoice drawing: choose the content, layout and font of a document, draw its page and damage it.

A document depends only on the seed and its number; on another machine the bytes are the same only
with the same installed fonts.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

from data_prep.dataset.command import check_choice
from data_prep.dataset.crops import to_png
from data_prep.dataset.schema import DataError, UsageError
from data_prep.synthetic.damage import photograph_page, scan_page
from data_prep.synthetic.fonts import FACES, installed_fonts, missing_glyphs, require_shaping
from data_prep.synthetic.fonts import LANGUAGES as FONT_LANGUAGES
from data_prep.synthetic.invoices.content import Document, make_document
from data_prep.synthetic.invoices.layouts import LAYOUTS, lay_out
from data_prep.synthetic.invoices.locale import LOCALES
from data_prep.synthetic.invoices.words import LABELS, LANGUAGES, WORDS
from data_prep.synthetic.page import Page
from data_prep.synthetic.render import SHIPPED_FACES, degrade_thermal, load_font, shipped_fonts

DAMAGES = ("mixed", "clean", "scan", "photo")
# Latin families used only if installed; SHIPPED_FACES suffice without them.
MORE_LATIN = ("Carlito", "Lato", "Open Sans", "Roboto")
Face = tuple[str, str]


@dataclass(frozen=True)
class Setup:
    """Choices of a run: names of locales and layouts, kind of damage, page width in pixels."""

    locales: tuple[str, ...]
    layouts: tuple[str, ...]
    damage: str
    width: int


@lru_cache(maxsize=16)
def faces(language: str) -> dict[str, Face]:
    """Family -> (regular, bold) of available fonts that draw every character of a language's words.

    Empty if no font is available; `missing_fonts` then names packages.
    """
    available: dict[str, Face] = {}
    families = [*FACES.get(language, FACES["en"])["print"]]
    if language not in FACES or language == "en":
        families += MORE_LATIN
        for family, stems in SHIPPED_FACES.items():
            regular, bold = map(str, shipped_fonts(*stems))
            available[family] = (regular, bold)
    for family in families:
        fonts = [font for _, font in installed_fonts().get(family, ())]
        styles = {load_font(font, 24).getname()[1]: font for font in fonts[::-1]}
        if family not in available and "Regular" in styles and "Bold" in styles:
            available[family] = (styles["Regular"], styles["Bold"])
    words = [*LABELS[language].values(), *chain(*WORDS[language].values())]
    needed = "".join(sorted(set("".join(words)) | set("0123456789.,-()%/:×'")))
    return {
        family: face
        for family, face in available.items()
        if not any(missing_glyphs(font, needed) for font in face)
    }


def missing_fonts(language: str) -> str:
    """Reason why a language cannot be drawn on this machine, as one sentence; "" if it can."""
    if language == "bn":
        try:
            require_shaping()
        except DataError as error:
            return str(error)
    if faces(language):
        return ""
    families = FACES[language]["print"]
    packages = " ".join(dict.fromkeys(families.values()))
    tools = "" if installed_fonts() else "fontconfig "
    return (
        f"No font for documents in {FONT_LANGUAGES[language]} is installed; install one of "
        f"{', '.join(families)} with `apt-get install {tools}{packages}`."
    )


def make_setup(
    languages: Sequence[str] | None, layouts: Sequence[str] | None, damage: str, width: int
) -> Setup:
    """Check the arguments; without `languages`, take every language that has fonts.

    Raises:
        UsageError, DataError: as `invoices`.
    """
    for language in languages or ():
        check_choice("languages", language, LANGUAGES)
        if problem := missing_fonts(language):
            raise DataError(problem)
    for layout in layouts or ():
        check_choice("layouts", layout, LAYOUTS)
    check_choice("damage", damage, DAMAGES)
    if not 600 <= width <= 3000:
        raise UsageError(f"--width is {width}, but takes 600 to 3000 pixels.")
    chosen = languages or [language for language in LANGUAGES if not missing_fonts(language)]
    locales = tuple(name for name, locale in LOCALES.items() if locale.language in chosen)
    return Setup(locales, tuple(dict.fromkeys(layouts or LAYOUTS)), damage, width)


def plan_document(seed: int, index: int, setup: Setup) -> tuple[Document, str, Face]:
    """Document number `index` of a seed: content, name of its layout, and (regular, bold) font."""
    rng = random.Random(f"{seed}/{index}")
    layout = setup.layouts[index % len(setup.layouts)]
    # Choose the language before the locale: English has five locales and would dominate.
    languages = list(dict.fromkeys(LOCALES[name].language for name in setup.locales))
    language = languages[rng.randrange(len(languages))]
    names = [name for name in setup.locales if LOCALES[name].language == language]
    locale = LOCALES[rng.choice(names)]
    families = faces(language)
    mono = [family for family in families if "Mono" in family]
    is_mono = layout == "receipt" and mono and rng.random() < 0.6
    face = families[rng.choice(mono if is_mono else [*families])]
    drawn = not any(missing_glyphs(font, locale.sign) for font in face)
    sign = locale.sign if drawn and rng.random() < 0.85 else locale.currency
    if language == "bn":
        sign = locale.sign if drawn else "টাকা"
    _, kind = LAYOUTS[layout]
    return make_document(kind, locale, rng, sign), layout, face


def page_of(seed: int, index: int, setup: Setup) -> tuple[Document, Page]:
    """Document number `index` of a seed, and its page."""
    document, layout, face = plan_document(seed, index, setup)
    return document, lay_out(document, layout, face, setup.width / 1000)


def damage_of(seed: int, index: int, setup: Setup) -> str:
    """Damage of document number `index`: "clean", "scan" or "photo"."""
    if setup.damage != "mixed":
        return setup.damage
    return random.Random(f"{seed}/{index}/damage").choice(("clean", "scan", "photo"))


def draw_document(seed: int, index: int, setup: Setup) -> bytes:
    """Picture of a document: PNG bytes if it is clean, otherwise JPEG bytes."""
    document, page = page_of(seed, index, setup)
    image, damage = page.draw(), damage_of(seed, index, setup)
    rng = random.Random(f"{seed}/{index}/{damage}")
    if damage == "clean":
        return to_png(image)
    if document.kind == "receipt" and rng.random() < 0.4:
        image = degrade_thermal(image.convert("L"), rng)
    return scan_page(image, rng) if damage == "scan" else photograph_page(image, rng)
