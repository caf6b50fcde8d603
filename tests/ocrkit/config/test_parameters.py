import pytest

from ocrkit.config import TrainConfig
from ocrkit.config.parameters import parameters
from ocrkit.errors import ConfigError

CELL = 'recipe = "quickstart"  # @param\nreceipts = 5\nseed = 3\nmax_steps = None\n'
CONFIG = "config = TrainConfig.from_parameters(globals(), also=['receipts'])"


class Notebook:
    """Cells run one after another in the same globals, with IPython's history of them."""

    def __init__(self):
        self.globals = {"TrainConfig": TrainConfig, "In": [""], "Out": {}}

    def run(self, *cells):
        for cell in cells:
            self.globals["In"].append(cell)
            exec(cell, self.globals)
        return self.globals.get("config")


def test_parameters_cell_can_be_run_again_after_other_cells():
    notebook = Notebook()
    assert notebook.run(CELL, CONFIG).seed == 3
    others = [
        "data = {'train': 5}\nclean = 'folder'",
        "i = 3",
        "lr = 0.1",
        "for dirname in 'a': pass",
    ]
    again = notebook.run(*others, CELL.replace("seed = 3", "seed = 4\nlora_r = 8"), CONFIG)
    assert (again.seed, again.lora_r) == (4, 8)
    assert notebook.run(CONFIG) == again
    # A line that was removed from the cell no longer counts.
    assert notebook.run(CELL, CONFIG).lora_r == TrainConfig.from_recipe("quickstart").lora_r


def test_papermill_values_override_and_misspelt_ones_are_refused():
    injected = "# Parameters\nseed = 7\n"
    assert Notebook().run(CELL, injected, CONFIG).seed == 7
    assert Notebook().run("i = 3", CELL, injected, "data = 5", CONFIG).seed == 7
    with pytest.raises(ConfigError, match="did you mean 'max_steps'"):
        Notebook().run(CELL, "# Parameters\nmax_step = 7\n", CONFIG)
    with pytest.raises(ConfigError, match="did you mean 'receipts'"):
        Notebook().run(CELL + "reciepts = 3\n", CONFIG)


def test_a_notebook_without_a_recipe_has_its_first_cell_of_literals():
    notebook = Notebook()
    cells = ["import os\nclean = 'x'", "seed: int = 5\nruns = 'runs'", "print(1)"]
    config = "config = TrainConfig.from_parameters(globals(), also=['runs'])"
    assert notebook.run(*cells, config).seed == 5
    assert notebook.run("i = 3", cells[1].replace("5", "6"), "j = 3", config).seed == 6


def test_unparsable_cells_are_skipped():
    assert parameters({"In": ["", "%%bash\nls (", "recipe = 'x'", "if"], "recipe": "x"}) == {
        "recipe": "x"
    }


def test_computed_parameters_are_settings_and_helpers_are_not():
    cell = (
        "from pathlib import Path\nbase = Path('a')\n_x = 1\nrecipe = 'tiny'\nrun_name = str(base)"
    )
    assert Notebook().run(cell, CONFIG).run_name == "a"
