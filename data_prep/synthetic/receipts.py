"""Receipt datasets: till receipt lines, worn or clean, in fonts that need no download."""

import argparse
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from data_prep.dataset.command import COUNT, SEED, check_count
from data_prep.dataset.schema import PROMPTS, Item, Picture
from data_prep.dataset.write import add_output_options, output_settings, write_dataset
from data_prep.synthetic.render import degrade_thermal, draw_line, load_font, shipped_fonts

# Monospaced fonts, as on tills; the embedded model was trained on none of them.
TILL_FONTS = ("DejaVuSansMono", "DejaVuSansMono-Bold", "cmtt10")
BASE_FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "STIXGeneral")

GOODS = """
apple apron bacon bagel banana batteries beans beef beer biscuit blanket bolt bottle bowl bread
broccoli brush bucket burger butter cable cake candle carrot cereal cheese chicken chilli
chocolate cider coconut coffee cola cookie corn crab cream cucumber cup curry detergent donut duck
egg envelope fan file fish flour folder fork fries frozen garlic ginger glove glue grape hammer
ham honey hose ice ink jam juice kettle key lamb lamp latte lemon lettuce lime lock mango marker
milk mint mocha mop muffin mushroom mustard napkin noodle nut oat oil olive onion orange paint
paper pasta peach pear pen pepper pie pineapple pizza plate plum pork potato prawn printer pudding
rice roll rope salad salmon salt sandwich sauce sausage screw set shampoo shirt soap soda soup
spicy spinach sponge stapler steak sticker straw sugar tape tea tissue toast tofu tomato tooth
towel tray tube tuna turkey vanilla vinegar wafer water wheat wine wrap yam yogurt
""".split()
SHOPS = """
avenue bakery bank bar big block branch bridge building cafe catering centre city company corner
court eastern electrical enterprise express family fashion floor food fresh garden gift global
golden grand green hardware hill holdings home hotel house industrial jalan kitchen lane limited
lot lucky main mall market mart medical mini modern new north office old palace paradise park
pharmacy place plaza point restaurant road royal sea service shop south square star stationery
station store street sun super supplies taman tower town trading union unit valley village west
wholesale world
""".split()
_TILL = """
account amount approval balance bill by card cash cashier change charge code counter credit
customer date debit description desk discount document due exclusive goods gross gst guest
inclusive invoice item items manager member name net no number of only order paid payment point
pos price product qty quantity rate received receipt ref refund register rounding sale sales
served server service sold staff subtotal sum summary table tax tel tender terminal thank time
total transaction unit user vat void with you your please come again welcome returns are not
accepted after days keep for exchange this is a computer generated the and to in
""".split()


def _cased(words: list[str], rng: random.Random) -> str:
    style = rng.random()
    if style < 0.5:
        return " ".join(words).upper()
    return " ".join(words).title() if style < 0.8 else " ".join(words)


def _digits(rng: random.Random, low: int, high: int) -> str:
    return "".join(rng.choice("0123456789") for _ in range(rng.randint(low, high)))


def _amount(rng: random.Random) -> str:
    whole = rng.randrange(10 ** rng.randint(1, 5))
    sign = "-" if rng.random() < 0.08 else ""
    return f"{sign}{whole:,}.{rng.randrange(100):02d}" if rng.random() < 0.9 else f"{sign}{whole}"


def _words(vocabulary: Sequence[str], rng: random.Random, low: int, high: int) -> str:
    return _cased([rng.choice(vocabulary) for _ in range(rng.randint(low, high))], rng)


def _date(rng: random.Random) -> str:
    day, month, year = rng.randint(1, 31), rng.randint(1, 12), rng.randint(1998, 2029)
    separator = rng.choice("//--. ")
    short = rng.choice(("", f"{year % 100:02d}", f"{year}", f"{year}"))
    clock = f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}"
    if rng.random() < 0.4:
        clock += f":{rng.randint(0, 59):02d}"
    date = f"{day:02d}{separator}{month:02d}{separator}{short or year}"
    return rng.choice((date, f"{date} {clock}", clock, f"{rng.choice(_DATE_LABELS)} {date}"))


