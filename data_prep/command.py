"""How every command of data_prep ends: with an exit code, and one sentence where it failed."""

import sys
from collections.abc import Callable

from .schema import DataError, UsageError


def exit_code(work: Callable[[], int], advice: str = "") -> int:
    """Do a command's work and return its exit code: what it returns, or 1 or 2 where it failed.

    Wrong usage is 2; data that cannot be used, a disk that fails and Ctrl-C are 1. `advice` says
    after the last two what to do about it, such as "run it again".
    """
    advice = advice and f"; {advice}"
    try:
        return work()
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error}{advice}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"Interrupted{advice}.", file=sys.stderr)
        return 1
