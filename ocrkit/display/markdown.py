"""Markdown escapes for names that others chose: plain text, code spans and fenced blocks."""

import re
from collections.abc import Collection, Iterable, Sequence

from data_prep.dataset.schema import one_line

# An underscore within a word is plain text, as in `exact_match`.
_BACKSLASHED = re.compile(r"[\\`*\[\]|~$#]|(?<![^\W_])_|_(?![^\W_])")
# HTML, entities, mentions, and what GitHub makes a link of without brackets.
_ENTITIES = re.compile(r"[&<>@]|:(?=//)|(?<=\bwww)\.", re.IGNORECASE)


def markdown_text(value: object) -> str:
    """Escape a value for Markdown, in a paragraph, a heading or a table cell.

    White space becomes single spaces; control characters and bidirectional overrides are written
    as escapes such as `\\u202e`.
    """
    text = _BACKSLASHED.sub(r"\\\g<0>", one_line(value))
    return _ENTITIES.sub(lambda match: f"&#{ord(match[0])};", text)


def markdown_code(value: object, in_table: bool = False) -> str:
    """Write a value as a code span on one line; in a table a bar needs a backslash even there."""
    text = one_line(value)
    if not text:
        return ""
    fence = "`" * (_longest_run(text) + 1)
    space = " " if "`" in (text[0], text[-1]) else ""
    text = text.replace("|", "\\|") if in_table else text
    return f"{fence}{space}{text}{space}{fence}"


def markdown_block(text: str, language: str) -> str:
    """Write lines as a fenced code block, under a fence that none of them can close."""
    fence = "`" * max(3, _longest_run(text) + 1)
    lines = (re.sub(r"\S+", lambda word: one_line(word[0]), line) for line in text.split("\n"))
    return "\n".join([fence + language, *lines, fence])


def markdown_table(
    head: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[int] = ()
) -> list[str]:
    """Return the lines of a table of cells that are Markdown already.

    Args:
        head: titles of the columns.
        rows: cells of each row.
        right: numbers of the columns that are aligned to the right, from 0.
    """
    rule = ["---:" if number in right else "---" for number in range(len(head))]
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
