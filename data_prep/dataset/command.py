"""Command lines: numbers, empty values, `~/`, exit codes, and errors in one sentence.

`ocrkit` parses its own options with the same functions.
"""

import argparse
import io
import math
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from data_prep.dataset.files import sentence
from data_prep.dataset.schema import DataError, UsageError, one_line

REQUIREMENTS = Path(__file__).parents[2] / "requirements.txt"
# Packages that are imported under another name than they are installed by.
IMPORT_NAMES = {"fonttools": "fontTools", "pillow": "PIL", "pyyaml": "yaml"}
MOST_WORKERS = 1024
Number = TypeVar("Number", int, float)
# The largest int of C, on which many libraries are built.
LARGEST_INT = 2**31 - 1
# Decimal digits without leading zeros, which YAML 1.1 takes for octal, and without underscores;
# re.ASCII excludes the digits of other scripts.
_WHOLE = re.compile(r"[+-]?(0|[1-9]\d*)", re.ASCII)
_NUMBER = re.compile(r"[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_NOT_FINITE = re.compile(r"[+-]?\.?(nan|inf|infinity)", re.IGNORECASE)


def expand_home(value: Any) -> Any:
    """Expand a leading `~/` to the home folder; `~name` is left alone, as a file may be called so.

    Args:
        value: a path or text, a list, or all options of a command line; everything else is
            returned as it is.
    """
    if isinstance(value, str | Path) and str(value).startswith("~/"):
        return type(value)(Path(value).expanduser())
    if isinstance(value, list | tuple):
        return type(value)(map(expand_home, value))
    if isinstance(value, argparse.Namespace):
        return argparse.Namespace(**{name: expand_home(v) for name, v in vars(value).items()})
    return value


def parse_int(text: str) -> int:
    """Parse a whole number such as 12, -1 or 1e6.

    Raises:
        ValueError: the text is no whole number in decimal digits.
    """
    text = text.strip()
    if _WHOLE.fullmatch(text):
        return int(text)
    if _NUMBER.fullmatch(text) and float(text).is_integer():
        return int(float(text))
    raise ValueError(f"{text!r} is no whole number such as 12 or 1e6.")


def parse_float(text: str) -> float:
    """Parse a number such as 0.5, 12 or 1e-4; nan and inf are parsed, too, for `range_error`.

    Raises:
        ValueError: the text is no number in decimal digits.
    """
    text = text.strip()
    if _NUMBER.fullmatch(text):
        return float(text)
    if _NOT_FINITE.fullmatch(text):
        return float(text.replace(".", ""))
    raise ValueError(f"{text!r} is no number such as 0.5 or 1e-4.")


def range_error(
    value: float,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> str | None:
    """Return "must be at least 1" or the like for a number out of a range, otherwise None."""
    if not math.isfinite(value):
        return "must be a finite number"
    bounds = {"at least": at_least, "above": above, "at most": at_most, "below": below}
    if (
        (at_least is not None and value < at_least)
        or (above is not None and value <= above)
        or (at_most is not None and value > at_most)
        or (below is not None and value >= below)
    ):
        bounds = {words: bound for words, bound in bounds.items() if bound is not None}
        return "must be " + " and ".join(f"{words} {bound}" for words, bound in bounds.items())
    return None


def int_option(**bounds: float) -> Callable[[str], int]:
    """Return the `type` of an argparse option for whole numbers in bounds of `range_error`."""
    return partial(_parse_bounded, parse=parse_int, bounds=bounds)


def float_option(**bounds: float) -> Callable[[str], float]:
    """Return the `type` of an argparse option for finite numbers in bounds of `range_error`."""
    return partial(_parse_bounded, parse=parse_float, bounds=bounds)


def _parse_bounded(text: str, parse: Callable[[str], Number], bounds: dict) -> Number:
    try:
        value = parse(text)
        problem = range_error(value, **bounds)
    except (ValueError, OverflowError) as error:
        raise argparse.ArgumentTypeError(str(error)[:200]) from None
    if problem:
        raise argparse.ArgumentTypeError(f"{text[:100]} {problem}")
    return value


def check_choice(option: str, value: str, choices: Iterable[str]) -> str:
    """Return a value that is one of an option's choices; UsageError for others."""
    if value not in choices:
        raise UsageError(f"--{option} is {value!r}, but takes one of {', '.join(choices)}.")
    return value


def check_count(option: str, value: int | None, least: int = 1) -> None:
    """Raise UsageError for a count below `least`; None is no count."""
    if value is not None and value < least:
        raise UsageError(f"--{option} is {value}, but takes {least} or more.")


# Types of options that most commands have. Commands themselves refuse counts below 1.
COUNT = int_option(at_most=10**9)
WORKERS = int_option(at_most=MOST_WORKERS)
SEED = int_option(at_least=0, at_most=2**32 - 1)  # what numpy and torch take


def check_arguments(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Exit with code 2 where an argument is empty, such as an unset shell variable, or has a NUL.

    As a path the empty text would be the working folder.
    """
    option = ""
    for argument in arguments:
        name, equals, value = argument.partition("=")
        joined = name.startswith("--") and equals
        where = f" for {name if joined else option}" if joined or option else ""
        if not argument.strip() or (joined and not value.strip()):
            parser.error(f"an empty value is given{where}; give one, or leave it out.")
        if "\0" in argument:
            parser.error(f"the value{where} holds a NUL, which no file name may; remove it.")
        if argument.startswith("-"):
            option = argument


def parse_arguments(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None
) -> argparse.Namespace:
    """Parse a command line (None: that of the process) and expand `~/` in its values.

    Exits with code 2 for wrong usage, empty values included.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    check_arguments(parser, arguments)
    return expand_home(parser.parse_args(arguments))


def escape_unprintable() -> None:
    """Let stdout and stderr print escapes for characters that their encoding cannot hold."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def exit_code(work: Callable[[], int], advice: str = "") -> int:
    """Run a command's work and return its exit code: that of `work`, or 1 or 2 where it failed.

    Wrong usage is 2; data that cannot be used, errors of the disk and Ctrl-C are 1.

    Args:
        work: returns the exit code.
        advice: added to errors of the disk and Ctrl-C, such as "run it again".
    """
    advice = advice and f"; {advice}."
    escape_unprintable()
    try:
        return work()
    except ImportError as error:
        print(f"error: {import_problem(error)}", file=sys.stderr)
        return 1
    except UsageError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except DataError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    except OSError as error:
        text = one_line(sentence(error))
        # A whole sentence states its own way out.
        if not text.endswith("."):
            text += advice or "."
        print(f"error: {text}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"Interrupted{advice or '.'}", file=sys.stderr)
        return 1


def requirement_lines() -> list[str]:
    """Requirements of the kit, such as "pillow>=11,<14; python_version < '3.13'"."""
    try:
        lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    except OSError:  # installed as a package: its metadata has them
        try:
            lines = metadata.requires("ocrkit") or []
        except metadata.PackageNotFoundError:
            lines = []
    texts = (line.partition("#")[0].strip() for line in lines)
    return [text for text in texts if re.match(r"[\w.-]+", text)]


def requirements() -> dict[str, str]:
    """Requirements of the kit by package, such as "pillow>=11,<14", without markers."""
    texts = [line.partition(";")[0].strip() for line in requirement_lines()]
    return {re.split(r"[^\w.-]", text)[0]: text for text in texts}


def can_be_found(package: str) -> bool:
    """Whether `import` would find a package, without importing it."""
    try:
        return find_spec(IMPORT_NAMES.get(package, package)) is not None
    except (ImportError, ValueError):
        return False


def import_problem(error: BaseException) -> str:
    """Describe a failed import: the package that is missing or broken, and how to install it."""
    while isinstance(error.__cause__, ImportError):
        error = error.__cause__
    text = " ".join(str(error).split())
    module = getattr(error, "name", None) or ""
    names = {name: package for package, name in IMPORT_NAMES.items()}
    package = names.get(module.partition(".")[0], module.partition(".")[0])
    wanted = requirements()
    if not package or can_be_found(package):
        # transformers and datasets name the missing package in the message only.
        lacking = [name for name in wanted if not can_be_found(name)]
        package = next((name for name in lacking if name.lower() in text.lower()), package)
    install = f"`pip install '{wanted.get(package, package)}'`"
    if package and not can_be_found(package):
        return f"the package {package} is not installed; install it with {install}."
    return (
        f"a package cannot be imported ({text}); install the tested versions with "
        + (install if package in wanted else "`pip install -r requirements.txt`")
        + ", which `python -m ocrkit doctor` compares with those installed."
    )
