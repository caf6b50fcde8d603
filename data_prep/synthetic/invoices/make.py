"""Invoice datasets: business documents with ground truth, and the command that writes them.

`invoices(...)`, or `python -m data_prep.synthesize invoices`, writes pictures of clean, scanned and
photographed pages. The completion is the document as JSON (`task="extraction"`, by
data_prep/schemas/invoice.schema.json) or its table as HTML (`task="tables"`, for TEDS);
`data_prep.synthetic.invoices.locale` defines how values are written.

The same seed gives the same bytes, whatever `count` and the number of processes; on another machine
only with the same installed fonts (`fonts` in dataset.json names the families).
"""

import argparse
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from data_prep.dataset.command import COUNT, SEED, WORKERS, check_choice, check_count, int_option
from data_prep.dataset.files import write_whole
from data_prep.dataset.manifest import check_own, write_folder
from data_prep.dataset.schema import PROMPTS, Item, Picture, UsageError, dump_json
from data_prep.dataset.split import drawn_shares
from data_prep.dataset.workers import ordered_map
from data_prep.dataset.write import add_output_options, output_settings, write_dataset
from data_prep.synthetic.invoices.draw import (
    DAMAGES,
    Setup,
    damage_of,
    draw_document,
    faces,
    make_setup,
    missing_fonts,
    plan_document,
)
from data_prep.synthetic.invoices.layouts import LAYOUTS
from data_prep.synthetic.invoices.locale import LOCALES, truth
from data_prep.synthetic.invoices.parts import table_html
from data_prep.synthetic.invoices.words import LANGUAGES

SOURCE = "synthetic-invoices"
SCHEMA = Path(__file__).parents[2] / "schemas" / "invoice.schema.json"
TASKS = ("extraction", "tables")


def invoice_items(count: int, seed: int, setup: Setup, task: str) -> Iterator[Item]:
    """Dataset items, one a document; a picture is drawn when it is opened."""
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


# --- the dataset


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
        seed: decides texts, layouts and damage; the bytes do not depend on `workers` (processes).
        task: `extraction` (JSON) or `tables` (HTML).
        languages: of `LANGUAGES`; None takes all that have fonts.
        layouts: of `LAYOUTS`; None takes all, in turn.
        damage: `clean`, `scan`, `photo`, or `mixed` for a random one a document.
        width: page width in pixels, 600 to 3000; receipts are about half as wide.
        split: shares of train, validation and test.
        pdf: also write OUT/pdf/<id>.pdf, a picture PDF, and its ground truth as <id>.json.
        layout, format: as of `data_prep.convert.convert`.

    Raises:
        UsageError: an argument has no such value.
        DataError: a language of `languages` has no font, or `out` holds another dataset.
    """
    setup = make_setup(languages, layouts, damage, width)
    check_count("count", count)
    check_count("workers", workers)
    check_choice("task", task, TASKS)
    shares = drawn_shares(split)
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


def write_pdfs(
    folder: Path, count: int, seed: int, setup: Setup, workers: int, progress: bool
) -> None:
    """Write every document's picture as a PDF and its ground truth as JSON; existing files stay."""
    from tqdm.auto import tqdm

    folder.mkdir(exist_ok=True)
    work = partial(write_pdf, folder=folder, seed=seed, setup=setup)
    done = ordered_map(work, range(count), workers)
    for _ in tqdm(done, desc="pdf", unit=" files", total=count, disable=not progress):
        pass


def write_pdf(index: int, folder: Path, seed: int, setup: Setup) -> None:
    """Write a document's PDF and its ground truth, each by an atomic write."""
    pdf = folder / f"{SOURCE}-{index:06d}.pdf"
    if not pdf.with_suffix(".json").exists():
        document, _, _ = plan_document(seed, index, setup)
        text = json.dumps(truth(document.content), ensure_ascii=False, indent=1)
        write_whole(pdf.with_suffix(".json"), text + "\n")
    if not pdf.exists():
        write_whole(pdf, _pdf_bytes(seed, index, setup))


def _pdf_bytes(seed: int, index: int, setup: Setup) -> bytes:
    image = Image.open(io.BytesIO(draw_document(seed, index, setup)))
    buffer = io.BytesIO()
    # The page is as wide as A4. Today's date is left out: it would make two runs differ.
    resolution = setup.width / (210 / 25.4)
    dates = {"creationDate": None, "modDate": None}
    image.save(buffer, "PDF", resolution=resolution, quality=90, **dates)
    return buffer.getvalue()


# --- the contact sheet


def contact_sheet(setup: Setup, seed: int = 0) -> Image.Image:
    """Contact sheet: the top of one page of every layout, languages in turn."""
    by_language: dict[str, list[str]] = {}
    for name in setup.locales:
        by_language.setdefault(LOCALES[name].language, []).append(name)
    columns, gap, wide = min(5, len(setup.layouts)), 12, 600
    rows = -(-len(setup.layouts) // columns)
    size = columns * (wide + gap) + gap, rows * (wide + gap) + gap
    sheet = Image.new("RGB", size, (150, 150, 150))
    for place, layout in enumerate(setup.layouts):
        names = list(by_language.values())[place % len(by_language)]
        single = Setup(tuple(names), (layout,), setup.damage, 1000)
        tile = Image.open(io.BytesIO(draw_document(seed, place, single))).convert("RGB")
        scale = wide / max(tile.width, 1000)
        tile = tile.resize(
            (round(tile.width * scale), round(tile.height * scale)), Image.Resampling.LANCZOS
        )
        x = gap + place % columns * (wide + gap) + (wide - tile.width) // 2
        y = gap + place // columns * (wide + gap)
        sheet.paste(tile.crop((0, 0, tile.width, min(wide, tile.height))), (x, y))
    # 48 colours look the same and need a third of the bytes.
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
    """Add the options of `invoices`."""
    add = parser.add_argument
    add("--out", metavar="DIR", help="the dataset folder to make")
    add("--count", type=COUNT, default=100, metavar="N", help="documents (default 100)")
    add("--seed", type=SEED, default=0, help="decides all that is drawn (default 0)")
    add("--workers", type=WORKERS, metavar="N", help="processes (default: one per core)")
    add("--task", choices=TASKS, default=TASKS[0], help="JSON of the fields, or HTML of the table")
    add("--languages", metavar="A,B", help=f"of {','.join(LANGUAGES)} (default: all with fonts)")
    add_output_options(parser)
    add("--layouts", metavar="A,B", help=f"of {','.join(LAYOUTS)} (default: all)")
    add("--damage", choices=DAMAGES, default=DAMAGES[0], help="of the pages (default mixed)")
    add("--width", type=int_option(), default=1000, metavar="PIXELS", help="page width (1000)")
    add("--split", default="0.8,0.1,0.1", metavar="A,B,C", help="shares (default 0.8,0.1,0.1)")
    add("--pdf", action="store_true", help="also OUT/pdf/<id>.pdf with <id>.json beside it")
    add("--sheet", type=Path, metavar="PNG", help="draw a contact sheet: one page of every layout")
    add("--overwrite", action="store_true", help="let --sheet replace a file of your own")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code.

    Raises:
        UsageError, DataError: as `invoices`.
    """
    languages = args.languages.split(",") if args.languages else None
    layouts = args.layouts.split(",") if args.layouts else None
    if not args.out and not args.sheet:
        raise UsageError("No output: name --out DIR for a dataset or --sheet PNG for a picture.")
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
