"""Makes small tasks beside reading lines, sized for the embedded model on a CPU.

`toys(...)`, or `python -m data_prep.synthesize toys`, writes receipts of three lines with their
fields as JSON, tables of six cells as HTML, and questions about a line, half of which can only be
answered with the sentence that stands before them in the prompt. Fonts need no download.

Both sides of every picture are multiples of 16 pixels, so a model whose image token covers 16 x 16
sees it as it is; a line is 32 pixels high.
"""

import argparse
import json
import random
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from data_prep.dataset.command import COUNT, SEED, float_option
from data_prep.dataset.schema import PROMPTS, Item, Picture, UsageError
from data_prep.dataset.split import parse_shares
from data_prep.dataset.write import add_output_options, output_settings, write_dataset
from data_prep.synthetic.receipts import GOODS, SHOPS, TILL_FONTS
from data_prep.synthetic.render import degrade_thermal, draw_line, load_font, shipped_fonts

TASKS = ("receipts", "tables", "questions")
_SCHEMAS = Path(__file__).parents[1] / "schemas"
SCHEMA = _SCHEMAS / "toy_receipt.schema.json"
REPHRASED_SCHEMA = _SCHEMAS / "rephrased_receipt.schema.json"
LINE = 32  # pixels a line is high
_GRID = 16
_SIZES = (18, 20)  # pixels per em, lowest and highest

# What a row's `task` is, by the contract of the dataset folder.
_ROW_TASKS = {"receipts": "extraction", "tables": "transcription", "questions": "vqa"}

_WORDS = [word for word in GOODS if len(word) <= 6]
_SHOP_WORDS = [word for word in SHOPS if len(word) <= 7]
_CURRENCIES = ("", "", "", "$", "RM", "RM ")
_TOTALS = ("TOTAL", "Total", "TOTAL:", "Total:", "AMOUNT DUE", "TO PAY", "To pay:", "SUM")
_DATE_LABELS = ("", "", "DATE ", "Date: ", "DATE: ")
_HEADERS = {
    2: (("ITEM", "PRICE"), ("Item", "Price"), ("Goods", "Total"), ("NAME", "SUM")),
    3: (("ITEM", "QTY", "PRICE"), ("Item", "No.", "Price"), ("Goods", "Pcs", "Total")),
}
_PLACES = ("code", "shelf", "aisle")
# Two other ways to ask each question.
_REPHRASED = {
    "What is the item?": ("Which product is sold?", "Name the article."),
    "What is the price?": ("How much does it cost?", "State what has to be paid."),
    "How many?": ("Which number stands in front?", "Count the pieces."),
    "What is the first word?": ("Which word begins the line?", "Read only the start."),
    "What is the last word?": ("Which word ends the goods?", "Read only the end of the name."),
    "When does it open?": ("From which hour may one enter?", "Tell the earlier hour."),
    "When does it close?": ("Until which hour may one stay?", "Tell the later hour."),
    "What is the code?": ("Which code does it carry?", "Look up its code."),
    "What is the shelf?": ("On which shelf does it stand?", "Look up its shelf."),
    "What is the aisle?": ("Along which aisle is it found?", "Look up its aisle."),
}
# Another name of each field.
_RENAMED = {"shop": "company", "date": "issued", "item": "product", "total": "amount"}


class Toy(NamedTuple):
    """What one picture shows and what is asked about it, before it is drawn.

    `rows` are its lines from the top, each of one cell or more from the left, in columns where they
    are a `table`; `knowledge` is the sentence without which the answer cannot be known, or "".
    """

    rows: list[list[str]]
    question: str
    completion: str
    knowledge: str = ""
    table: bool = False

    @property
    def prompt(self) -> str:
        """The knowledge, where there is any, and the question."""
        return f"{self.knowledge}\n\n{self.question}" if self.knowledge else self.question


# --- what is said


def write_toy(task: str, rng: random.Random) -> Toy:
    """The content of one sample of `receipts`, `tables` or `questions`.

    Raises:
        UsageError: there is no such task.
    """
    _check_task(task)
    return {"receipts": _receipt, "tables": _table, "questions": _question}[task](rng)


def _receipt(rng: random.Random) -> Toy:
    """Shop, total, and a date or an item; what is printed around the values is to be left out."""
    cased = _case(rng)
    shop = cased(" ".join(rng.sample(_SHOP_WORDS, rng.randint(1, 2))))
    label, currency = rng.choice(_TOTALS), rng.choice(_CURRENCIES)
    if rng.random() < 0.5:
        name, value, total = "date", _date(rng), _amount(rng, 99)
        middle = [rng.choice(_DATE_LABELS) + value]
        place = rng.randrange(3)
    else:
        name, value, price = "item", cased(rng.choice(_WORDS)), _amount(rng, 24)
        count = rng.choice((1, 1, 2, 3, 4))
        total = str(count * Decimal(price))
        middle = [f"{count} x {value}" if count > 1 else value, price]
        place = 1
    rows = [[shop], [label, currency + total]]
    rows.insert(place, middle)
    if rng.random() < 0.4:
        rows = [[" ".join(row)] for row in rows]
    fields = {"shop": shop, name: value, "total": total}
    return Toy(rows, PROMPTS["extraction"], _on_one_line(fields))


