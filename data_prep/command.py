"""How every command of data_prep ends: with an exit code, and one sentence where it failed."""

import argparse
import re
import sys
from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .files import sentence
from .schema import DataError, UsageError

REQUIREMENTS = Path(__file__).parents[1] / "requirements.txt"
# Packages that are imported under another name than they are installed by.
IMPORT_NAMES = {"pillow": "PIL", "pyyaml": "yaml"}


def output_path(text: str) -> Path:
    """The type of an option that names a file or folder to write.

    Raises:
        argparse.ArgumentTypeError: it is empty, which as a path would be the working folder, or
            holds a NUL.
    """
    if "\0" in text:
        raise argparse.ArgumentTypeError("it holds a NUL, which no name of a file may")
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty; name a file or folder (. is this one)")
    return Path(text)


def expand_home(value: Any) -> Any:
    """A path with the home folder for the `~/` that it begins with.

    Args:
        value: a path or text, a list, or all options of a command line; everything else is
            returned as it is.
    """
    if isinstance(value, Path):
        return value.expanduser()
    if isinstance(value, str) and value.startswith("~/"):
        return str(Path(value).expanduser())
    if isinstance(value, list | tuple):
        return type(value)(map(expand_home, value))
    if isinstance(value, argparse.Namespace):
        return argparse.Namespace(**{name: expand_home(v) for name, v in vars(value).items()})
    return value


def exit_code(work: Callable[[], int], advice: str = "") -> int:
    """Do a command's work and return its exit code: what it returns, or 1 or 2 where it failed.

    Wrong usage is 2; data that cannot be used, a disk that fails and Ctrl-C are 1. `advice` says
    after the last two what to do about it, such as "run it again".
    """
    advice = advice and f"; {advice}."
    try:
        return work()
    except ImportError as error:
        print(f"error: {import_problem(error)}", file=sys.stderr)
        return 1
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        text = sentence(error)
        # A whole sentence names its own way out.
        print(f"error: {text}" + (advice or ".") * (not text.endswith(".")), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"Interrupted{advice or '.'}", file=sys.stderr)
        return 1


def requirements() -> dict[str, str]:
    """{package: its requirement, such as "pillow>=11,<14"} of the kit, without markers."""
    try:
        lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    except OSError:  # installed as a package, which carries them in its metadata
        try:
            lines = metadata.requires("ocrkit") or []
        except metadata.PackageNotFoundError:
            lines = []
    wanted = [re.split("[#;]", line)[0].strip() for line in lines]
    return {re.match(r"[\w.-]+", text)[0]: text for text in wanted if text}


def can_be_found(package: str) -> bool:
    """Whether a package is where `import` looks, without importing it."""
    try:
        return find_spec(IMPORT_NAMES.get(package, package)) is not None
    except (ImportError, ValueError):
        return False


def import_problem(error: BaseException) -> str:
    """The sentence for a failed import: the package that is missing or broken, and its install."""
    while isinstance(error.__cause__, ImportError):
        error = error.__cause__
    text = " ".join(str(error).split())
    module = getattr(error, "name", None) or ""
    names = {name: package for package, name in IMPORT_NAMES.items()}
    package = names.get(module.partition(".")[0], module.partition(".")[0])
    wanted = requirements()
    if not package or can_be_found(package):
        # transformers and datasets say in words of their own which package they lack.
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
