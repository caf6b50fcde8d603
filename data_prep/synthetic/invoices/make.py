"""Makes invoices, receipts, statements and their like where there are none, with their truth.

`invoices(...)`, or `python -m data_prep.synthesize invoices`, writes an imagefolder of drawn
documents: pictures of clean, scanned and photographed pages; the completion is the document as JSON
(`task="extraction"`, by data_prep/schemas/invoice.schema.json) or its table as HTML
(`task="tables"`, for TEDS). `data_prep.synthetic.invoices.locale` says how values are written.

Everything about a document follows from the seed and its number, so the same seed gives the same
bytes, whatever the count before or behind it and the number of processes; on another machine only
where the same fonts are installed (`fonts` in dataset.json names the families).
"""

import argparse
import io
import json
import os
import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path

from PIL import Image

from data_prep.dataset.command import COUNT, SEED, WORKERS, int_option
from data_prep.dataset.files import check_own, write_folder, write_whole
from data_prep.dataset.pictures import to_png
from data_prep.dataset.schema import PROMPTS, DataError, Item, Picture, UsageError, dump_json
from data_prep.dataset.split import parse_shares
from data_prep.dataset.write import (
    add_output_options,
    ordered_map,
    output_settings,
    write_dataset,
)
from data_prep.synthetic.damage import photograph_page, scan_page
from data_prep.synthetic.fonts import FACES, installed_fonts, require_shaping, undrawn
from data_prep.synthetic.fonts import LANGUAGES as FONT_LANGUAGES
from data_prep.synthetic.invoices.content import Document, make_document
from data_prep.synthetic.invoices.layouts import LAYOUTS, lay_out
from data_prep.synthetic.invoices.locale import LOCALES, truth
from data_prep.synthetic.invoices.parts import table_html
from data_prep.synthetic.invoices.words import LABELS, LANGUAGES, WORDS
from data_prep.synthetic.page import Page
from data_prep.synthetic.render import degrade_thermal, load_font, shipped_fonts

SOURCE = "synthetic-invoices"
SCHEMA = Path(__file__).parents[2] / "schemas" / "invoice.schema.json"
TASKS = ("extraction", "tables")
DAMAGES = ("mixed", "clean", "scan", "photo")

# Latin families that are drawn with where they are; the kit's own are enough without them.
MORE_LATIN = ("Carlito", "Lato", "Open Sans", "Roboto")
SHIPPED = {
    "DejaVu Sans": ("DejaVuSans", "DejaVuSans-Bold"),
    "DejaVu Serif": ("DejaVuSerif", "DejaVuSerif-Bold"),
    "DejaVu Sans Mono": ("DejaVuSansMono", "DejaVuSansMono-Bold"),
    "STIX": ("STIXGeneral", "STIXGeneralBol"),
}
Face = tuple[str, str]


@dataclass(frozen=True)
class Setup:
    """What a run may draw: locales and layouts by name, the damage, pixels of a page's width."""

    locales: tuple[str, ...]
    layouts: tuple[str, ...]
    damage: str
    width: int


# --- fonts


@lru_cache(maxsize=16)
def faces(language: str) -> dict[str, Face]:
    """Family -> (regular, bold) of what is here and draws all that a language's documents say.

    Empty where there is none; `missing_fonts` then tells which packages have some.
    """
    found: dict[str, Face] = {}
    families = [*FACES.get(language, FACES["en"])["print"]]
    if language not in FACES or language == "en":
        families += MORE_LATIN
        for family, stems in SHIPPED.items():
            regular, bold = map(str, shipped_fonts(*stems))
            found[family] = (regular, bold)
    for family in families:
        fonts = [font for _, font in installed_fonts().get(family, ())]
        styles = {load_font(font, 24).getname()[1]: font for font in fonts[::-1]}
        if family not in found and "Regular" in styles and "Bold" in styles:
            found[family] = (styles["Regular"], styles["Bold"])
    words = [*LABELS[language].values(), *chain(*WORDS[language].values())]
    needed = "".join(sorted(set("".join(words)) | set("0123456789.,-()%/:×'")))
    return {
        family: face
        for family, face in found.items()
        if not any(undrawn(font, needed) for font in face)
    }


def missing_fonts(language: str) -> str:
    """Why a language cannot be drawn here, as one sentence; "" if it can."""
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


