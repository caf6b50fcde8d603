"""Metrics of structured readings: JSON fields, amounts, tables.

Lists of dicts in, rates as fractions out. A prediction that is None (a failed sample, JSON that did
not parse) scores 0; a prediction of another type, such as a list for an object, is compared as it
is. Above 400 lines: trees of JSON and of tables share their nodes, costs and the edit distance.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from apted import APTED, Config
from lxml import html
from rapidfuzz.distance import Levenshtein

from data_prep.dataset.schema import parse_json as parse_strict
from ocrkit.metrics.intervals import Tally, rate_of_samples, shares
from ocrkit.metrics.text import normalize, parse_amount

FieldPath = tuple[str | int, ...]
DEEPEST = 100  # levels of nesting in JSON
# Pairs of nodes up to which TEDS is always computed, which takes a second or two; see `teds`.
MOST_PAIRS = 50_000
# Scores below this one are 0 where computing them would take more pairs of nodes.
LOWEST_TEDS = 0.1


def parse_json(text: str | None) -> Any:
    """Parse JSON by the standard, without repairs; None where it is malformed.

    NaN, Infinity and nesting deeper than `DEEPEST` are malformed. The text `null` gives None too.
    """
    if not isinstance(text, str | bytes | bytearray):
        return None
    try:
        value = parse_strict(text)
    except ValueError:
        return None
    level = [value]
    for _ in range(DEEPEST):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return value
    return None


def json_parse_rate(texts: Sequence[str | None]) -> float:
    """Share of texts that are valid JSON."""
    return rate_of_samples(process_json_parse_rate(texts))


def process_json_parse_rate(texts: Sequence[str | None]) -> Tally:
    """Mark with 1 every text that is valid JSON."""
    return shares([parse_json(text) is not None or _is_null(text) for text in texts])


def _is_null(text: str | None) -> bool:
    return isinstance(text, str) and text.strip(" \t\n\r") == "null"


def schema_pass_rate(texts: Sequence[str | None], schema: Mapping[str, Any]) -> float:
    """Share of texts that are JSON and valid under a JSON Schema, over all samples.

    Raises:
        ValueError: the schema is invalid, or refers to another document (nothing is fetched).
    """
    return rate_of_samples(process_schema_pass_rate(texts, schema))


def process_schema_pass_rate(texts: Sequence[str | None], schema: Mapping[str, Any]) -> Tally:
    """Mark with 1 every text that is JSON and valid under a JSON Schema."""
    # Not at the top: jsonschema takes a second to import, more than the rest of the metrics.
    from jsonschema import Draft202012Validator, SchemaError
    from jsonschema.validators import validator_for
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    kind = validator_for(schema, default=Draft202012Validator)
    try:
        kind.check_schema(schema)
        validator = kind(schema, registry=Registry())
        return shares(
            [
                (value is not None or _is_null(text)) and validator.is_valid(value)
                for text, value in ((text, parse_json(text)) for text in texts)
            ]
        )
    except SchemaError as error:
        where = "/".join(map(str, error.path)) or "its root"
        raise ValueError(f"The JSON Schema is invalid at {where}: {error.message}.") from None
    except Unresolvable as error:
        raise ValueError(
            f"The JSON Schema refers to {error.ref!r}, which it does not hold."
        ) from None


# --- fields


def _checked(truths: Sequence, predictions: Sequence) -> tuple[list, list]:
    truths = [truths] if isinstance(truths, dict) else list(truths)
    predictions = [predictions] if isinstance(predictions, dict) else list(predictions)
    if len(truths) != len(predictions):
        raise ValueError(
            f"There are {len(truths)} truths but {len(predictions)} predictions: "
            "give one prediction per truth, None where there is none."
        )
    for number, truth in enumerate(truths):
        if not isinstance(truth, dict | list):
            raise ValueError(f"Truth {number} is {truth!r:.80}: a truth must be a dict or a list.")
    return truths, [None if value != value else value for value in predictions]


def leaves(value: Any, path: FieldPath = ()) -> Iterator[tuple[FieldPath, Any]]:
    """Yield (path, value) of every leaf; a path holds keys, and the indices of list items."""
    if isinstance(value, dict | list):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(child, (*path, key))
    elif path:
        yield path, value


def _canonical(value: object) -> Any:
    """Normalise a leaf for field accuracy: text under the strict profile; null stays null."""
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value)
    return normalize(text, "strict")


def process_field_accuracy(truths: Sequence, predictions: Sequence) -> Tally:
    """Count right leaves and the truth's leaves of every sample."""
    right, whole = [], []
    for truth, prediction in zip(*_checked(truths, predictions)):
        read, known = dict(leaves(prediction)), dict(leaves(truth))
        whole.append(len(known))
        right.append(
            sum(p in read and _canonical(read[p]) == _canonical(v) for p, v in known.items())
        )
    return Tally(np.array(right, dtype=np.int64), np.array(whole, dtype=np.int64))