def _table(rng: random.Random) -> Toy:
    """Three rows of two cells or two rows of three, the first of them headings in half."""
    columns = rng.choice((2, 3))
    cased = _case(rng)
    rows = []
    for word in rng.sample(_WORDS, 6 // columns):
        count = [str(rng.randint(1, 24))] if columns == 3 else []
        rows.append([cased(word), *count, _amount(rng, 99)])
    if rng.random() < 0.5:
        rows[0] = list(rng.choice(_HEADERS[columns]))
    return Toy(rows, PROMPTS["tables"], table_html(rows), table=True)


def table_html(rows: Sequence[Sequence[str]]) -> str:
    """A table's rows of cells as HTML without a space between the tags."""
    cells = ("".join(f"<td>{cell}</td>" for cell in row) for row in rows)
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>"


def _question(rng: random.Random) -> Toy:
    """A question about a line of goods or of opening hours."""
    cased = _case(rng)
    if rng.random() < 0.5:
        item, other = rng.sample(_WORDS, 2)
        while item[0] == other[0]:
            other = rng.choice(_WORDS)
        line, _ = _goods_line(cased(item), rng)
        # Two goods in either order: the sentence alone does not tell which one the picture shows.
        place = rng.choice(_PLACES)
        letters, digits = rng.sample("ABCDEFGHJKLMNPRSTUVWXYZ", 2), rng.sample("123456789", 2)
        answer, wrong = (letter + digit for letter, digit in zip(letters, digits))
        told = [f"{cased(item)} is {place} {answer}", f"{cased(other)} is {place} {wrong}"]
        rng.shuffle(told)
        return Toy([[line]], f"What is the {place}?", answer, ", ".join(told) + ".")
    if rng.random() < 0.25:
        opens, closes = str(rng.randint(6, 11)), str(rng.randint(15, 23))
        shop = cased(rng.choice(_SHOP_WORDS))
        line = f"{shop} {cased('open')} {opens}-{closes}"
        answers = {
            "When does it open?": opens,
            "When does it close?": closes,
            "What is the first word?": shop,
        }
    else:
        words = [cased(word) for word in rng.sample(_WORDS, rng.randint(1, 2))]
        line, answers = _goods_line(" ".join(words), rng)
        if len(words) > 1:
            answers |= {"What is the first word?": words[0], "What is the last word?": words[1]}
    question = rng.choice(list(answers))
    return Toy([[line]], question, answers[question])


def rephrased(toy: Toy, rng: random.Random) -> Toy:
    """The toy with its question in other words, or its fields under other names.

    Tables stay as they are.
    """
    if toy.question == PROMPTS["extraction"]:
        fields = {_RENAMED[name]: value for name, value in json.loads(toy.completion).items()}
        return toy._replace(completion=_on_one_line(fields))
    return toy._replace(question=rng.choice(_REPHRASED.get(toy.question, (toy.question,))))


def _on_one_line(fields: dict[str, str]) -> str:
    # Without spaces, for every character may be a token.
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def _goods_line(item: str, rng: random.Random) -> tuple[str, dict[str, str]]:
    """A line of goods with their price, and what can be asked about it with the answers."""
    price = _amount(rng, 99)
    answers = {"What is the item?": item, "What is the price?": price}
    line = f"{item} {rng.choice(_CURRENCIES)}{price}"
    if rng.random() < 0.4:
        answers["How many?"] = str(rng.randint(2, 24))
        line = f"{answers['How many?']} {line}"
    return line, answers


def _amount(rng: random.Random, most: int) -> str:
    return f"{rng.randint(0, most)}.{rng.randrange(100):02d}"


def _date(rng: random.Random) -> str:
    day, month, year = rng.randint(1, 28), rng.randint(1, 12), rng.randint(2010, 2029)
    mark = rng.choice("/.-")
    if mark == "-" and rng.random() < 0.5:
        return f"{year}-{month:02d}-{day:02d}"
    return f"{day:02d}{mark}{month:02d}{mark}{year}"


def _case(rng: random.Random) -> Callable[[str], str]:
    return rng.choice((str.upper, str.upper, str.title))


# --- what is drawn


def draw_toy(toy: Toy, font: ImageFont.FreeTypeFont, rng: random.Random) -> Image.Image:
    """The clean picture of a toy ("L"), lines of 32 pixels, both sides multiples of 16.

    A table has rules in two of three; elsewhere a second cell stands at the right edge, as amounts
    do on receipts.
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
    """The picture of a toy ("L") in one of the font files, worn with the probability `damage`."""
    font = load_font(str(rng.choice(fonts)), rng.randint(*_SIZES))
    picture = draw_toy(toy, font, rng)
    return degrade_thermal(picture, rng) if rng.random() < damage else picture


def toy_sample(
    task: str, rng: random.Random, fonts: Sequence[str | Path], damage: float = 0.0
) -> tuple[Image.Image, str, str]:
    """One sample of `receipts`, `tables` or `questions`: (picture in "L", prompt, completion).

    Args:
        fonts: font files, one of which is drawn with.
        damage: from 0 (clean) to 1 (worn as by a pocket and a cheap printer): the probability that
            the picture is worn.

    Raises:
        UsageError: there is no such task.
    """
    toy = write_toy(task, rng)
    return toy_picture(toy, rng, fonts, damage), toy.prompt, toy.completion


# --- a dataset of them


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
        damage: the share of pictures that are worn, from 0 to 1.
        knowledge: whether the questions that need a sentence of knowledge get it; without it the
            dataset has the same ids, pictures, questions and answers.
        rephrase: ask questions in words, and give fields names, that the embedded model was not
            trained on; `REPHRASED_SCHEMA` is the schema of such receipts.
        fonts: names of fonts that matplotlib brings along; the default has no training font of the
            embedded model.
        split: shares of train, validation and test.
        layout, format: as of `data_prep.convert.convert`.

    Raises:
        UsageError: an argument has no such value.
        DataError: `out` holds something else.
    """
    _check_task(task)
    if count < 1:
        raise UsageError(f"--count is {count}, but takes 1 or more.")
    if not 0 <= damage <= 1:
        raise UsageError(f"--damage is {damage}, but takes a share from 0 to 1.")
    if not knowledge and task != "questions":
        raise UsageError(f"--without-knowledge is for questions, but --task is {task}.")
    if rephrase and task == "tables":
        raise UsageError("--rephrase is for questions and receipts, but --task is tables.")
    shares = parse_shares(split)
    if shares is None:
        raise UsageError(f"--split is {split!r}, but takes shares such as 0.8,0.1,0.1 here.")
    settings = {"task": task, "count": count, "seed": seed, "damage": damage}
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
    """The toys of a dataset; arguments as in `toys`, but `fonts` are font files."""
    for number in range(count):
        # Everything about a toy follows from its own seed, so more toys change none.
        toy = write_toy(task, random.Random(f"{seed}/{number}"))
        if rephrase:
            toy = rephrased(toy, random.Random(f"{seed}/{number}/question"))
        told = {"need_external_knowledge": bool(toy.knowledge), "question": toy.question}
        yield Item(
            key=f"toy-{task}-{number:05d}",
            where=f"toy {number}",
            text=toy.completion,
            pictures=[Picture(partial(_draw, toy, f"{seed}/{number}/picture", fonts, damage))],
            group=f"{number:05d}",
            language="en",
            task=_ROW_TASKS[task],
            prompt=toy.prompt if knowledge else toy.question,
            meta=told if task == "questions" else {},
        )


def _draw(toy: Toy, seed: str, fonts: Sequence[str], damage: float) -> Image.Image:
    return toy_picture(toy, random.Random(seed), fonts, damage)


def _check_task(task: str) -> None:
    if task not in TASKS:
        raise UsageError(f"--task is {task!r}, but takes one of {', '.join(TASKS)}.")


# --- the command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `toys`."""
    parser.epilog = """\
examples:
  python -m data_prep.synthesize toys --task receipts --out data/toy_receipts
  python -m data_prep.synthesize toys --task questions --out data/told
  python -m data_prep.synthesize toys --task questions --without-knowledge --out data/untold
  python -m data_prep.synthesize toys --task questions --rephrase --out data/rephrased
  python -m data_prep.validate data/toy_receipts --schema data_prep/schemas/toy_receipt.schema.json
"""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--out", required=True, metavar="DIR", help="the dataset folder to make")
    add("--task", choices=TASKS, default=TASKS[0], help="fields as JSON, HTML, or questions")
    add("--count", type=COUNT, default=600, metavar="N", help="pictures (default 600)")
    add("--seed", type=SEED, default=0, help="decides texts, fonts and damage (default 0)")
    add(
        "--damage",
        type=float_option(),
        default=1.0,
        metavar="SHARE",
        help="of worn pictures (default 1)",
    )
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
    """Do what the options say; returns the exit code.

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
