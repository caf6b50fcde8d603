# %% [markdown]
# # Compare runs: which settings read better, and is it more than luck?
#
# {badges}
#
# You trained with several learning rates, ranks or losses, by `python -m ocrkit sweep` or by hand.
# This notebook answers three questions:
#
# * Which run reads best, and how sure is that? (a leaderboard with intervals)
# * What did one changed setting do, everything else equal? (paired differences, same rows)
# * How did each of them get there? (learning curves)
#
# It needs no GPU and loads no model: it reads what runs left in their folders.

# %% [markdown]
# ## Install
#
# Does nothing where the kit is already there; the first time it takes some minutes. On Kaggle turn
# *Settings → Internet* on first.

# %%
import importlib.util
import sys
from importlib.metadata import version
from pathlib import Path

places = (Path.cwd(), Path.cwd().parent, Path("ocrkit-src"))
sys.path[:0] = [str(p) for p in places if (p / "ocrkit").is_dir()]
if importlib.util.find_spec("ocrkit") is None:
    # !git clone --quiet --depth 1 {repository} ocrkit-src
    sys.path.insert(0, "ocrkit-src")
if Path("ocrkit-src").is_dir() and importlib.util.find_spec("unsloth") is None:
    # What this kernel runs with keeps its version: replacing it would ask for a restart.
    keep = ("torch", "torchvision", "ipykernel", "IPython", "ipywidgets")
    pins = (f"{name}=={version(name)}\n" for name in keep if importlib.util.find_spec(name))
    Path("pins.txt").write_text("".join(pins))
    # %pip install --quiet -r ocrkit-src/requirements.txt -c pins.txt

# %% [markdown]
# ## Parameters
#
# `runs` is the folder of a sweep, or any folder of run folders; `evaluation` says which of their
# evaluations counts. Without `runs`, two small runs are made first, in about two minutes.

# %% tags=["parameters"]
runs = ""  # @param {type:"string"}
evaluation = "tuned"  # @param {type:"string"}
metric = "cer"  # @param {type:"string"}
output_dir = "runs/compare"  # @param {type:"string"}

# %%
from ocrkit import TrainConfig
from ocrkit.places import mount_drive

config = TrainConfig.from_parameters(globals(), also=["runs", "evaluation", "metric"])
mount_drive(runs, config.output_dir)

# %% [markdown]
# ## Runs to compare
#
# A sweep runs a notebook once for every combination of parameters, each run in a process and a
# folder of its own. Here it is the quickstart on few receipts and for few steps, with two
# learning rates, one of them far too small to get anywhere. On the command line:
#
# ```
# python -m ocrkit sweep notebooks/quickstart.ipynb --grid learning_rate=1e-6,0.005 \
#     -p receipts 20 -p max_steps 20 -p eval_steps 5 -p logging_steps 5 -p eval_samples 10 \
#     --out runs/compare/sweep
# ```
#
# Started again it skips what is done.

# %%
from ocrkit.runs.sweep import sweep

if not runs:
    runs = f"{config.output_dir}/sweep"
    places = [
        Path(place, "quickstart.ipynb") for place in (".", "notebooks", "ocrkit-src/notebooks")
    ]
    quickstart = next(filter(Path.is_file, places))
    rates = {"learning_rate": [1e-6, 0.005]}
    few = {"receipts": 20, "max_steps": 20, "eval_steps": 5, "logging_steps": 5, "eval_samples": 10}
    sweep(quickstart, rates, few, out=runs)

# %% [markdown]
# ## Leaderboard
#
# Best first. The columns before the metrics are the settings in which the runs differ at all.
# Intervals hold 95 %: how far a number could be off because only so many documents were read. Two
# runs whose intervals overlap may still differ for certain, because they read the same rows; the
# next section decides that.

# %%
from ocrkit.runs.leaderboard import leaderboard, plot_leaderboard, table
from ocrkit.display.tables import Table

shown = sorted({metric, "cer", "exact_match"})
rows = leaderboard(runs, evaluation=evaluation)
Table(table(rows, shown))

# %%
plot_leaderboard(rows, metric)

# %% [markdown]
# ## One changed setting at a time
#
# Only runs that are equal in everything but one setting are held against each other. The
# difference is paired: both runs read the same rows, and whole documents are drawn again and again
# to see how much it varies. An interval that holds 0 shows nothing either way. Runs that differ in
# two settings at once tell nothing about either and do not stand here.
#
# A seed is a setting too. What another seed changes is luck: believe in a setting that does more.

# %%
from ocrkit.runs.leaderboard import change_table, one_at_a_time, plot_changes

changes = one_at_a_time(rows, shown)
Table(change_table(changes, shown))

# %%
plot_changes(changes, metric)

# %% [markdown]
# ## Learning curves
#
# The loss of each run, and what it read during training. A curve that still falls at the end asks
# for more steps; one that jumps asks for a smaller learning rate. Compare the loss only between
# runs of the same loss function.

# %%
from ocrkit.runs.leaderboard import plot_curves

plot_curves(rows, ["loss", f"eval_{metric}"])

# %% [markdown]
# ## What the best run reads better
#
# The best run beside the worst of those that read the same rows: the kinds of error that it no
# longer makes, and those that it still does.

# %%
from ocrkit.runs.leaderboard import best_beside_worst
from ocrkit.evaluation.tables import kind_table

comparison = best_beside_worst(rows)
kind_table(comparison)

# %%
from ocrkit.evaluation.browser import browse

browse(comparison)

# %% [markdown]
# ## Report
#
# One HTML file with every number and picture of the two, and the same in Markdown for a pull
# request. `python -m ocrkit compare RUN1/eval/tuned RUN2/eval/tuned --fail-if "change of cer > 0"`
# lets a script ask whether a run reads worse than the one before.

# %%
print(comparison.save(f"{config.output_dir}/report") / "index.html")

# %% [markdown]
# ## What to do with it
#
# * No difference is certain: more test rows make intervals narrower, more steps may part the runs.
# * The best value lies at the end of its grid: move the grid.
# * One run is best but two settings differ: run the two that are missing, the sweep skips the rest.
# * Before you write a number down, run the two best settings over `--seeds 42,43,44`.
