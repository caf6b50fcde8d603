import json
import random
import re
from decimal import Decimal

from data_prep.synthetic.toy_content import rephrased, table_html
from data_prep.synthetic.toys import REPHRASED_SCHEMA, SCHEMA
from ocrkit.metrics.fields import numeric_accuracy, schema_pass_rate, teds
from tests.helpers.toys import many


def test_fields_of_a_receipt_stand_in_its_lines():
    toys = many("receipts")
    truths = [json.loads(toy.completion) for toy in toys]
    schema = json.loads(SCHEMA.read_text())
    assert schema_pass_rate([toy.completion for toy in toys], schema) == 1
    assert {tuple(truth) for truth in truths} == {
        ("shop", "date", "total"),
        ("shop", "item", "total"),
    }
    orders = set()
    for toy, truth in zip(toys, truths):
        lines = [" ".join(row) for row in toy.rows]
        total = next(number for number, line in enumerate(lines) if line.endswith(truth["total"]))
        other = truth.get("date") or truth["item"]
        # Where an item costs what the receipt does, its line comes first and ends like the total's.
        total = 2 if "item" in truth else total
        middle = next(number for number, line in enumerate(lines) if other in line.split())
        assert sorted((lines.index(truth["shop"]), total, middle)) == [0, 1, 2]
        orders.add((lines.index(truth["shop"]), total, middle))
        if "item" in truth:
            count, price = re.fullmatch(r"(?:(\d) x )?\w+ ([\d.]+)", lines[middle]).groups()
            assert int(count or 1) * Decimal(price) == Decimal(truth["total"])
    assert orders == {(0, 1, 2), (0, 2, 1), (1, 2, 0)}
    wrong = [truth | {"total": "0.001"} for truth in truths]
    assert numeric_accuracy(truths, truths) == 1 and numeric_accuracy(truths, wrong) == 0


def test_toy_table_completion_equals_its_drawn_cells():
    shapes = set()
    for toy in many("tables"):
        shapes.add((len(toy.rows), len(toy.rows[0])))
        cells = re.findall("<td>(.*?)</td>", toy.completion)
        assert cells == [cell for row in toy.rows for cell in row]
        assert teds(toy.completion, toy.completion) == 1
        other = table_html([[*row[:-1], "0"] for row in toy.rows])
        assert teds(toy.completion, other) < 1 == teds(toy.completion, other, structure_only=True)
    assert shapes == {(2, 3), (3, 2)}


def test_answers_stand_in_the_line_and_nowhere_else_without_the_sentence():
    toys = many("questions", 600)
    told = [toy for toy in toys if toy.knowledge]
    assert 240 <= len(told) <= 360
    for toy in toys:
        line = toy.rows[0][0]
        if not toy.knowledge:
            assert toy.prompt == toy.question
            assert toy.completion in line
            continue
        assert toy.completion not in line and toy.prompt == f"{toy.knowledge}\n\n{toy.question}"
        place = toy.question.removeprefix("What is the ").removesuffix("?")
        means = dict(re.findall(rf"(\w+) is {place} (\w\d)", toy.knowledge))
        item, *others = [item for item in means if item in re.findall(r"\w+", line)]
        assert means[item] == toy.completion and not others and len(means) == 2
    # The sentence without the picture is a guess between two.
    first = [toy.knowledge.split(",")[0].endswith(toy.completion) for toy in told]
    assert 0.4 < sum(first) / len(told) < 0.6


def test_questions_about_one_line_have_their_own_answers():
    asked = {toy.question for toy in many("questions", 600)}
    assert len(asked) == 10
    for toy in many("questions", 600):
        words = re.findall(r"[A-Za-z]+", toy.rows[0][0].replace("RM", ""))
        if toy.question == "What is the first word?":
            assert toy.completion == words[0]
        if toy.question == "What is the last word?":
            assert toy.completion == words[-1]
        if toy.question == "What is the price?":
            assert toy.rows[0][0].endswith(toy.completion)
        if toy.question == "How many?":
            assert toy.rows[0][0].startswith(toy.completion + " ")


def test_fields_are_renamed_and_nothing_else_changes():
    known = many("receipts")
    anew = [rephrased(toy, random.Random(0)) for toy in known]
    assert [toy._replace(completion="") for toy in anew] == [
        toy._replace(completion="") for toy in known
    ]
    answers = [[toy.completion for toy in toys] for toys in (known, anew)]
    for before, after in zip(*(map(json.loads, toys) for toys in answers), strict=True):
        assert list(before.values()) == list(after.values()) and not before.keys() & after.keys()
    schemas = [json.loads(path.read_text()) for path in (SCHEMA, REPHRASED_SCHEMA)]
    rates = [[schema_pass_rate(toys, schema) for schema in schemas] for toys in answers]
    assert rates == [[1, 0], [0, 1]]
