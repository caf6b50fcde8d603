"""Toys: small tasks beside line reading, sized to train the embedded model on a CPU.

`toys(...)`, or `python -m data_prep.synthesize toys`, writes receipts of three lines with their
fields as JSON, tables of six cells as HTML, and questions about a line; half of the questions need
the sentence of knowledge in their prompt. Fonts need no download.

Width and height of every picture are multiples of 16 pixels, so that a model whose image token
covers 16 x 16 pixels reads it without resizing; a line is 32 pixels high.
"""

import argparse
import random
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from data_prep.dataset.command import COUNT, SEED, check_choice, check_count, float_option
from data_prep.dataset.schema import Item, Picture, UsageError
from data_prep.dataset.split import drawn_shares
from data_prep.dataset.write import add_output_options, output_settings, write_dataset
from data_prep.synthetic.receipts import TILL_FONTS
from data_prep.synthetic.render import degrade_thermal, draw_line, load_font, shipped_fonts
from data_prep.synthetic.toy_content import TASKS, Toy, rephrased, write_toy

_SCHEMAS = Path(__file__).parents[1] / "schemas"
SCHEMA = _SCHEMAS / "toy_receipt.schema.json"
REPHRASED_SCHEMA = _SCHEMAS / "rephrased_receipt.schema.json"
LINE = 32  # height of a line in pixels
_GRID = 16
_SIZES = (18, 20)  # smallest and largest font size in pixels per em

# The `task` value of dataset rows.
_ROW_TASKS = {"receipts": "extraction", "tables": "transcription", "questions": "vqa"}

# --- drawing


def draw_toy(toy: Toy, font: ImageFont.FreeTypeFont, rng: random.Random) -> Image.Image:
    """Clean picture of a toy in "L": lines of 32 pixels, width and height multiples of 16.

    Two of three tables have ruled lines. Outside tables, the second cell of a row is aligned right,
    as amounts are on receipts.
    """
    pieces = [[draw_line(cell, font, LINE) for cell in row] for row in toy.rows]
    return (_draw_table if toy.table else _draw_lines)(pieces, rng)


