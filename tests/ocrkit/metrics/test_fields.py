import json
import random
from functools import cache

import pytest

from ocrkit.metrics import (
    field_accuracy,
    field_f1,
    fields,
    json_parse_rate,
    nted,
    numeric_accuracy,
    schema_pass_rate,
    teds,
)

INVOICE = {
    "company": "ACME SDN BHD",
    "items": [{"name": "Pen", "price": "1.50"}, {"name": "Ink", "price": "10.00"}],
    "total": "11.50",
}


def changed(**more):
    return {**json.loads(json.dumps(INVOICE)), **more}


# --- JSON


@pytest.mark.parametrize(
    "text, good",
    [
        ('{"a": 1}', True),
        (" [1] \n", True),
        ("null", True),
        ('"x"', True),
        ("", False),
        (None, False),
        (float("nan"), False),
        ('{"a": 1', False),
        ("{'a': 1}", False),
        ('{"a": 1,}', False),
        ('```json\n{"a": 1}\n```', False),
        ('{"a": NaN}', False),
        ("[" * 100_000, False),
        ("[" * 500 + "]" * 500, False),
    ],
)
def test_json_is_parsed_and_never_repaired(text, good):
    assert json_parse_rate([text]) == good


def test_schema_pass_rate_is_over_all_samples():
    schema = {"type": "object", "required": ["total"], "properties": {"total": {"type": "string"}}}
    texts = [
        '{"total": "1"}',
        '{"total": 1}',
        "{}",
        "[1]",
        "null",
        "{broken",
        None,
        '{"total": ""}',
    ]
    assert schema_pass_rate(texts, schema) == 2 / 8
    assert schema_pass_rate(["null"], {"type": "null"}) == 1


@pytest.mark.parametrize(
    "schema, message",
    [
        ({"type": "thing"}, "JSON Schema is invalid at type"),
        (
            {"$ref": "https://example.org/other.json"},
            r"refers to 'https://example\.org/other\.json'",
        ),
    ],
)
def test_a_bad_schema_is_one_sentence(schema, message):
    with pytest.raises(ValueError, match=message):
        schema_pass_rate(['{"a": 1}'], schema)


# --- fields


def test_field_accuracy_addresses_by_path_and_index():
    assert field_accuracy([INVOICE], [INVOICE]) == 1
    assert field_accuracy([INVOICE], [changed(total="11.5")]) == 5 / 6
    assert field_accuracy([INVOICE], [changed(items=INVOICE["items"][::-1])]) == 2 / 6
    assert field_accuracy([INVOICE], [changed(more="x", total=" 11.50\n")]) == 1
    assert field_accuracy([{"a": 5, "b": None, "c": True}], [{"a": "5", "b": None, "c": True}]) == 1
    assert (
        field_accuracy([{"a": None}], [{"a": "null"}]) == field_accuracy([{"a": None}], [{}]) == 0
    )
    assert field_accuracy([{"a": "x"}, {"a": "y", "b": "z"}], [{"a": "x"}, {"a": "y"}]) == 2 / 3


@pytest.mark.parametrize("prediction", [None, float("nan"), [], ["ACME"], "text", 5, {}, [[1]]])
@pytest.mark.parametrize("metric", [field_accuracy, field_f1, nted, numeric_accuracy])
def test_field_metrics_score_values_that_are_no_object(metric, prediction):
    score = metric([INVOICE], [prediction])
    # Donut's tree edits match whatever characters are alike, wherever they stand.
    assert score <= 0.1 if metric is nted and prediction else score == 0


@pytest.mark.parametrize("metric", [field_accuracy, field_f1, nted, numeric_accuracy])
def test_field_metrics_of_empty_objects_and_no_samples(metric):
    assert metric([{}], [{}]) == 1
    assert metric([{}], [None]) == 0
    with pytest.raises(ValueError, match="no samples"):
        metric([], [])
    with pytest.raises(ValueError, match="2 truths but 1 predictions"):
        metric([{}, {}], [{}])
    with pytest.raises(ValueError, match="Truth 0 is 'x'"):
        metric(["x"], [{}])


def test_field_f1_by_hand():
    # Donut drops indices, so that the order of line items does not matter.
    assert field_f1([INVOICE], [changed(items=INVOICE["items"][::-1])]) == 1
    assert field_f1([INVOICE], [changed(total="x")]) == 5 / (5 + (1 + 1) / 2)
    assert field_f1([{"a": "1"}], [{"a": "1", "b": "2"}]) == 1 / 1.5
    assert field_f1([{"a": ["x", "x"]}], [{"a": "x"}]) == 1 / 1.5
    assert field_f1([{"a": " x "}], [{"a": "x", "b": "", "c": None, "d": []}]) == 1
    assert field_f1([{"a": 5}], [{"a": "5"}]) == 1
    assert field_f1([{"a": 0}], [{}]) == 1  # as published: what is falsy disappears
    assert field_f1([{"a": "0"}], [{}]) == 0
    assert field_f1([{}], [{"a": "1"}]) == 0
    assert field_f1([["x", {"a": 1}]], [["x"]]) == 1  # a mixed list keeps its scalars