# --- one document


def plan_document(seed: int, index: int, setup: Setup) -> tuple[Document, str, Face]:
    """The document of a number, the name of its layout, and the face it is set in."""
    rng = random.Random(f"{seed}/{index}")
    layout = setup.layouts[index % len(setup.layouts)]
    # Languages by turns, not locales: English has five of them.
    languages = list(dict.fromkeys(LOCALES[name].language for name in setup.locales))
    language = languages[rng.randrange(len(languages))]
    names = [name for name in setup.locales if LOCALES[name].language == language]
    locale = LOCALES[rng.choice(names)]
    families = faces(language)
    mono = [family for family in families if "Mono" in family]
    family = rng.choice(
        mono if layout == "receipt" and mono and rng.random() < 0.6 else [*families]
    )
    face = families[family]
    drawn = not any(undrawn(font, locale.sign) for font in face)
    sign = locale.sign if drawn and rng.random() < 0.85 else locale.currency
    if language == "bn":
        sign = locale.sign if drawn else "টাকা"
    _, kind = LAYOUTS[layout]
    return make_document(kind, locale, rng, sign), layout, face


def page_of(seed: int, index: int, setup: Setup) -> tuple[Document, Page]:
    """A document laid out on its page."""
    document, layout, face = plan_document(seed, index, setup)
    return document, lay_out(document, layout, face, setup.width / 1000)


def damage_of(seed: int, index: int, setup: Setup) -> str:
    """What happens to the page: clean, scan or photo."""
    if setup.damage != "mixed":
        return setup.damage
    return random.Random(f"{seed}/{index}/damage").choice(("clean", "scan", "photo"))


def draw_document(seed: int, index: int, setup: Setup) -> bytes:
    """The picture of a document: PNG where it is clean, JPEG otherwise."""
    document, page = page_of(seed, index, setup)
    image, damage = page.draw(), damage_of(seed, index, setup)
    rng = random.Random(f"{seed}/{index}/{damage}")
    if damage == "clean":
        return to_png(image)
    if document.kind == "receipt" and rng.random() < 0.4:
        image = degrade_thermal(image.convert("L"), rng)
    return scan_page(image, rng) if damage == "scan" else photograph_page(image, rng)


def invoice_items(count: int, seed: int, setup: Setup, task: str) -> Iterator[Item]:
    """One item a document; the pictures are drawn by whoever opens them."""
    for index in range(count):
        document, layout, _ = plan_document(seed, index, setup)
        html = table_html(document, layout)
        meta = {"layout": layout, "locale": document.locale.name}
        meta["damage"] = damage_of(seed, index, setup)
        fields = dump_json(truth(document.content))
        yield Item(
            key=f"{SOURCE}-{index:06d}",
            where=f"document {index}",
            text=fields if task == "extraction" else html,
            pictures=[Picture(partial(draw_document, seed, index, setup))],
            group=f"{index:06d}",
            language=document.locale.language,
            task="extraction" if task == "extraction" else "transcription",
            prompt=PROMPTS[task],
            meta=meta | ({"table": html} if task == "extraction" else {}),
        )


# --- a dataset of them