def field_accuracy(truths: Sequence[dict | list], predictions: Sequence[Any]) -> float:
    """Share of the truth's leaves that are right: same path, list items by index, same text.

    Micro over all leaves, exact after the strict profile; 1 where the truth has no leaf.
    """
    return _or_one(process_field_accuracy(truths, predictions), predictions)


def field_table(truths: Sequence, predictions: Sequence) -> dict[str, Tally]:
    """Count right leaves and leaves of every sample, field by field (paths without indices)."""
    truths, predictions = _checked(truths, predictions)
    fields: dict[str, np.ndarray] = {}
    for number, (truth, prediction) in enumerate(zip(truths, predictions)):
        read = dict(leaves(prediction))
        for path, value in leaves(truth):
            counts = fields.setdefault(_dotted(path), np.zeros((2, len(truths)), dtype=np.int64))
            counts[:, number] += path in read and _canonical(read[path]) == _canonical(value), 1
    return {field: Tally(right, whole) for field, (right, whole) in fields.items()}


def _dotted(path: FieldPath, indices: bool = False) -> str:
    return ".".join(str(key) for key in path if indices or isinstance(key, str))


def _or_one(tally: Tally, predictions: Sequence) -> float:
    """Rate of a tally; where it counts nothing it is 1, or 0 if a prediction failed."""
    rate = rate_of_samples(tally)
    if tally.whole.sum():
        return rate
    return 0.0 if any(value is None or value != value for value in predictions) else 1.0