def _draw_lines(pieces: list[list[Image.Image]], rng: random.Random) -> Image.Image:
    needed = max(sum(piece.width for piece in row) + LINE // 2 * (len(row) - 1) for row in pieces)
    paper = _paper(needed + rng.choice((0, 0, 8, 16)), len(pieces))
    centred = rng.random() < 0.5
    for number, row in enumerate(pieces):
        left = (paper.width - row[0].width) // 2 if centred and len(row) == 1 else 0
        paper.paste(row[0], (left, LINE * number))
        if len(row) > 1:
            paper.paste(row[1], (paper.width - row[1].width, LINE * number))
    return paper


def _draw_table(pieces: list[list[Image.Image]], rng: random.Random) -> Image.Image:
    margin = rng.randint(4, 8)
    widths = [max(piece.width for piece in column) + 2 * margin for column in zip(*pieces)]
    paper = _paper(sum(widths), len(pieces))
    widths[-1] += paper.width - sum(widths)
    rules, to_right = rng.choice(("none", "rows", "grid")), rng.random() < 0.5
    edges = [sum(widths[:column]) for column in range(len(widths) + 1)]
    for number, row in enumerate(pieces):
        for column, piece in enumerate(row):
            right = edges[column + 1] - margin - piece.width
            left = right if to_right and column else edges[column] + margin
            paper.paste(piece, (left, LINE * number))
    pen = ImageDraw.Draw(paper)
    if rules != "none":
        for number in range(len(pieces) + 1):
            y = min(LINE * number, paper.height - 1)
            pen.line((0, y, paper.width, y), fill=0)
    for edge in edges if rules == "grid" else ():
        x = min(edge, paper.width - 1)
        pen.line((x, 0, x, paper.height), fill=0)
    return paper


def _paper(width: int, lines: int) -> Image.Image:
    return Image.new("L", (-(-width // _GRID) * _GRID, LINE * lines), 255)


def toy_picture(
    toy: Toy, rng: random.Random, fonts: Sequence[str | Path], damage: float = 0.0
) -> Image.Image:
    """Picture of a toy in "L", in one of the font files; worn with the probability `damage`."""
    font = load_font(str(rng.choice(fonts)), rng.randint(*_SIZES))
    picture = draw_toy(toy, font, rng)
    return degrade_thermal(picture, rng) if rng.random() < damage else picture


# --- the dataset


def toys(
    out: str | Path,
    task: str = "receipts",
    count: int = 600,
    seed: int = 0,
    *,
    damage: float = 1.0,
    knowledge: bool = True,
    rephrase: bool = False,
    fonts: Sequence[str] = TILL_FONTS,
    split: str = "0.8,0.05,0.15",
    layout: str = "prompt_completion",
    format: str = "imagefolder",
    progress: bool = True,
) -> dict:
    """Write a dataset of `count` toys to the folder `out`; returns its dataset.json.

    Args:
        task: `receipts` (JSON), `tables` (HTML) or `questions`.
        seed: decides texts, fonts and damage; more toys change none of the first.
        damage: probability of a worn picture, from 0 to 1.
        knowledge: put the sentence of knowledge into the prompts that need it; without it the
            dataset has the same ids, pictures, questions and answers.
        rephrase: use questions and field names that the embedded model was not trained on;
            `REPHRASED_SCHEMA` is the schema of such receipts.
        fonts: names of fonts that matplotlib ships; the embedded model was trained on none of the
            default fonts.
        split: shares of train, validation and test.
        layout, format: as of `data_prep.convert.convert`.

    Raises:
        UsageError: an argument has no such value.
        DataError: `out` holds another dataset or other files.
    """
    check_choice("task", task, TASKS)
    check_count("count", count)
    if not 0 <= damage <= 1:
        raise UsageError(f"--damage is {damage}, but takes a share from 0 to 1.")
    if not knowledge and task != "questions":
        raise UsageError(f"--without-knowledge is for questions, but --task is {task}.")
    if rephrase and task == "tables":
        raise UsageError("--rephrase is for questions and receipts, but --task is tables.")
    shares = drawn_shares(split)
    settings: dict[str, object] = {"task": task, "count": count, "seed": seed, "damage": damage}
    settings |= {"knowledge": knowledge, "rephrase": rephrase}
    settings |= {"fonts": list(fonts), "split": split}
    settings |= output_settings(layout, format)
    paths = [str(path) for path in shipped_fonts(*fonts)]
    items = partial(toy_items, task, count, seed, damage, knowledge, paths, rephrase)
    source = f"toy-{task}"
    return write_dataset(items, out, source, [], settings, shares, progress=progress, total=count)


def toy_items(
    task: str,
    count: int,
    seed: int,
    damage: float,
    knowledge: bool,
    fonts: Sequence[str],
    rephrase: bool,
) -> Iterator[Item]:
    """Dataset items of toys; arguments as in `toys`, but `fonts` are font files."""
    for number in range(count):
        # A seed per toy: a larger `count` changes no earlier toy.
        toy = write_toy(task, random.Random(f"{seed}/{number}"))
        if rephrase:
            toy = rephrased(toy, random.Random(f"{seed}/{number}/question"))
        meta = {"need_external_knowledge": bool(toy.knowledge), "question": toy.question}
        yield Item(
            key=f"toy-{task}-{number:05d}",
            where=f"toy {number}",
            text=toy.completion,
            pictures=[Picture(partial(_draw, toy, f"{seed}/{number}/picture", fonts, damage))],
            group=f"{number:05d}",
            language="en",
            task=_ROW_TASKS[task],
            prompt=toy.prompt if knowledge else toy.question,
            meta=meta if task == "questions" else {},
        )


def _draw(toy: Toy, seed: str, fonts: Sequence[str], damage: float) -> Image.Image:
    return toy_picture(toy, random.Random(seed), fonts, damage)


# --- the command

GUIDE = """\
examples:
  python -m data_prep.synthesize toys --task receipts --out data/toy_receipts
  python -m data_prep.synthesize toys --task questions --out data/questions
  python -m data_prep.synthesize toys --task questions --without-knowledge --out data/hard
  python -m data_prep.synthesize toys --task questions --rephrase --out data/rephrased
  python -m data_prep.validate data/toy_receipts --schema data_prep/schemas/toy_receipt.schema.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `toys`."""
    add = parser.add_argument
    add("--out", required=True, metavar="DIR", help="the dataset folder to make")
    add("--task", choices=TASKS, default=TASKS[0], help="fields as JSON, HTML, or questions")
    add("--count", type=COUNT, default=600, metavar="N", help="pictures (default 600)")
    add("--seed", type=SEED, default=0, help="decides texts, fonts and damage (default 0)")
    share, text = float_option(), "share of worn pictures (default 1)"
    add("--damage", type=share, default=1.0, metavar="SHARE", help=text)
    add("--split", default="0.8,0.05,0.15", metavar="A,B,C", help="shares (default 0.8,0.05,0.15)")
    add(
        "--without-knowledge",
        action="store_true",
        help="the same questions without the sentences that half of them need",
    )
    add(
        "--rephrase",
        action="store_true",
        help="words of questions and names of fields that the embedded model was not trained on",
    )
    add_output_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code.

    Raises:
        UsageError, DataError: as `toys`.
    """
    rows = toys(
        args.out,
        args.task,
        args.count,
        args.seed,
        damage=args.damage,
        knowledge=not args.without_knowledge,
        rephrase=args.rephrase,
        split=args.split,
        layout=args.layout,
        format=args.format,
    )["rows"]
    print(f"{args.out}: " + ", ".join(f"{split} {count:,}" for split, count in rows.items()))
    return 0