def invoices(
    out: str | Path,
    count: int = 100,
    seed: int = 0,
    *,
    workers: int = 1,
    task: str = "extraction",
    languages: Sequence[str] | None = None,
    layouts: Sequence[str] | None = None,
    damage: str = "mixed",
    width: int = 1000,
    split: str = "0.8,0.1,0.1",
    pdf: bool = False,
    layout: str = "prompt_completion",
    format: str = "imagefolder",
    progress: bool = True,
) -> dict:
    """Write a dataset of `count` documents to the folder `out`; returns its dataset.json.

    Args:
        seed: decides all that is drawn; the result does not depend on `workers` (processes).
        task: `extraction` (JSON) or `tables` (HTML).
        languages: of `LANGUAGES`; None takes all that fonts are installed for.
        layouts: of `LAYOUTS`; None takes all, by turns.
        damage: `clean`, `scan`, `photo`, or `mixed` for all of them.
        width: of a page in pixels, 600 to 3000; receipts are about half as wide.
        split: shares of train, validation and test; a document lies in one of them.
        pdf: also write OUT/pdf/<id>.pdf, a picture PDF, with the truth as <id>.json beside it.
        layout, format: as of `data_prep.convert.convert`.

    Raises:
        UsageError: an argument has no such value.
        DataError: no font for a language that was asked for, or `out` holds something else.
    """
    setup = make_setup(languages, layouts, damage, width)
    for name, value in (("count", count), ("workers", workers)):
        if value < 1:
            raise UsageError(f"--{name} is {value}, but takes a count of 1 or more.")
    _choice("task", task, TASKS)
    shares = parse_shares(split)
    if shares is None:
        raise UsageError(f"--split is {split!r}, but takes shares such as 0.8,0.1,0.1 here.")
    used = dict.fromkeys(LOCALES[name].language for name in setup.locales)
    settings = {
        "count": count,
        "seed": seed,
        "task": task,
        "locales": list(setup.locales),
        "layouts": list(setup.layouts),
        "damage": damage,
        "width": width,
        "split": split,
        **output_settings(layout, format),
        "fonts": {language: list(faces(language)) for language in used},
    }
    items = partial(invoice_items, count, seed, setup, task)
    result = write_dataset(items, out, SOURCE, [], settings, shares, workers, progress, total=count)
    if pdf:
        write_pdfs(Path(out) / "pdf", count, seed, setup, workers, progress)
    return result


def make_setup(
    languages: Sequence[str] | None, layouts: Sequence[str] | None, damage: str, width: int
) -> Setup:
    """Check the arguments; without `languages`, those that no font is installed for are left out.

    Raises:
        UsageError, DataError: as `invoices`.
    """
    for one in languages or ():
        _choice("languages", one, LANGUAGES)
        if problem := missing_fonts(one):
            raise DataError(problem)
    for one in layouts or ():
        _choice("layouts", one, LAYOUTS)
    _choice("damage", damage, DAMAGES)
    if not 600 <= width <= 3000:
        raise UsageError(f"--width is {width}, but takes 600 to 3000 pixels.")
    wanted = languages or [one for one in LANGUAGES if not missing_fonts(one)]
    locales = tuple(name for name, one in LOCALES.items() if one.language in wanted)
    return Setup(locales, tuple(dict.fromkeys(layouts or LAYOUTS)), damage, width)


