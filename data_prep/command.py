"""How every command of data_prep ends: with an exit code, and one sentence where it failed."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from .files import sentence
from .schema import DataError, UsageError


def output_path(text: str) -> Path:
    """The type of an option that names a file or folder to write.

    Raises:
        argparse.ArgumentTypeError: it is empty, which as a path would be the working folder.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty; name a file or folder (. is this one)")
    return Path(text)


def exit_code(work: Callable[[], int], advice: str = "") -> int:
    """Do a command's work and return its exit code: what it returns, or 1 or 2 where it failed.

    Wrong usage is 2; data that cannot be used, a disk that fails and Ctrl-C are 1. `advice` says
    after the last two what to do about it, such as "run it again".
    """
    advice = advice and f"; {advice}."
    try:
        return work()
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
