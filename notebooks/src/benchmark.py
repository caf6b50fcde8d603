# %% [markdown]
# # Benchmark: speed and memory of the kit and of its peers on this machine
#
# {badges}
#
# Every figure is measured on this machine, the kit and its peer in alternating rounds after a
# warm-up round. Figures that miss their aim are marked. `hardware = "cpu"` takes a quarter of an
# hour on two cores:
#
# * training, compared with a plain torch loop and TRL's `SFTTrainer`; padding; memory of the loss,
# * collating, compared with TRL's and Unsloth's collators,
# * generation for evaluation; metrics, compared with jiwer,
# * conversion, compared with a simple parser; start-up times; growth up to 100,000 rows.
#
# By name only, as they train for many minutes: `losses` (and order of rows), `augmenting` (the
# settings of the recipe for receipts), `rounds` (of labelling) and, where `OCRKIT_TEST_DATA` names
# real receipts, `receipts` and `earlier receipts` (five folds of them).
#
# `hardware = "gpu"` checks a card in ten minutes, as `make gpu` does: the embedded model through
# Unsloth and transformers, a model of the size of Qwen2-VL-2B with random weights by the kit, by
# Unsloth and by TRL with PEFT, training in 4 bits, running out of memory, and the forecast beside
# what was measured. It needs a CUDA device.

# %% [markdown]
# {install}

# %% [markdown]
# ## Parameters
#
# `parts` names parts, separated by commas; empty means all but those that train for long.

# %% tags=["parameters"]
hardware = "cpu"  # @param ["cpu", "gpu"]
output_dir = "runs/benchmark"  # @param {type:"string"}
parts = ""  # @param {type:"string"}

# %%
from ocrkit import TrainConfig

config = TrainConfig.from_parameters(
    {"recipe": "quickstart", **globals()}, also=["hardware", "parts"]
)

# %% [markdown]
# ## Measure
#
# A line is printed for each finished part. Other running programs distort the times; each part
# records the load of the machine.

# %%
from tests.benchmarks.suite import benchmark

result = benchmark(hardware, config.output_dir, parts.split(",") if parts else ())

# %% [markdown]
# ## All results

# %%
from IPython.display import Markdown

from tests.benchmarks.suite import markdown

Markdown(markdown(result))

# %% [markdown]
# `bench.json` (`bench-gpu.json` for a GPU) in `output_dir` has the same table with inputs, versions
# and the figures of every peer.
