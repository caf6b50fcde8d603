"""House rules: which way imports run, how deep they go, and where modules and tests lie.

The import contracts are `[tool.importlinter]` of pyproject.toml.
"""

import ast
import functools
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import grimp
import pytest

import ocrkit

ROOT = Path(__file__).parents[1]
PACKAGES = ("ocrkit", "data_prep")


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """{module: modules that it imports} of both packages, without imports for type checkers."""
    graph = grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True, cache_dir=None)
    return {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}


def depths(imports: dict[str, set[str]]) -> dict[str, int]:
    """{name: length of the longest chain of imports that starts with it}."""

    @functools.cache
    def depth(name: str) -> int:
        return 1 + max((depth(target) for target in imports.get(name, ())), default=0)

    return {name: depth(name) for name in imports}


def test_import_contracts_are_kept():
    program = Path(sys.executable).with_name("lint-imports")
    command = [program, "--no-logo", "--no-cache", "--config", ROOT / "pyproject.toml"]
    linted = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_no_chain_of_imports_is_longer_than_12_files(imports):
    deep = {name: depth for name, depth in depths(imports).items() if depth > 12}
    assert not deep


def test_wings_and_top_level_files_of_ocrkit_lie_on_8_floors(imports):
    def wing(module: str) -> str:
        return ".".join(module.split(".")[:2])

    wings: dict[str, set[str]] = {}
    for module, targets in imports.items():
        if module.startswith("ocrkit."):
            own = {wing(name) for name in targets if name.startswith("ocrkit.")}
            wings.setdefault(wing(module), set()).update(own - {wing(module)})
    assert max(depths(wings).values()) <= 8, depths(wings)


def test_ocrkit_has_at_most_18_entries():
    entries = [path.name for path in (ROOT / "ocrkit").iterdir() if path.name != "__pycache__"]
    assert len(entries) <= 18, sorted(entries)


def modules() -> list[Path]:
    """Files of both packages, but for __init__.py."""
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return sorted(path.relative_to(ROOT) for path in paths if path.name != "__init__.py")


@pytest.mark.parametrize("module", modules(), ids=str)
def test_every_module_has_its_test_file(module):
    expected = Path("tests") / module.parent / f"test_{module.stem.strip('_')}.py"
    text = (ROOT / expected).read_text("utf-8") if (ROOT / expected).is_file() else ""
    assert "def test_" in text, f"{module} has no tests in {expected}"


def test_test_files_of_a_package_are_named_after_the_module_they_test():
    """As `test_collate.py` or, for a topic of its own, `test_collate_control_tokens.py`."""
    strays = []
    for package in PACKAGES:
        for path in (ROOT / "tests" / package).rglob("test_*.py"):
            folder = ROOT / path.parent.relative_to(ROOT / "tests")
            names = [module.stem.strip("_") for module in folder.glob("*.py")] + [folder.name]
            if not any(f"{path.stem}_".startswith(f"test_{name}_") for name in names):
                strays.append(str(path.relative_to(ROOT)))
    assert not strays


@pytest.mark.parametrize("module", modules(), ids=str)
def test_a_module_above_400_lines_states_the_reason(module):
    text = (ROOT / module).read_text("utf-8")
    docstring = ast.get_docstring(ast.parse(text)) or ""
    reason = re.search(r"\b(400 lines|long because)\b", " ".join(docstring.split()))
    assert text.count("\n") <= 400 or reason, f"{module}: {text.count(chr(10))} lines"


@pytest.mark.parametrize("module", modules(), ids=str)
def test_a_broad_except_says_why(module):
    lines = (ROOT / module).read_text("utf-8").splitlines()
    assert not [line for line in lines if re.fullmatch(r"\s*except Exception( as \w+)?:", line)]


def test_only_house_rules_lie_directly_in_tests():
    assert [path.name for path in (ROOT / "tests").glob("test_*.py")] == ["test_house.py"]


@pytest.mark.parametrize(
    "package",
    [path for name in PACKAGES for path in sorted((ROOT / name).rglob("__init__.py"))],
    ids=lambda path: path.parent.relative_to(ROOT).as_posix(),
)
def test_every_package_states_its_purpose(package):
    docstring = ast.get_docstring(ast.parse(package.read_text("utf-8")))
    assert docstring and docstring.split("\n\n")[0].endswith(".")


@pytest.mark.parametrize("name", ["ocrkit.metrics", "data_prep.convert", "ocrkit"])
def test_light_modules_load_without_torch(name):
    code = f"import sys, {name}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_both_places_of_the_version_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert project["project"]["version"] == ocrkit.__version__
