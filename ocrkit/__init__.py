"""Fine-tune vision-language models to read, and know how well they do.

The names below load on first use, so `import ocrkit` stays light and Unsloth can still be the
first of the heavy packages to be imported.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

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

# The same names for type checkers and editors, which do not run `__getattr__`.
if TYPE_CHECKING:
    from ocrkit.augment import preview_augmentations as preview_augmentations
    from ocrkit.config import TrainConfig as TrainConfig
    from ocrkit.data import load_data as load_data
    from ocrkit.export import export as export
    from ocrkit.lr_finder import find_lr as find_lr
    from ocrkit.model import load_model as load_model
    from ocrkit.plan import plan as plan
    from ocrkit.predict import predict as predict
    from ocrkit.report import compare as compare
    from ocrkit.systems import evaluate as evaluate
    from ocrkit.train import train as train


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