def _choice(option: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        raise UsageError(f"--{option} is {value!r}, but takes one of {', '.join(choices)}.")


def write_pdfs(
    folder: Path, count: int, seed: int, setup: Setup, workers: int, progress: bool
) -> None:
    """Write every document's picture as a PDF, its truth beside it; those that are there stay."""
    from tqdm.auto import tqdm

    folder.mkdir(exist_ok=True)
    work = partial(write_pdf, folder=folder, seed=seed, setup=setup)
    done = ordered_map(work, range(count), workers)
    for _ in tqdm(done, desc="pdf", unit=" files", total=count, disable=not progress):
        pass


def write_pdf(index: int, folder: Path, seed: int, setup: Setup) -> None:
    """Write one PDF and its truth, each whole or not at all."""
    stem = f"{SOURCE}-{index:06d}"
    document, _, _ = plan_document(seed, index, setup)
    contents = {
        ".json": partial(_json_bytes, truth(document.content)),
        ".pdf": partial(_pdf_bytes, seed, index, setup),
    }
    for ending, content in contents.items():
        path = folder / f"{stem}{ending}"
        if not path.exists():
            write_whole(path, content())


def _json_bytes(value: object) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode()


def _pdf_bytes(seed: int, index: int, setup: Setup) -> bytes:
    image = Image.open(io.BytesIO(draw_document(seed, index, setup)))
    buffer = io.BytesIO()
    # A page of the width of A4; without the dates of today, which would make two runs differ.
    resolution = setup.width / (210 / 25.4)
    dates = {"creationDate": None, "modDate": None}
    image.save(buffer, "PDF", resolution=resolution, quality=90, **dates)
    return buffer.getvalue()


# --- a sheet to look at


def contact_sheet(setup: Setup, seed: int = 0, wide: int = 600) -> Image.Image:
    """The upper part of a page of every layout, `wide` pixels each, the languages by turns."""
    by_language: dict[str, list[str]] = {}
    for name in setup.locales:
        by_language.setdefault(LOCALES[name].language, []).append(name)
    columns, gap = min(5, len(setup.layouts)), 12
    rows = -(-len(setup.layouts) // columns)
    size = columns * (wide + gap) + gap, rows * (wide + gap) + gap
    sheet = Image.new("RGB", size, (150, 150, 150))
    for place, layout in enumerate(setup.layouts):
        names = list(by_language.values())[place % len(by_language)]
        one = Setup(tuple(names), (layout,), setup.damage, 1000)
        tile = Image.open(io.BytesIO(draw_document(seed, place, one))).convert("RGB")
        scale = wide / max(tile.width, 1000)
        tile = tile.resize(
            (round(tile.width * scale), round(tile.height * scale)), Image.Resampling.LANCZOS
        )
        x = gap + place % columns * (wide + gap) + (wide - tile.width) // 2
        y = gap + place // columns * (wide + gap)
        sheet.paste(tile.crop((0, 0, tile.width, min(wide, tile.height))), (x, y))
    # Few colours are enough to look at, and make a third of the file.
    return sheet.quantize(48, dither=Image.Dither.NONE)


# --- the command


GUIDE = """\
examples:
  python -m data_prep.synthesize invoices --count 5000 --out data/invoices
  python -m data_prep.synthesize invoices --languages de,fr --task tables --out data/tables
  python -m data_prep.synthesize invoices --sheet pages.png --damage clean
  python -m data_prep.validate data/invoices --schema data_prep/schemas/invoice.schema.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m data_prep.synthesize invoices`."""
    parser.epilog = GUIDE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--out", metavar="DIR", help="the dataset folder to make")
    add("--count", type=COUNT, default=100, metavar="N", help="documents (default 100)")
    add("--seed", type=SEED, default=0, help="decides all that is drawn (default 0)")
    add(
        "--workers", type=WORKERS, default=None, metavar="N", help="processes (default: one a core)"
    )
    add("--task", choices=TASKS, default=TASKS[0], help="JSON of the fields, or HTML of the table")
    add("--languages", metavar="A,B", help=f"of {','.join(LANGUAGES)} (default: all with fonts)")
    add_output_options(parser)
    add("--layouts", metavar="A,B", help=f"of {','.join(LAYOUTS)} (default: all)")
    add("--damage", choices=DAMAGES, default=DAMAGES[0], help="what happened to the pages")
    add(
        "--width",
        type=int_option(),
        default=1000,
        metavar="PIXELS",
        help="of a page (default 1000)",
    )
    add("--split", default="0.8,0.1,0.1", metavar="A,B,C", help="shares (default 0.8,0.1,0.1)")
    add("--pdf", action="store_true", help="also OUT/pdf/<id>.pdf with <id>.json beside it")
    add("--sheet", type=Path, metavar="PNG", help="draw one page of every layout to look at")
    add("--overwrite", action="store_true", help="replace a picture that is no earlier sheet, too")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns its exit code.

    Raises:
        UsageError, DataError: as `invoices`.
    """
    languages = args.languages.split(",") if args.languages else None
    layouts = args.layouts.split(",") if args.layouts else None
    if not args.out and not args.sheet:
        raise UsageError("Neither --out nor --sheet is given: name a folder to make.")
    setup = make_setup(languages, layouts, args.damage, args.width)
    for language in LANGUAGES if languages is None else ():
        if problem := missing_fonts(language):
            print(f"{language} is left out: {problem}", file=sys.stderr)
    if args.sheet:
        check_own(args.sheet.parent, [args.sheet.name], args.overwrite)
        buffer = io.BytesIO()
        contact_sheet(setup, args.seed).save(buffer, "PNG", optimize=True)
        write_folder(args.sheet.parent, {args.sheet.name: buffer.getvalue()}, args.overwrite)
        print(f"{args.sheet}: {len(setup.layouts)} layouts")
    if args.out:
        result = invoices(
            args.out,
            args.count,
            args.seed,
            workers=args.workers if args.workers is not None else os.cpu_count() or 1,
            task=args.task,
            languages=languages,
            layouts=layouts,
            damage=args.damage,
            width=args.width,
            split=args.split,
            pdf=args.pdf,
            layout=args.layout,
            format=args.format,
        )
        splits = ", ".join(f"{split} {count:,}" for split, count in result["rows"].items())
        print(f"{args.out}: {result['found']:,} documents ({splits})")
    return 0
