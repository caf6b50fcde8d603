"""Augmentation settings: the ranges that each augmentation of training pictures may have."""

from collections.abc import Mapping
from typing import Any

from ocrkit.errors import ConfigError, choice, nearest_hint

# {augmentation: (lowest, highest sensible value, the range [low, high] that one number s means)}
AUGMENTATIONS = {
    "rotation": (-15, 15, "[-s, s] degrees"),
    "perspective": (0, 0.3, "[0, s]: way of each corner as a share of width and height"),
    "brightness": (0.1, 3, "[1 - s, 1 + s]: factor"),
    "contrast": (0.1, 3, "[1 - s, 1 + s]: factor"),
    "noise": (0, 0.5, "[0, s]: standard deviation as a share of white"),
    "blur": (0, 10, "[0, s]: standard deviation in pixels"),
    "erosion": (0, 5, "[0, s]: pixels that strokes lose on each side"),
    "dilation": (0, 5, "[0, s]: pixels that strokes gain on each side"),
    "shadow": (0, 0.9, "[0, s]: share of the light that is taken away"),
    "jpeg": (1, 95, "[s, 95]: quality"),
}


def augmentation_ranges(settings: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Return the lowest and highest value of every augmentation that `settings` names.

    Besides the names of `AUGMENTATIONS` the settings may hold `probability` (0 to 1, of each
    augmentation by itself) and `device` (cpu or cuda).

    Raises:
        ConfigError: an unknown name, with the nearest; a value out of bounds; no augmentation.
    """
    ranges = {}
    for name, value in settings.items():
        if name == "device":
            choice("augmentation device", value, ("cpu", "cuda"))
            continue
        low, high, meaning = AUGMENTATIONS.get(name, (0, 1, ""))
        if name != "probability" and not meaning:
            names = [*AUGMENTATIONS, "probability", "device"]
            hint = nearest_hint(str(name), names, f"there are {', '.join(names)}.")
            raise ConfigError(f"{name!r} is no augmentation; {hint}")
        pair = list(value) if isinstance(value, list | tuple) else _range_of(name, value)
        fits = all(type(v) in (int, float) and low <= v <= high for v in pair)
        if len(pair) != 2 or not fits or pair[0] > pair[1]:
            raise ConfigError(
                f"augmentation {name}={value!r} is neither a strength nor [low, high] between "
                f"{low} and {high}."
            )
        if name != "probability":
            ranges[name] = (float(pair[0]), float(pair[1]))
    if settings and not ranges:
        raise ConfigError(
            f"augmentation={dict(settings)!r} names nothing to do; name one of "
            f"{', '.join(AUGMENTATIONS)}, or leave it empty."
        )
    return ranges


def _range_of(name: str, strength: Any) -> list:
    """Return the range that one number means; a value of another type stays, to be refused."""
    if type(strength) not in (int, float):
        return [strength, strength]
    if name == "rotation":
        return [-strength, strength]
    if name in ("brightness", "contrast"):
        return [1 - strength, 1 + strength]
    return [strength, 95] if name == "jpeg" else [0, strength]
