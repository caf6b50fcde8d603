"""Exceptions of the kit, and `choice()`, which rejects invalid settings."""

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
