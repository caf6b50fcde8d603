"""What a setting that cannot be is refused with."""


class ConfigError(ValueError):
    """A setting that cannot be: the message states the value, the cause and the way out."""


def choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is not among the allowed ones.

    Raises:
        ConfigError: with the name, the value and what it may be.
    """
    if value not in allowed:
        raise ConfigError(f"{name}={value!r} is not one of {', '.join(allowed)}.")
