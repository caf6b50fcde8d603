"""Line datasets: Bangla, Korean, Chinese and Latin text in print, handwriting and on signs.

`lines(...)`, or `python -m data_prep.synthesize lines`, writes a dataset; `sheet(...)` a picture of
samples. A page of ten lines is a group: all its lines are in one split.
"""

import argparse
import io
import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from hashlib import blake2b
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from data_prep.dataset.command import (
    COUNT,
    SEED,
    WORKERS,
    check_count,
    float_option,
    int_option,
    parse_int,
)
from data_prep.dataset.manifest import check_own, write_folder
from data_prep.dataset.pictures import fit_height
from data_prep.dataset.schema import PROMPTS, DataError, Item, Picture, Reject, UsageError
from data_prep.dataset.split import drawn_shares
from data_prep.dataset.write import add_output_options, output_settings, write_dataset
from data_prep.synthetic.fonts import (
    FACES,
    KINDS,
    LANGUAGES,
    check_font,
    find_fonts,
    font_name,
    font_table,
    require_shaping,
)
from data_prep.synthetic.line_drawing import LINES_PER_PAGE, Line, draw, plan_lines
from data_prep.synthetic.render import load_font, shipped_fonts
from data_prep.synthetic.texts import Vocabulary, load_vocabulary


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
    layout: str = "prompt_completion",
    format: str = "imagefolder",
    progress: bool = True,
) -> dict:
    """Write `count` lines as the dataset folder `out`; returns its dataset.json.

    The same arguments give the same bytes, whatever `workers`; a larger `count` changes no earlier
    line.

    Args:
        vocabularies: one per language, from `texts.load_vocabulary`.
        fonts: (language, face) -> family -> fonts, from `choose_fonts`.
        split: shares of train, validation and test, assigned by pages of ten lines.
        length: shortest and longest line in characters; None takes the language's defaults.
        height: of every picture in pixels; None keeps the drawn size.
        layout, format: as of `data_prep.convert.convert`.

    Raises:
        DataError: `out` holds another dataset, or Pillow lacks raqm for Bangla.
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

    settings = {
        "count": count,
        "seed": seed,
        "split": split,
        "length": list(length) if length else None,
        "height": height,
        **output_settings(layout, format),
        "texts": {
            vocabulary.language: blake2b(repr(vocabulary).encode(), digest_size=8).hexdigest()
            for vocabulary in vocabularies
        },
        "fonts": {
            "/".join(kind): sorted(Path(font).name for fonts in families.values() for font in fonts)
            for kind, families in fonts.items()
        },
    }
    shares, source = drawn_shares(split), "synthetic-lines"
    return write_dataset(items, out, source, [], settings, shares, workers, progress, total=count)


def choose_fonts(
    languages: Sequence[str], faces: Sequence[str] | None, files: Sequence[str] = ()
) -> tuple[dict[tuple[str, str], dict[str, list[str]]], list[str]]:
    """Fonts as (language, face) -> family -> fonts, and a sentence for each face without a font.

    Args:
        faces: each must have a font; None takes every face that has a font.
        files: font files to use for every face, instead of installed fonts.

    Raises:
        DataError: a face of `faces` has no font, or a language has no font at all.
    """
    fonts: dict[tuple[str, str], dict[str, list[str]]] = {}
    missing: list[str] = []
    for language in languages:
        before = len(fonts)
        for face in faces or KINDS:
            if files:
                fonts[language, face] = {file: [check_font(file)] for file in files}
                continue
            try:
                fonts[language, face] = find_fonts(language, face)
            except DataError as error:
                if faces:
                    raise
                missing.append(str(error))
        if len(fonts) == before:
            raise DataError(missing[-len(KINDS)])
    return fonts, missing


def sheet(
    out: str | Path,
    vocabularies: Sequence[Vocabulary],
    fonts: dict[tuple[str, str], dict[str, list[str]]],
    *,
    seed: int = 0,
    width: int = 960,
    rows: int = 2,
    overwrite: bool = False,
) -> None:
    """Write a PNG with samples of every language and face, each with the name of its font.

    Args:
        width: of the PNG in pixels.
        rows: of samples for each face.

    Raises:
        FileExistsError: `out` exists, is no earlier sheet, and `overwrite` is false.
    """
    out = Path(out)
    check_own(out.parent, [out.name], overwrite)
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
            x, too_wide = side, 0
            for line in drawn:
                image = fit_height(Image.open(io.BytesIO(draw(line))), height)
                if x + image.width > width - gap:
                    too_wide += 1
                    if too_wide > 8:
                        break
                    continue
                page.paste(image.convert("RGB"), (x, y))
                name = _shortened(font_name(line.font), label, image.width)
                canvas.text((x, y + height + 2), name, (80, 80, 80), label)
                x += image.width + gap
            y += height + 22
        y += gap
    # MAXCOVERAGE: palettes by pixel count would turn every signboard grey. 128 colours: small file.
    method = Image.Quantize.MAXCOVERAGE
    page = page.quantize(128, method, kmeans=3, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    page.save(buffer, "PNG", optimize=True)
    write_folder(out.parent, {out.name: buffer.getvalue()}, overwrite)


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    while text and font.getlength(text) > width:
        text = text[:-1]
    return text


# --- the command ---

GUIDE = """\
examples:
  python -m data_prep.synthesize lines ko --count 5000 --out data/signs --face sign
  python -m data_prep.synthesize lines bn --text novel.txt --face handwriting --out data/bangla
  python -m data_prep.synthesize lines zh en --count 20000 --split 0.9,0.05,0.05 --out data/zh_en
  python -m data_prep.synthesize lines bn ko zh en --sheet samples.png
  python -m data_prep.synthesize lines --list-fonts