_DATE_LABELS = ("Date:", "DATE :", "Date", "Time:", "DATE/TIME")
_CURRENCIES = ("$", "RM", "RM ", "", "", "", "USD ", "EUR ")
_MONEY_LABELS = """
TOTAL SUBTOTAL CASH CHANGE AMOUNT Total Sub-Total Cash Change Tax GST ROUNDING Discount BALANCE
""".split()


def receipt_line(rng: random.Random) -> str:
    """Random text of a receipt line: goods and prices, totals, dates, addresses, numbers."""
    kind = rng.randrange(12)
    money = rng.choice(_CURRENCIES) + _amount(rng)
    if kind == 0:
        return f"{_words(GOODS, rng, 1, 4)} {money}"
    if kind == 1:
        return f"{rng.randint(1, 24)} {rng.choice('xX@')} {_amount(rng)} {money}"
    if kind == 2:
        return f"{rng.choice(_MONEY_LABELS)}{rng.choice((':', ' :', '', ' '))} {money}"
    if kind == 3:
        return _date(rng)
    if kind == 4:
        number = f"{_digits(rng, 2, 3)}-{_digits(rng, 3, 4)} {_digits(rng, 4, 4)}"
        return f"{rng.choice(('Tel', 'TEL:', 'Fax :', 'H/P', 'TEL/FAX:'))} {number}"
    if kind == 5:
        place = f"{_words(SHOPS, rng, 1, 3)}, {_digits(rng, 5, 5)} {_words(SHOPS, rng, 1, 2)}"
        return rng.choice(("", "No. ", "LOT ", "NO.")) + f"{_digits(rng, 1, 3)}, {place}."
    if kind == 6:
        label = _words(_TILL, rng, 1, 2)
        return f"{label}{rng.choice((': ', ' #', ' NO: ', ' : '))}{_digits(rng, 3, 12)}"
    if kind == 7:
        return _words(SHOPS, rng, 2, 4)
    if kind == 8:
        return f"({_digits(rng, 5, 7)}-{rng.choice('ABDHKMPTUVWX')})"
    if kind == 9:
        rate = rng.choice(("6%", "0%", "7.5%", "19 %", "10%"))
        return f"{_words(_TILL, rng, 1, 3)} ({rate}) {money}"
    if kind == 10:
        mark = rng.choice(("*", "**", "-", "=", ""))
        return f"{mark} {_words(_TILL, rng, 2, 6)} {mark}".strip()
    code = "".join(rng.choice("ABCDEFGHJKLMNPQRSTUVWXYZ0123456789-/") for _ in range(10))
    return f"{_digits(rng, 4, 13)} {code.strip('-/')}"


def random_line(rng: random.Random, length: int) -> str:
    """Random characters, about `length` of them, that a model cannot guess but has to read."""
    text = ""
    while len(text) < length:
        size = rng.randint(1, 9)
        kind = rng.random()
        if kind < 0.25:
            token = _digits(rng, size, size)
        else:
            token = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(size))
            token = token.upper() if kind < 0.6 else token.title() if kind < 0.75 else token
        if rng.random() < 0.35:
            mark = rng.choice("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~,.:-/()%*")
            at = rng.randrange(len(token) + 1)
            token = token[:at] + mark + token[at:]
        text += token if rng.random() < 0.15 else f" {token}"
    return text.strip()


def line_of(rng: random.Random, low: int, high: int) -> str:
    """A receipt line or random characters, `low` to `high` characters, whitespace collapsed."""
    length = rng.randint(low, high)
    text = receipt_line(rng) if rng.random() < 0.55 else random_line(rng, length)
    while len(text) < length:
        text += " " + receipt_line(rng)
    start = rng.randint(0, len(text) - length) if rng.random() < 0.7 else 0
    text = " ".join(text[start : start + length].split())
    return text or line_of(rng, low, high)


def draw_thermal_line(text: str, font: str, size: int, seed: str) -> Image.Image:
    """Picture of a line on worn thermal paper, 32 pixels high; `seed` decides the damage."""
    return degrade_thermal(draw_line(text, load_font(font, size)), random.Random(seed))


