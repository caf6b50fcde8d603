"""Parameters cell of a notebook: which names it, and papermill's `-p`, assigned."""

import ast
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# First line of the cell in which papermill assigns what `-p` gave.
_INJECTED = "# Parameters"


def parameters(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters among a notebook's globals: {name: present value}.

    They are what the parameters cell assigned when it was last run, and the cell that papermill
    adds after it. The parameters cell is the one that assigns `recipe`; in a notebook without
    `recipe` the first that assigns nothing but literals. Names that other cells assigned are no
    parameters. Without IPython's history of cells (`In`) all plain values of `namespace` are.
    """
    cells = namespace.get("In")
    names = _assigned(cells) if isinstance(cells, list) and any(cells) else namespace
    plain = (str, int, float, bool, list, dict, type(None))
    values = {name: namespace[name] for name in names if name in namespace}
    return {n: v for n, v in values.items() if not n.startswith("_") and isinstance(v, plain)}


def _assigned(cells: Sequence[str]) -> list[str]:
    """Names that the last run of the parameters cell and papermill's cells after it assign."""
    bodies = [_statements(str(cell)) for cell in cells]
    injected = [str(cell).startswith(_INJECTED) for cell in cells]
    own = [number for number, body in enumerate(bodies) if body and not injected[number]]
    literal = next((n for n in own if all(map(_is_literal, bodies[n]))), None)
    marks = {"recipe"}
    if not any("recipe" in _names(bodies[n]) for n in own) and literal is not None:
        marks = set(_names(bodies[literal]))
    start = max((n for n in own if marks & {*_names(bodies[n])}), default=0)
    chosen = [start, *(n for n in range(start, len(cells)) if injected[n])]
    return [name for number in chosen for name in _names(bodies[number])]


def _statements(cell: str) -> list[ast.stmt]:
    try:
        return ast.parse(cell).body
    except (SyntaxError, ValueError):  # a cell that failed
        return []


def _is_literal(statement: ast.stmt) -> bool:
    """Whether a statement assigns a literal, such as a number or a list of texts."""
    if not isinstance(statement, ast.Assign | ast.AnnAssign) or statement.value is None:
        return False
    try:
        ast.literal_eval(statement.value)
    except ValueError:
        return False
    return True


def _names(body: Sequence[ast.stmt]) -> list[str]:
    def targets(statement: ast.stmt) -> Iterator[ast.expr]:
        if isinstance(statement, ast.Assign):
            yield from statement.targets
        elif isinstance(statement, ast.AnnAssign):
            yield statement.target

    listed = (target for statement in body for target in targets(statement))
    return [target.id for target in listed if isinstance(target, ast.Name)]
