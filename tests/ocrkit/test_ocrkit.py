import ast
import subprocess
import sys
from pathlib import Path

import ocrkit

HEAVY = ("torch", "transformers", "trl", "peft", "datasets", "unsloth", "matplotlib")


def _python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_import_loads_nothing_heavy():
    loaded = _python("import sys, ocrkit; print(*sys.modules)").split()
    assert "ocrkit" in loaded
    assert not set(HEAVY) & set(loaded)


def test_metrics_text_and_report_need_no_torch():
    modules = "sys, ocrkit.metrics.edits, ocrkit.metrics.text, ocrkit.evaluation.compare"
    code = f"import {modules}; print('torch' in sys.modules)"
    assert _python(code) == "False"


def test_public_names_load_without_packages_that_unsloth_patches():
    # Unsloth must come before transformers, trl and peft, and load_model decides whether it comes.
    names = ", ".join(ocrkit.__all__)
    loaded = _python(f"import sys; from ocrkit import {names}; print(*sys.modules)").split()
    assert not {"transformers", "trl", "peft", "unsloth"} & set(loaded)


def test_every_public_name_exists():
    for name in ocrkit.__all__:
        assert callable(getattr(ocrkit, name))
    assert "TrainConfig" in dir(ocrkit)


def test_type_checkers_see_the_names_that_load_lazily():
    """The block under TYPE_CHECKING names the same modules as the lazy loader does."""
    source = Path(ocrkit.__file__)
    block = next(node for node in ast.parse(source.read_text()).body if isinstance(node, ast.If))
    imports = {
        alias.name: node.module for node in block.body for alias in node.names if alias.asname
    }
    assert imports == {name: f"ocrkit.{module}" for name, module in ocrkit._MODULE_OF.items()}
    assert source.with_name("py.typed").exists()
