"""Toy content: texts, questions and answers of the small tasks, before they are drawn."""

import json
import random
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import NamedTuple

from data_prep.dataset.command import check_choice
from data_prep.dataset.schema import PROMPTS
from data_prep.synthetic.receipts import GOODS, SHOPS

TASKS = ("receipts", "tables", "questions")

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
# Two paraphrases of each question.
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
# Field names for rephrased receipts.
_RENAMED = {"shop": "company", "date": "issued", "item": "product", "total": "amount"}


class Toy(NamedTuple):
    """Content of one sample: text lines, question and answer.

    `rows` are the lines from top to bottom, each a list of cells from left to right; `table` aligns
    the cells in columns. `knowledge` is a sentence that the answer depends on, or "".
    """

    rows: list[list[str]]
    question: str
    completion: str
    knowledge: str = ""
    table: bool = False

    @property
    def prompt(self) -> str:
        """The question, after the knowledge if there is any."""
        return f"{self.knowledge}\n\n{self.question}" if self.knowledge else self.question


def write_toy(task: str, rng: random.Random) -> Toy:
    """Random content of one sample of a task of `TASKS`.

    Raises:
        UsageError: there is no such task.
    """
    check_choice("task", task, TASKS)
    return {"receipts": _receipt, "tables": _table, "questions": _question}[task](rng)


def _receipt(rng: random.Random) -> Toy:
    """A receipt: shop, total, and date or item; the answer leaves labels and currency out."""
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
    """A table of three rows of two cells or two rows of three; half of them have a header row."""
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
    """HTML of a table, without spaces between the tags."""
    cells = ("".join(f"<td>{cell}</td>" for cell in row) for row in rows)
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>"


def _question(rng: random.Random) -> Toy:
    """A question about a line of goods or of opening hours; half need a sentence of knowledge."""
    cased = _case(rng)
    if rng.random() < 0.5:
        item, other = rng.sample(_WORDS, 2)
        while item[0] == other[0]:
            other = rng.choice(_WORDS)
        line, _ = _goods_line(cased(item), rng)
        # Two goods in random order: only the picture shows which of them is meant.
        place = rng.choice(_PLACES)
        letters, digits = rng.sample("ABCDEFGHJKLMNPRSTUVWXYZ", 2), rng.sample("123456789", 2)
        answer, wrong = (letter + digit for letter, digit in zip(letters, digits))
        facts = [f"{cased(item)} is {place} {answer}", f"{cased(other)} is {place} {wrong}"]
        rng.shuffle(facts)
        return Toy([[line]], f"What is the {place}?", answer, ", ".join(facts) + ".")
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
    """The toy with a paraphrased question or renamed fields; tables stay unchanged."""
    if toy.question == PROMPTS["extraction"]:
        fields = {_RENAMED[name]: value for name, value in json.loads(toy.completion).items()}
        return toy._replace(completion=_on_one_line(fields))
    return toy._replace(question=rng.choice(_REPHRASED.get(toy.question, (toy.question,))))


def _on_one_line(fields: dict[str, str]) -> str:
    # No spaces, because every character may be a token.
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def _goods_line(item: str, rng: random.Random) -> tuple[str, dict[str, str]]:
    """A line of goods with a price, and {question: answer} about the line."""
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