Lines consist of words of the kit's word lists, numbers, and random syllables that show rare
characters (--random). A font is used only for lines whose characters it has; FILE#2 selects the
third face of a font collection. No package has a Bangla handwriting font: --face handwriting
distorts printed fonts, unless --font names a handwriting font. The same options and fonts give the
same bytes, whatever --workers; a larger --count keeps the earlier lines.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `lines`."""
    add = parser.add_argument
    add_output_options(parser)
    add(
        "languages",
        metavar="LANGUAGE",
        nargs="*",
        help="bn (Bangla), ko (Korean), zh (Chinese), en (Latin); pages take turns",
    )
    add("--out", metavar="DIR", help="the dataset folder to make")
    add("--count", type=COUNT, default=1000, metavar="N", help="lines (default 1000)")
    add("--face", nargs="+", choices=KINDS, help="style (default: all that have fonts)")
    add("--font", nargs="+", default=[], metavar="FILE", help="font files to use instead")
    add("--text", metavar="FILE", help="draw the lines of this text, instead of random words")
    add("--words", metavar="FILE", help="word list to use instead of the kit's own")
    add("--characters", metavar="FILE", help="characters of the random strings")
    add(
        "--random",
        type=float_option(),
        default=0.2,
        metavar="SHARE",
        help="share of lines that are random characters or syllables (default 0.2)",
    )
    add("--length", metavar="LOW,HIGH", help="characters of a line, such as 5,30")
    pixels = int_option(at_most=4096)
    add("--height", type=pixels, metavar="PX", help="scale every picture to this height")
    add("--seed", type=SEED, default=0, help="decides texts, fonts and looks (default 0)")
    add("--split", default="0.8,0.1,0.1", help="shares of train, validation and test, by page")
    add("--workers", type=WORKERS, help="processes (default: one per core)")
    add("--sheet", metavar="PNG", help="draw a sheet of samples instead of a dataset")
    add("--overwrite", action="store_true", help="let --sheet replace a file of your own")
    add("--list-fonts", action="store_true", help="list faces, families, and their packages")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    if args.list_fonts:
        print(font_table())
        return 0
    check(args)
    length = parse_length(args.length)
    fonts, missing = choose_fonts(args.languages, args.face, args.font)
    for sentence in missing:
        print(f"note: {sentence}", file=sys.stderr)
    files, longest = (args.text, args.words, args.characters), length[1] if length else None
    vocabularies = [
        load_vocabulary(language, *files, args.random, longest) for language in args.languages
    ]
    if args.sheet:
        if "bn" in args.languages:
            require_shaping()
        sheet(args.sheet, vocabularies, fonts, seed=args.seed, overwrite=args.overwrite)
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
        layout=args.layout,
        format=args.format,
    )
    counts = ", ".join(f"{split} {count:,}" for split, count in result["rows"].items())
    print(f"{args.out}: {sum(result['rows'].values()):,} lines ({counts})")
    for reason, count in result["rejects"].items():
        print(f"  {count:>9,}  {reason} (see rejects.jsonl)")
    return 0


def check(args: argparse.Namespace) -> None:
    """Raise UsageError for invalid values and combinations of options."""
    if not args.languages:
        raise UsageError(f"No LANGUAGE is named: name one or more of {', '.join(FACES)}.")
    for language in args.languages:
        if language not in FACES:
            raise UsageError(f"LANGUAGE {language!r} is unknown; take one of {', '.join(FACES)}.")
    if len(set(args.languages)) < len(args.languages):
        raise UsageError(f"LANGUAGE is named twice in {' '.join(args.languages)}; name each once.")
    if not args.out and not args.sheet:
        raise UsageError("No output: name --out DIR for a dataset or --sheet PNG for a picture.")
    for option in ("text", "words", "characters"):
        if getattr(args, option) and len(args.languages) > 1:
            raise UsageError(
                f"--{option} is for one language, but {len(args.languages)} are named."
            )
    check_count("count", args.count)
    check_count("workers", args.workers)
    check_count("height", args.height, least=16)
    if not 0 <= args.random <= 1:
        raise UsageError(f"--random is {args.random}, but takes a share from 0 to 1.")
    drawn_shares(args.split)


def parse_length(text: str | None) -> tuple[int, int] | None:
    """Parse --length LOW,HIGH as two counts; None if it was not used."""
    if text is None:
        return None
    try:
        low, high = (parse_int(count) for count in text.split(","))
    except ValueError:
        low, high = 0, 0
    if not 1 <= low <= high:
        raise UsageError(f"--length is {text!r}, but takes two counts such as 5,30.")
    return low, high
