"""ConfigError and `choice()`: reject invalid settings."""

from collections.abc import Sequence
from difflib import get_close_matches

from data_prep.dataset.schema import DataError as DataError


class ConfigError(ValueError):
    """A setting that cannot be: the message states the value, the cause and the way out."""


def choice(name: str, value: str, allowed: Sequence[str]) -> None:
    """Refuse a value that is not among the allowed ones.

    Raises:
        ConfigError: with the name, the value, what it may be and which is the nearest.
    """
    if value not in allowed:
        nearest = get_close_matches(value, allowed, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
        raise ConfigError(f"{name}={value!r} is not one of {', '.join(allowed)}{hint}")


class ModelError(RuntimeError):
    """A model that cannot be loaded or written: value, cause and way out in one sentence."""


class HubError(RuntimeError):
    """A repository that cannot be pushed to: value, cause and way out in one sentence."""


class TrainingError(RuntimeError):
    """A run that cannot go on: the message states where, the cause and the way out."""
