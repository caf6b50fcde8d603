"""Exceptions of the kit; `choice()` rejects invalid settings, `clear_frames()` frees tensors."""

import traceback
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from data_prep.dataset.files import error_chain
from data_prep.dataset.schema import DataError as DataError


class ConfigError(ValueError):
    """Invalid setting: the message states the value, the cause and the way out."""


class NotRunError(ConfigError):
    """Cell above that this kernel has not run; a notebook shows the message alone."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def choice(name: str, value: str, allowed: Sequence[str]) -> None:
    """Refuse a value that is not among the allowed ones.

    Raises:
        ConfigError: with the setting's name, the value, the allowed ones and the nearest.
    """
    if value not in allowed:
        hint = nearest_hint(value, allowed)
        end = f"; {hint}" if hint else "."
        raise ConfigError(f"{name}={value!r} is not one of {', '.join(allowed)}{end}")


def nearest_hint(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Ask "did you mean" for the known name nearest to a misspelt one; `otherwise` without one."""
    nearest = get_close_matches(name, known, n=1)
    return f"did you mean {nearest[0]!r}?" if nearest else otherwise


class ModelError(RuntimeError):
    """Model that cannot be loaded or written: value, cause and way out in one sentence."""


class HubError(RuntimeError):
    """A repository that cannot be pushed to: value, cause and way out in one sentence."""


class TrainingError(RuntimeError):
    """Training that cannot continue: the message states the place, the cause and the way out."""


def clear_frames(error: BaseException) -> None:
    """Clear the local variables of all functions that an exception and its causes went through.

    Their tensors would live as long as the exception does, and `empty_cache` could not free them.
    """
    for link in error_chain(error):
        traceback.clear_frames(link.__traceback__)
