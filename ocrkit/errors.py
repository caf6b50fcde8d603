"""Exceptions of the kit; `choice()` rejects invalid settings, `clear_frames()` frees tensors."""

import traceback
from collections.abc import Sequence
from difflib import get_close_matches

from data_prep.dataset.schema import DataError as DataError


class ConfigError(ValueError):
    """Invalid setting: the message states the value, the cause and the way out."""


def choice(name: str, value: str, allowed: Sequence[str]) -> None:
    """Refuse a value that is not among the allowed ones.

    Raises:
        ConfigError: with the setting's name, the value, the allowed ones and the nearest.
    """
    if value not in allowed:
        nearest = get_close_matches(value, allowed, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
        raise ConfigError(f"{name}={value!r} is not one of {', '.join(allowed)}{hint}")


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
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__