def draw_printed_line(text: str, font: str, size: int, seed: str) -> Image.Image:
    """Picture of a clean line, black on white, 32 pixels high; `seed` is unused."""
    return draw_line(text, load_font(font, size))


def _receipt_items(
    draw: Callable, fonts: Sequence[str], receipts: int, seed: int
) -> Iterator[Item]:
    for receipt in range(receipts):
        # A seed per receipt: more receipts change no earlier receipt.
        rng = random.Random(f"{seed}/{receipt}")
        font = str(rng.choice(shipped_fonts(*fonts)))
        for line in range(10):
            text = " ".join(receipt_line(rng).split())[:40].strip()
            load = partial(draw, text, font, rng.randint(19, 22), f"{rng.random()}")
            yield Item(
                key=f"receipt-{receipt:04d}-{line:02d}",
                where=f"receipt {receipt}, line {line}",
                text=text,
                pictures=[Picture(load=load)],
                group=f"{receipt:04d}",
                language="en",
                prompt=PROMPTS["transcription"],
            )


def thermal_receipts(
    out: str | Path,
    receipts: int = 300,
    seed: int = 0,
    split: tuple[float, float, float] = (0.82, 0.03, 0.15),
    progress: bool = True,
    layout: str = "prompt_completion",
    format: str = "imagefolder",
) -> dict:
    """Write a dataset of worn till receipts, ten lines each, in fonts that need no download.

    Args:
        out: the dataset folder; unchanged if it already holds this dataset.
        receipts: number of receipts; a receipt is a group, so all its lines are in one split.
        seed: decides text, fonts and damage.
        split: shares of train, validation and test.
        layout, format: as of `data_prep.convert.convert`.

    Returns:
        The content of dataset.json.
    """
    settings: dict[str, object] = {"receipts": receipts, "seed": seed, "split": list(split)}
    settings |= output_settings(layout, format)
    items = partial(_receipt_items, draw_thermal_line, TILL_FONTS, receipts, seed)
    return _write(items, out, "thermal-receipts", settings, split, progress)


def printed_receipts(
    out: str | Path,
    receipts: int = 10,
    seed: int = 0,
    progress: bool = True,
    layout: str = "prompt_completion",
    format: str = "imagefolder",
    split: tuple[float, float, float] = (0.0, 0.0, 1.0),
) -> dict:
    """Write clean lines in fonts that the embedded model was trained on, all for testing.

    Evaluated before and after fine-tuning, they measure forgetting; a train split of them, as
    `replay`, prevents it. Arguments as in `thermal_receipts`.
    """
    settings: dict[str, object] = {"receipts": receipts, "seed": seed}
    settings |= output_settings(layout, format)
    if split[2] < 1:
        settings["split"] = list(split)
    items = partial(_receipt_items, draw_printed_line, BASE_FONTS, receipts, seed)
    return _write(items, out, "printed-receipts", settings, split, progress)


def _write(
    items: Callable, out: str | Path, source: str, settings: dict, split: tuple, progress: bool
) -> dict:
    total = 10 * settings["receipts"]
    return write_dataset(items, out, source, [], settings, split, progress=progress, total=total)


# --- the command ---

GUIDE = """\
examples:
  python -m data_prep.synthesize receipts --out data/receipts
  python -m data_prep.synthesize receipts --clean --count 10 --out data/clean
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `receipts`."""
    add = parser.add_argument
    add("--out", required=True, metavar="DIR", help="the dataset folder to make")
    add("--count", type=COUNT, default=300, metavar="N", help="receipts of ten lines (default 300)")
    add("--seed", type=SEED, default=0, help="decides texts, fonts and damage (default 0)")
    add("--clean", action="store_true", help="undamaged lines in other fonts, all for testing")
    add_output_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    check_count("count", args.count)
    make = printed_receipts if args.clean else thermal_receipts
    rows = make(args.out, args.count, args.seed, layout=args.layout, format=args.format)["rows"]
    print(f"{args.out}: " + ", ".join(f"{split} {count:,}" for split, count in rows.items()))
    return 0