def test_nted_by_hand():
    # Deleting {"a": "xyz"} whole costs 1 for the key and 3 for the characters.
    assert nted([{"a": "xyz"}], [{"a": "xyq"}]) == 1 - 1 / 4
    assert nted([{"a": "xyz"}], [{"b": "xyz"}]) == 1 - 1 / 4
    assert nted([{"a": "xyz"}], [{}]) == 0
    assert nted([{}], [{"a": "x"}]) == 0
    assert nted([{"a": "x"}], [{"a": "x", "longer": "y" * 50}]) == 0
    assert nted([INVOICE], [INVOICE]) == 1
    assert nted([{"b": "x", "a": "y"}], [{"a": "y", "b": "x"}]) == 1
    assert nted([{"a": "xy"}, {"a": "z"}], [{"a": "xy"}, {"a": "q"}]) == (1 + 1 - 1 / 2) / 2


def slow_distance(first, second):
    """Tree edit distance straight from its recursive definition, over (label, children)."""

    def remove(node):
        return len(node[0]) - 1 if node[0].startswith("=") else 1

    def rename(node, to):
        leaf, also = node[0].startswith("="), to[0].startswith("=")
        if leaf and also:
            return fields.Levenshtein.distance(node[0][1:], to[0][1:])
        if leaf or also:
            return 1 + remove(node if leaf else to)
        return int(node[0] != to[0])

    @cache
    def forest(left, right):
        if not left and not right:
            return 0
        rows = []
        if left:
            rows.append(forest(left[:-1] + left[-1][1], right) + remove(left[-1]))
        if right:
            rows.append(forest(left, right[:-1] + right[-1][1]) + remove(right[-1]))
        if left and right:
            inner = forest(left[-1][1], right[-1][1])
            rows.append(inner + forest(left[:-1], right[:-1]) + rename(left[-1], right[-1]))
        return min(rows)

    return forest((first,), (second,))


def as_tuple(node):
    return ("=" * node.leaf + node.name, tuple(map(as_tuple, node.children)))


def test_nted_equals_the_recursive_definition():
    rng = random.Random(0)

    def value(depth):
        kind = rng.random()
        if depth == 0 or kind < 0.4:
            return rng.choice(["", "a", "ab", "cab", 0, 7, None])
        if kind < 0.7:
            return {rng.choice("abc"): value(depth - 1) for _ in range(rng.randint(0, 3))}
        return [value(depth - 1) for _ in range(rng.randint(0, 3))]

    for _ in range(150):
        truth, prediction = ({"k": value(2), "l": value(2)} for _ in range(2))
        first, second = (fields._tree(fields.donut_normalize(v)) for v in (prediction, truth))
        empty = slow_distance(("<root>", ()), as_tuple(second))
        expected = 1.0 if not first.children else 0.0
        if empty:
            expected = max(0, 1 - slow_distance(as_tuple(first), as_tuple(second)) / empty)
        assert nted([truth], [prediction]) == pytest.approx(expected), (truth, prediction)


def test_numeric_accuracy():
    assert numeric_accuracy([INVOICE], [changed(total="RM 11.50")]) == 1
    assert numeric_accuracy([INVOICE], [changed(total="11.5")]) == 1
    assert numeric_accuracy([INVOICE], [changed(total="-11.50")]) == 2 / 3
    assert numeric_accuracy([INVOICE], [changed(total="eleven")]) == 2 / 3
    assert numeric_accuracy([{"t": 1234}], [{"t": "1,234.00"}]) == 1
    assert numeric_accuracy([{"t": "(1,234)"}], [{"t": "−1,234"}]) == 1
    assert numeric_accuracy([{"t": "5.000"}], [{"t": "5000"}], locale="de") == 1
    assert numeric_accuracy([{"t": "5.000"}], [{"t": "5000"}], locale="en") == 0
    assert numeric_accuracy([{"t": "১,২৩৪"}], [{"t": "1234"}], "bn") == 1
    assert numeric_accuracy([{"a": True, "b": "x"}], [{}]) == 1  # holds no amount
    assert numeric_accuracy([{"a": 0.1}], [{"a": "0.10"}]) == 1


