"""Build the notebooks from their percent-format sources: `python notebooks/build.py [--check]`.

In a source, `{badges}` stands for the buttons that open the notebook in Colab and Kaggle, and a
cell `{install}` for the two cells of `INSTALL`, so that the address and the release are written
down in pyproject.toml alone.
"""

import sys
import tomllib
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbformat import NotebookNode

FOLDER = Path(__file__).parent
COLAB = "https://colab.research.google.com"
KAGGLE = "https://kaggle.com"
# Notebooks that need no GPU as they stand; Colab and Kaggle are asked for one by the others.
WITHOUT_GPU = ("quickstart", "compare_runs")

INSTALL = (
    """\
## Install

Takes the kit beside this notebook, or clones release `{release}`, and installs what is missing; the
first time takes some minutes. torch and the kernel stay as they are, so no restart is needed, and a
machine without a GPU does not download what needs one.

* Colab: *Runtime → Change runtime type → T4 GPU*; the tiny model needs none.
* Kaggle: *Settings → Internet on*, and *GPU T4 x2* (current torch has no kernels for a P100). The
  notebook trains on the first card; `!torchrun --nproc_per_node 2 -m ocrkit train` uses both.""",
    """\
import importlib.util
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

here = Path.cwd()
places = (here, *here.parents, here / "ocrkit", here / "ocrkit-src", Path(sys.prefix).parent)
kit = next((p for p in places if (p / "notebooks" / "install.py").is_file()), None)
package = importlib.util.find_spec("ocrkit")
if kit is None and (package is None or package.origin is None):
    shutil.rmtree("ocrkit-part", ignore_errors=True)
    clone = "git clone --quiet --depth 1 --branch {release} {repository}"
    cloned = subprocess.run([*clone.split(), "ocrkit-part"], capture_output=True, text=True)
    if cloned.returncode:
        sys.exit(f"`{clone}` failed, so nothing is installed: {' '.join(cloned.stderr.split())}")
    kit = Path("ocrkit-part").rename("ocrkit-src")
if kit:
    runpy.run_path(str(kit / "notebooks" / "install.py"))["main"]()""",
)


def project() -> dict[str, Any]:
    """The table `project` of pyproject.toml."""
    with (FOLDER.parent / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)["project"]


def repository() -> str:
    """The address of the repository, as pyproject.toml has it."""
    return project()["urls"]["Repository"]


def install_cells() -> list[NotebookNode]:
    """The Markdown and the code that install the kit, of the release in pyproject.toml."""
    values = {"{release}": f"v{project()['version']}", "{repository}": repository()}
    texts = []
    for text in INSTALL:
        for name, value in values.items():
            text = text.replace(name, value)
        texts.append(text)
    return [nbformat.v4.new_markdown_cell(texts[0]), nbformat.v4.new_code_cell(texts[1])]


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
        cells += install_cells() if cell.source == "{install}" else [cell]
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
