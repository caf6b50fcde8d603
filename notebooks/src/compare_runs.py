# %% [markdown]
# # Compare runs: which settings are better, and is the difference significant?
#
# {badges}
#
# You trained with several learning rates, ranks or losses, by `python -m ocrkit sweep` or by hand.
# This notebook answers three questions:
#
# * Which run is best, and how certain is that? (leaderboard with confidence intervals)
# * What is the effect of one setting, all others equal? (paired differences on the same rows)
# * How did each run progress? (learning curves)
#
# It needs no GPU and loads no model: it reads the files in the run folders.

# %% [markdown]
# {install}

# %% [markdown]
# ## Parameters
#
# `runs` is the folder of a sweep, or any folder of run folders; `evaluation` is the name of the
# evaluation to compare. Without `runs`, the notebook first trains two small runs, in two minutes.

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
print(f"{evaluation} of {runs or 'two small runs, trained below'}, by {metric}")

# %% [markdown]
# ## Runs to compare
#
# A sweep runs a notebook once for every combination of parameters, each in a separate process and
# folder. Here it is the quickstart with few receipts and steps and two learning rates, one of them
# far too small. On the command line:
#
# ```
# python -m ocrkit sweep notebooks/quickstart.ipynb --grid learning_rate=1e-6,0.005 \
#     -p receipts 20 -p max_steps 20 -p eval_steps 5 -p logging_steps 5 -p eval_samples 10 \
#     --out runs/compare/sweep
# ```
#
# Started again, it skips finished runs.

# %%
from pathlib import Path

import data_prep
from ocrkit.runs.sweep import sweep

if not runs:
    runs = f"{config.output_dir}/sweep"
    quickstart = Path(data_prep.__file__).parents[1] / "notebooks" / "quickstart.ipynb"
    rates = {"learning_rate": [1e-6, 0.005]}
    few = {"receipts": 20, "max_steps": 20, "eval_steps": 5, "logging_steps": 5, "eval_samples": 10}
    sweep(quickstart, rates, few, out=runs)

# %% [markdown]
# ## Leaderboard
#
# Best run first. The columns before the metrics are the settings that differ between the runs. The
# confidence interval (95%) shows how much a metric could vary with other documents. Runs whose
# intervals overlap may still differ significantly, because they read the same rows: see the next
# section.

# %%
from ocrkit.runs.leaderboard import leaderboard, table
from ocrkit.display.tables import Table

shown = sorted({metric, "cer", "exact_match"})
rows = leaderboard(runs, evaluation=evaluation)
Table(table(rows, shown))

# %%
from ocrkit.runs.leaderboard import plot_leaderboard

plot_leaderboard(rows, metric)

# %% [markdown]
# ## One changed setting at a time
#
# Pairs of runs that differ in exactly one setting. The difference is paired: both runs read the
# same rows, and a bootstrap over documents gives the confidence interval. If the interval contains
# 0, the difference is not significant. Runs that differ in two or more settings are left out.
#
# The seed is a setting too: its effect is chance. Trust a setting only if its effect is larger.

# %%
from ocrkit.runs.leaderboard import change_table, one_at_a_time

changes = one_at_a_time(rows, shown)
Table(change_table(changes, shown))

# %%
from ocrkit.runs.leaderboard import plot_changes

plot_changes(changes, metric)

# %% [markdown]
# ## Learning curves
#
# Training loss and validation metric of each run. If a curve still falls at the end, train for more
# steps; if it jumps, lower the learning rate. Compare losses only between runs with the same loss
# function.

# %%
from ocrkit.runs.leaderboard import plot_curves

plot_curves(rows, ["loss", f"eval_{metric}"])

# %% [markdown]
# ## Errors of the best run
#
# Kinds of error of the best run, beside the worst run on the same rows.

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
# One HTML file with the metrics and pictures of both runs, and the same in Markdown for a pull
# request. `python -m ocrkit compare RUN1/eval/tuned RUN2/eval/tuned --fail-if "change of cer > 0"`
# tells a script whether a run is worse than the one before.

# %%
from ocrkit.display.notebook import framed

framed(comparison.save(f"{config.output_dir}/report") / "index.html")

# %% [markdown]
# ## What to do next
#
# * No difference is significant: use more test rows, or train for more steps.
# * The best value is at the end of its grid: extend the grid.
# * The best runs differ in two settings: add the two missing combinations; the sweep skips the
#   rest.
# * Before you publish a result, run the two best settings with `--seeds 42,43,44`.
