"""Build the notebooks from their percent-format sources: `python notebooks/build.py [--check]`.

In a source, `{badges}` stands for the buttons that open the notebook in Colab and Kaggle, and a
cell `{NAME}` for the cells of src/shared/NAME.py, in which `{release}` and `{repository}` are those
of pyproject.toml.
"""

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbformat import NotebookNode

FOLDER = Path(__file__).parent
SOURCES = FOLDER / "src"
COLAB = "https://colab.research.google.com"
KAGGLE = "https://kaggle.com"
# Notebooks that need no GPU as they stand; Colab and Kaggle are asked for one by the others.
WITHOUT_GPU = ("quickstart", "compare_runs")


def project() -> dict[str, Any]:
    """The table `project` of pyproject.toml."""
    with (FOLDER.parent / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)["project"]


def repository() -> str:
    """The address of the repository, as pyproject.toml has it."""
    return project()["urls"]["Repository"]


def shared_cells(name: str) -> list[NotebookNode]:
    """The cells of src/shared/NAME.py, with the release and the address of pyproject.toml."""
    cells = jupytext.read(SOURCES / "shared" / f"{name}.py", fmt="py:percent").cells
    for cell in cells:
        cell.source = cell.source.replace("{release}", f"v{project()['version']}")
        cell.source = cell.source.replace("{repository}", repository())
    return cells


def metadata(notebook: str) -> dict[str, Any]:
    """Metadata of a notebook: its kernel, and the accelerator that Colab and Kaggle shall give."""
    gpu = notebook not in WITHOUT_GPU
    kaggle = {"accelerator": "nvidiaTeslaT4" if gpu else "none", "isGpuEnabled": gpu}
    kaggle |= {"isInternetEnabled": True, "language": "python", "sourceType": "notebook"}
    return {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "kaggle": {**kaggle, "dataSources": []},
        "colab": {"provenance": [], **({"gpuType": "T4"} if gpu else {})},
        **({"accelerator": "GPU"} if gpu else {}),
    }


def badges(notebook: str) -> str:
    """Buttons in Markdown that open a notebook, by its name, in Colab and in Kaggle."""
    address = repository()
    place = f"{address}/blob/main/notebooks/{notebook}.ipynb"
    colab = f"{COLAB}/github/{place.removeprefix('https://github.com/')}"
    return (
        f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({colab})\n"
        f"[![Open in Kaggle]({KAGGLE}/static/images/open-in-kaggle.svg)]"
        f"({KAGGLE}/kernels/welcome?src={place})"
    )


def build(source: Path) -> str:
    """The notebook of a source as JSON: no outputs, cell ids by position."""
    notebook = jupytext.read(source, fmt="py:percent")
    cells: list[NotebookNode] = []
    for cell in notebook.cells:
        cell.source = cell.source.replace("{badges}", badges(source.stem))
        shared = re.fullmatch(r"\{(\w+)\}", cell.source)
        cells += shared_cells(shared[1]) if shared else [cell]
    notebook.cells = cells
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:02d}"
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    notebook.metadata = metadata(source.stem)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return nbformat.writes(notebook) + "\n"


def main() -> int:
    """Write every notebook; with --check, only say which are not what their source makes."""
    stale = []
    for source in sorted(SOURCES.glob("*.py")):
        target, text = FOLDER / f"{source.stem}.ipynb", build(source)
        if "--check" in sys.argv:
            if not target.is_file() or target.read_text(encoding="utf-8") != text:
                stale.append(target.name)
        else:
            target.write_text(text, encoding="utf-8")
    if stale:
        print(f"{', '.join(stale)}: not built from the source; run python notebooks/build.py")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