def test_numeric_accuracy_over_given_paths():
    truth = changed(items=[{"price": "1"}, {"price": "2"}], phone="0123")
    prediction = changed(items=[{"price": "1"}, {"price": "3"}], phone="9")
    assert numeric_accuracy([truth], [prediction], keys=["items.price"]) == 1 / 2
    assert numeric_accuracy([truth], [prediction], keys=["items.0.price", "total"]) == 1
    assert numeric_accuracy([truth], [truth], keys=["company"]) == 0  # unparseable is wrong


def test_field_table():
    tallies = fields.field_table([INVOICE, {"total": "1"}], [changed(total="x"), {"total": "1"}])
    assert tallies["total"].rate == 1 / 2 and tallies["items.price"].rate == 1
    assert tallies["items.price"].whole.tolist() == [2, 0]


# --- tables


def table(*rows):
    cells = ("".join(f"<td>{cell}</td>" for cell in row) for row in rows)
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>"


def test_teds_by_hand():
    truth = table(["a", "bc"], ["d", "e"])  # 6 nodes below the table
    assert teds(truth, truth) == 1
    assert teds(truth, table(["a", "bx"], ["d", "e"])) == pytest.approx(1 - 0.5 / 6)
    assert teds(truth, table(["a", "bc"], ["d"])) == pytest.approx(1 - 1 / 6)
    assert teds(truth, table(["a", "bc"])) == pytest.approx(1 - 3 / 6)
    assert teds(truth, truth.replace("<td>a", "<td colspan='2'>a")) == pytest.approx(1 - 1 / 6)
    assert teds(truth, table(["x", "y"], ["z", "q"]), structure_only=True) == 1
    assert teds(truth, f"<html><body>{truth}</body></html>") == 1
    assert teds(truth, f"<body>{truth}</body>") == 1
    assert teds(table(["<b>a</b>"]), table(["a"])) == pytest.approx(1 - 2 / 3 / 3)
    assert teds("<table><tr><th>a</th></tr></table>", "<table><tr><th>b</th></tr></table>") == 1
    assert teds(table(["a"]), "<TABLE><!-- x --><TR><TD>a</TD></TR></TABLE>") == 1


NO_TABLES = ["", None, "a, b", "<p>no table</p>", "\ud800", "<!-- -->", "<html></html>", "\x00"]
NO_TABLES += ["<div><table><tr></tr></table></div>", "<" * 1000, "x" * 1_000_000]


@pytest.mark.parametrize("prediction", NO_TABLES)
def test_teds_of_invalid_tables_is_0(prediction):
    assert teds(table(["a"]), prediction) == 0
    assert teds(prediction or "", table(["a"])) == 0


def test_teds_of_irregular_tables_has_a_value():
    assert teds("<table></table>", "<table></table>") == 1
    assert teds(table(["a"]), "<table></table>") == 0
    assert 0 < teds(table(["a"]), "<table><tr><td colspan='x'>a") < 1
    assert 0 <= teds(table(["a"]), "<table>" + "<b>" * 5000) <= 1


@pytest.mark.parametrize(
    "text, expected",
    [
        (" <TABLE border='1'>", True),
        ("<!DOCTYPE html>\n<html><head><title>x</title></head><body class='a'><table>", True),
        ("<!-- a --> <!-- b --><body><table>", True),
        ("<html><body><p>Costs</p><table>", False),
        ("<html><body></body></html>", False),
        ("<tables>", False),
        ("a <table>", False),
        ("<!-- x -->" * 5000, False),
        ("<!-- <table>", False),
    ],
)
def test_is_table_recognizes_html_tables(text, expected):
    assert fields.is_table(text) is expected


def test_runaway_tables_and_objects_are_scored_without_alignment(monkeypatch):
    truth, long = table(["a", "b"], ["a", "b"]), table(*[["a", "b"]] * 36_000)
    assert teds(truth, table(*[["a", "b"]] * 40)) == pytest.approx(6 / 120)
    pen = {"name": "Pen"}
    assert nted([{"items": [pen] * 2}], [{"items": [pen] * 4}]) == pytest.approx(1 / 11)

    def never(*_):
        raise AssertionError

    monkeypatch.setattr(fields, "APTED", never)
    assert len(long) > 1_000_000
    assert teds(truth, long) == teds(truth, long, structure_only=True) == 0
    assert nted([INVOICE], [{"items": [pen] * 50_000}]) == 0
    monkeypatch.setattr(fields, "MOST_PAIRS", 10)
    for other in (table(["a", "b"]), table(*[["a", "b"]] * 3)):
        # A long truth is no reason to count less.
        with pytest.raises(AssertionError):
            teds(truth, other)
