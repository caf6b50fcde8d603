"""Setting values: declare the bounds and choices of a setting, parse text by the setting's type.

A value comes as Python's own, as text from a shell or papermill, or from a YAML file. Text is
parsed by the type of its setting and never by YAML 1.1, which reads 010 as 8, 1:30 as 90, 1_000 as
1000 and `on` as true.
"""

import re
import reprlib
import types
import typing
from contextlib import suppress
from dataclasses import field
from pathlib import Path
from typing import Any

import yaml

from data_prep.dataset.command import LARGEST_INT, parse_float, parse_int, range_error
from ocrkit.errors import ConfigError, choice

_TRUE, _FALSE = ("true", "yes", "on"), ("false", "no", "off")
_NONE = ("none", "null", "~", "")
_EXAMPLES = {
    int: "a whole number such as 12 or 1e6",
    float: "a number such as 0.5 or 1e-4",
    bool: "true or false",
    str: "a text",
    list: "names such as a,b or [a, b]",
    dict: "names and values such as {name: value}",
}
_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 200


def setting(
    default: Any,
    help: str,
    *,
    choices: typing.Sequence[str] = (),
    may_be_empty: bool = False,
    **bounds: float,
) -> Any:
    """Declare a setting of TrainConfig.

    Args:
        choices: the only texts that it may be; none: any.
        may_be_empty: whether an empty text is a value.
        bounds: of a number: at_least, above, at_most, below.
    """
    limits = {"choices": choices, "may_be_empty": may_be_empty, "bounds": bounds}
    metadata = {"help": help, "limits": limits}
    if isinstance(default, dict | list):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def parse_setting(name: str, kind: Any, value: Any, limits: typing.Mapping[str, Any]) -> Any:
    """Parse a setting's value by its type and check its limits.

    Args:
        kind: the type, such as `int | None`; of several, text is parsed as the first.
        limits: as `setting` declared them.

    Raises:
        ConfigError: another type, out of bounds, or none of the choices.
    """
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if types.NoneType in options and (
        value is None or (isinstance(value, str) and value.strip().lower() in _NONE)
    ):
        return None
    target = next(option for option in options if option is not types.NoneType)
    target = typing.get_origin(target) or target
    parsed = _converted(target, value)
    if isinstance(parsed, str) and str in options:
        if not parsed.strip() and not limits["may_be_empty"]:
            raise ConfigError(f"{name} is empty; give a value, or leave it out.")
        if limits["choices"]:
            choice(name, parsed, limits["choices"])
        return parsed
    if not isinstance(parsed, target) or (target is not bool and isinstance(parsed, bool)):
        raise ConfigError(
            f"{name}={_short.repr(value)} must be of type {target.__name__}: {_EXAMPLES[target]}."
        )
    if target in (int, float):
        bounds = limits["bounds"]
        if target is int:
            bounds = {"at_most": LARGEST_INT, **bounds}
        if problem := range_error(parsed, **bounds):
            raise ConfigError(f"{name}={_short.repr(parsed)} {problem}.")
    return parsed


def _converted(target: type, value: Any) -> Any:
    """Convert a value to the target type; return it unchanged where that is impossible."""
    if isinstance(value, bool):
        return value
    with suppress(ValueError, OverflowError, RecursionError, yaml.YAMLError):
        if target is float and isinstance(value, int | str):
            return parse_float(value) if isinstance(value, str) else float(value)
        if target is int and isinstance(value, float) and value.is_integer():
            return int(value)
        if target is int and isinstance(value, str):
            return parse_int(value)
        if target is str and isinstance(value, int | float):
            # A run called 2024 is a number to papermill and to Python.
            return str(value)
        if target is bool and isinstance(value, str):
            word = value.strip().lower()
            return True if word in _TRUE else False if word in _FALSE else value
        if target is list:
            return _names(value)
        if target is dict:
            value = yaml.load(value, _CoreLoader) if isinstance(value, str) else value
            named = isinstance(value, dict) and all(isinstance(key, str) for key in value)
            return value if named else None
    return value


def _names(value: object) -> Any:
    """Parse a list of names, from a list or text such as `a,b` or `[a, b]`; None for a bad one."""
    if isinstance(value, str):
        listed = value.strip().startswith(("[", "{"))
        value = yaml.load(value, yaml.BaseLoader) if listed else value.split(",")
    if not isinstance(value, list):
        return value
    plain = all(isinstance(v, str | int | float) and not isinstance(v, bool) for v in value)
    names = [str(name).strip() for name in value] if plain else []
    return names if names and all(names) else None


class _CoreLoader(yaml.SafeLoader):
    """A YAML loader with the scalars of YAML 1.2's core schema; all others stay text."""


_CoreLoader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:(?:(?:0|[1-9][0-9]*)\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
        r"|(?:0|[1-9][0-9]*)[eE][-+]?[0-9]+|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
    ("merge", r"<<", "<"),
):
    _CoreLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), list(_first)
    )


def read_settings(path: str | Path) -> dict[str, Any]:
    """Read a YAML file of settings; scalars stay text as written, but nulls are None.

    Raises:
        ConfigError: the file cannot be read, or holds no `name: value`.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        values = yaml.load(text, _CoreLoader) or {}
        written = yaml.load(text, yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); give another.") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"{path} must hold settings as `name: value`, one per line.")
    scalars = {k: v for k, v in (written or {}).items() if isinstance(v, str)}
    return {k: None if value is None else scalars.get(k, value) for k, value in values.items()}
