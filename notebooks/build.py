"""Build the notebooks from their percent-format sources: `python notebooks/build.py [--check]`.

In a source, `{repository}` stands for the address in pyproject.toml and `{badges}` for the buttons
that open the notebook in Colab and Kaggle, so the address is written down once.
"""

import sys
import tomllib
from pathlib import Path

import jupytext
import nbformat

FOLDER = Path(__file__).parent
COLAB = "https://colab.research.google.com"
KAGGLE = "https://kaggle.com"


def repository() -> str:
    """The address of the repository, as pyproject.toml has it."""
    with (FOLDER.parent / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)["project"]["urls"]["Repository"]


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
    for cell in notebook.cells:
        cell.source = cell.source.replace("{badges}", badges(source.stem))
        cell.source = cell.source.replace("{repository}", repository())
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:02d}"
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return nbformat.writes(notebook) + "\n"


def main() -> int:
    """Write every notebook; with --check, only say which are not what their source makes."""
    stale = []
    for source in sorted((FOLDER / "src").glob("*.py")):
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
