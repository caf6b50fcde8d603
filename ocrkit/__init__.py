"""Fine-tune vision-language models to read, and know how well they do.

The names below load on first use, so `import ocrkit` stays light and Unsloth can still be the
first of the heavy packages to be imported.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

_MODULE_OF = {
    "TrainConfig": "config",
    "load_data": "data",
    "load_model": "model",
    "export": "export",
    "plan": "plan",
    "preview_augmentations": "augment",
    "find_lr": "lr_finder",
    "train": "train",
    "predict": "predict",
    "evaluate": "systems",
    "compare": "report",
}
__all__ = sorted(_MODULE_OF)


class _Package(ModuleType):
    """Keeps `ocrkit.train` the function where importing its module would put the module."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and _MODULE_OF.get(name) == name:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'ocrkit' has no attribute {name!r}")
    return getattr(import_module(f"ocrkit.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
