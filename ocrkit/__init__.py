"""Fine-tune vision-language models to read, and know how well they do.

The names below load on first use, so `import ocrkit` stays light and Unsloth can still be the
first of the heavy packages to be imported.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

_MODULE_OF = {
    "TrainConfig": "config",
    "load_data": "data.load",
    "load_model": "models.load",
    "export": "models.write",
    "plan": "training.plan",
    "forecast": "training.forecast",
    "preview_augmentations": "data.augment",
    "find_lr": "training.lr_finder",
    "train": "training.train",
    "predict": "models.read",
    "evaluate": "evaluation.evaluate",
    "baseline": "evaluation.baseline",
    "compare": "evaluation.compare",
}
__all__ = sorted(_MODULE_OF)

# The same names for type checkers and editors, which do not run `__getattr__`.
if TYPE_CHECKING:
    from ocrkit.config import TrainConfig as TrainConfig
    from ocrkit.data.augment import preview_augmentations as preview_augmentations
    from ocrkit.data.load import load_data as load_data
    from ocrkit.evaluation.baseline import baseline as baseline
    from ocrkit.evaluation.compare import compare as compare
    from ocrkit.evaluation.evaluate import evaluate as evaluate
    from ocrkit.models.load import load_model as load_model
    from ocrkit.models.read import predict as predict
    from ocrkit.models.write import export as export
    from ocrkit.training.forecast import forecast as forecast
    from ocrkit.training.lr_finder import find_lr as find_lr
    from ocrkit.training.plan import plan as plan
    from ocrkit.training.train import train as train


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'ocrkit' has no attribute {name!r}")
    return getattr(import_module(f"ocrkit.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if "IPython" in sys.modules:
    from ocrkit.display.notebook import explain_missing_names

    explain_missing_names()