def donut_normalize(value: Any) -> dict | list:
    """Normalise JSON as Donut's evaluator does (Kim et al. 2022, its `util.py`).

    Values become stripped strings in lists, keys are sorted by length and name, and empty values
    disappear: None, "", [], {}, and, as in Donut, the numbers 0 and False. A list of objects and
    scalars keeps its scalars only.
    """
    if not value:
        return {}
    if isinstance(value, dict):
        children: dict[str, Any] = {}
        for key in sorted(value, key=lambda key: (len(key), key)):
            child = donut_normalize(value[key])
            if child:
                children[key] = child if isinstance(child, list) else [child]
        return children
    if isinstance(value, list):
        if all(isinstance(item, dict) for item in value):
            return [child for child in map(donut_normalize, value) if child]
        kept = [str(item).strip() for item in value if type(item) in (str, int, float)]
        return [item for item in kept if item]
    return [str(value).strip()] if str(value).strip() else []


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, child in value.items():
            yield from _flat(child, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for child in value:
            yield from _flat(child, key)
    else:
        yield key, value


def process_field_f1(truths: Sequence, predictions: Sequence) -> Tally:
    """Count true positives, and true positives plus half of the errors, of every sample."""
    right, whole = [], []
    for truth, prediction in zip(*_checked(truths, predictions)):
        known = Counter(_flat(donut_normalize(truth)))
        read = Counter(_flat(donut_normalize(prediction)))
        right.append((known & read).total())
        whole.append((known.total() + read.total()) / 2)
    return Tally(np.array(right, dtype=float), np.array(whole, dtype=float))


def field_f1(truths: Sequence[dict | list], predictions: Sequence[Any]) -> float:
    """Donut's micro F1 over (path without indices, value); 1 where both sides are empty."""
    return _or_one(process_field_f1(truths, predictions), predictions)


class _Node:
    """Labelled tree for APTED; `cost` is the cost of inserting or deleting the node."""

    def __init__(self, name: str, cost: float = 1, leaf: bool = False, text: Any = None):
        self.name, self.cost, self.leaf, self.text = name, cost, leaf, text
        self.children: list[_Node] = []


class _DonutCosts(Config):
    """Donut's costs: a leaf costs its characters, any other node 1."""

    def delete(self, node: _Node) -> float:
        return node.cost

    insert = delete

    def rename(self, node1: _Node, node2: _Node) -> float:
        if node1.leaf and node2.leaf:
            return Levenshtein.distance(node1.name, node2.name)
        if node1.leaf or node2.leaf:
            return 1 + (node1 if node1.leaf else node2).cost
        return int(node1.name != node2.name)


def _tree(value: dict | list, name: str = "<root>") -> _Node:
    node = _Node(name)
    if isinstance(value, dict):
        node.children = [_tree(child, key) for key, child in value.items()]
    elif all(isinstance(item, dict) for item in value):
        node.children = [_tree(item, "<subtree>") for item in value]
    else:
        node.children = [_Node(item, len(item), leaf=True) for item in value]
    return node


def _cost(node: _Node) -> float:
    return sum(child.cost + _cost(child) for child in node.children)


def process_nted(truths: Sequence, predictions: Sequence) -> Tally:
    """Return the normalised tree edit accuracy of every sample."""
    scores = []
    for truth, prediction in zip(*_checked(truths, predictions)):
        read, known = _tree(donut_normalize(prediction)), _tree(donut_normalize(truth))
        size = _cost(known)
        if size == 0:
            scores.append(float(prediction is not None and not read.children))
            continue
        # An edit changes a tree's cost by at most its own cost, so a tree of twice the cost scores
        # 0. Computing that of a prediction that ran away would take hours.
        if _cost(read) >= 2 * size:
            scores.append(0.0)
            continue
        distance = APTED(read, known, _DonutCosts()).compute_edit_distance()
        scores.append(max(0.0, 1 - distance / size))
    return shares(scores)


def nted(truths: Sequence[dict | list], predictions: Sequence[Any]) -> float:
    """Donut's tree edit accuracy, max(0, 1 - TED(prediction, truth) / TED(empty, truth)), mean.

    Both empty is 1; an empty truth with a prediction that failed or is not empty is 0.
    """
    return rate_of_samples(process_nted(truths, predictions))


def process_numeric_accuracy(
    truths: Sequence, predictions: Sequence, locale: str = "en", keys: Sequence[str] | None = None
) -> Tally:
    """Count right amounts and the truth's amounts of every sample."""
    right, whole = [], []
    for truth, prediction in zip(*_checked(truths, predictions)):
        read, hits, count = dict(leaves(prediction)), 0, 0
        for path, value in leaves(truth):
            amount = parse_amount(value, locale)
            if keys is None and amount is None:
                continue
            if keys is not None and not {_dotted(path), _dotted(path, True)} & set(keys):
                continue
            count += 1
            hits += amount is not None and parse_amount(read.get(path), locale) == amount
        right.append(hits)
        whole.append(count)
    return Tally(np.array(right, dtype=np.int64), np.array(whole, dtype=np.int64))


def numeric_accuracy(
    truths: Sequence[dict | list],
    predictions: Sequence[Any],
    locale: str = "en",
    keys: Sequence[str] | None = None,
) -> float:
    """Share of the truth's amounts that are read right: Decimal equality, sign included.

    Args:
        truths: nested dicts.
        predictions: the readings; an amount that does not parse is wrong.
        locale: grouping and decimal marks (`ocrkit.metrics.text.LOCALES`).
        keys: paths such as `total`, `items.price` (all items) or `items.0.price`; None takes every
            leaf that is a number or parses as an amount.

    Returns:
        Micro over those leaves; 1 where the truths have none.
    """
    tally = process_numeric_accuracy(truths, predictions, locale, keys)
    return _or_one(tally, predictions)


# --- tables


_COMMENT = r"<!--(?:(?!-->).)*-->"
# Markup allowed before the table of a document that is only a table.
_OPENING = re.compile(
    rf"(?:\s|{_COMMENT}|<!doctype\b[^>]*>|<head\b(?:(?!</head>).)*</head>|<(?:html|body)\b[^>]*>)*"
    r"<table\b",
    re.IGNORECASE | re.DOTALL,
)


class _TableCosts(Config):
    """PubTabNet's costs: 1 for another tag or span, the normalised distance for other content."""

    def rename(self, node1: _Node, node2: _Node) -> float:
        if node1.name != node2.name:
            return 1.0
        if node1.text or node2.text:
            longest = max(len(node1.text), len(node2.text))
            return Levenshtein.distance(node1.text, node2.text) / longest
        return 0.0


def teds(truth_html: str, predicted_html: str | None, structure_only: bool = False) -> float:
    """Tree-edit-distance similarity of two HTML tables (PubTabNet, Zhong et al. 2020).

    1 - TED / max(nodes), as published: only `td` cells have content, compared by characters and
    tags; any other difference in tag, colspan or rowspan costs 1. Input is wrapped in html/body;
    without a table directly in the body on both sides the score is 0. Two tables without any row
    score 1.

    One deviation: a prediction that ran away, with so many more nodes than the truth that its score
    must be below `LOWEST_TEDS`, scores 0 where the distance would take more than `MOST_PAIRS` pairs
    of nodes, and so up to hours.

    Args:
        truth_html: the table.
        predicted_html: the reading; None scores 0.
        structure_only: ignore the content of cells (TEDS-S).
    """
    truth, predicted = _table(truth_html), _table(predicted_html)
    if truth is None or predicted is None:
        return 0.0
    most = max(table.xpath("count(.//*)") for table in (predicted, truth))
    if most == 0:
        return 1.0
    # Elements in a cell are no nodes of the tree; nodes that the truth lacks cost 1 each.
    nodes = "count(descendant-or-self::*[not(ancestor::td)])"
    read, known = predicted.xpath(nodes), truth.xpath(nodes)
    if read * known > MOST_PAIRS and 1 - (read - known) / most < LOWEST_TEDS:
        return 0.0
    trees = [_table_tree(table, structure_only) for table in (predicted, truth)]
    return 1.0 - APTED(*trees, _TableCosts()).compute_edit_distance() / most


def is_table(text: str) -> bool:
    """Tell whether a text is an HTML table, alone or in html and body, as in PubTabNet."""
    return _OPENING.match(text) is not None


def _table(source: str | None) -> html.HtmlElement | None:
    if not isinstance(source, str) or not source.strip():
        return None
    # lxml parses a text that begins with a comment as a fragment without a body.
    source = re.sub(rf"\A(?:\s*{_COMMENT})+", "", source, flags=re.DOTALL)
    if not re.search(r"<html\b", source, re.IGNORECASE):
        if not re.search(r"<body\b", source, re.IGNORECASE):
            source = f"<body>{source}</body>"
        source = f"<html>{source}</html>"
    parser = html.HTMLParser(remove_comments=True, encoding="utf-8")
    try:
        page = html.fromstring(source.encode("utf-8", "replace"), parser=parser)
    except (html.etree.LxmlError, ValueError):
        return None
    return next(iter(page.xpath("body/table")), None)


def _table_tree(element: html.HtmlElement, structure_only: bool) -> _Node:
    if element.tag != "td":
        node = _Node(str(element.tag))
        node.children = [_table_tree(child, structure_only) for child in element]
        return node
    spans = [element.get(name, "1").strip() for name in ("colspan", "rowspan")]
    spans = [int(span) if span.isdecimal() else span for span in spans]
    content = [] if structure_only else _tokens(element)[1:-1]
    return _Node(f"td {spans}", text=content)


def _tokens(element: html.HtmlElement) -> list[str]:
    """Characters and tags of a cell in PubTabNet's order, the cell's own tags at the ends."""
    tokens = [f"<{element.tag}>", *(element.text or "")]
    for child in element:
        tokens += _tokens(child)
    if element.tag != "unk":
        tokens.append(f"</{element.tag}>")
    if element.tag != "td":
        tokens += element.tail or ""
    return tokens
