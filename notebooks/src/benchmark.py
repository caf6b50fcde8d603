# %% [markdown]
# # Benchmark: this machine, side by side with what people use today
#
# {badges}
#
# Every figure is measured here and now, the kit's and that of its peer in turns, after a round that
# warms up. What misses its aim says so. With `hardware = "cpu"` it takes some minutes on two cores:
#
# * training beside a bare torch loop and TRL's `SFTTrainer`, padding, memory of the loss,
# * collating beside TRL's and Unsloth's collators,
# * generation for evaluation, metrics beside jiwer,
# * conversion beside a naive parser, starts, growth up to 100,000 rows.
#
# With `hardware = "gpu"` models of the geometry of Qwen2-VL-2B and Qwen3-VL-2B, with random
# weights, train on drawn street signs and handwriting: TRL with PEFT and bitsandbytes, Unsloth, and
# the kit. Where there is no CUDA device it says so and measures what `"cpu"` does.

# %% [markdown]
# ## Install
#
# Does nothing where the kit is already there. On Colab and Kaggle it keeps the torch that they
# bring along, so no restart is needed.

# %%
import importlib.util
import sys
from pathlib import Path

sys.path[:0] = [str(p) for p in (Path.cwd(), Path.cwd().parent) if (p / "ocrkit").is_dir()]
if importlib.util.find_spec("ocrkit") is None:
    # !git clone --quiet --depth 1 {repository} ocrkit-src
    # %pip install --quiet -r ocrkit-src/requirements.txt
    sys.path.insert(0, "ocrkit-src")

# %% [markdown]
# ## Parameters
#
# `parts` names some of the parts, parted by commas; empty means all of them.

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
# A part's table appears as soon as it is done. Other programs that run meanwhile bend what is taken
# by the clock; each part notes how busy the machine was.

# %%
from ocrkit.benchmarks.suite import benchmark

result = benchmark(hardware, config.output_dir, parts.split(",") if parts else ())

# %% [markdown]
# ## All of it

# %%
from IPython.display import Markdown

from ocrkit.benchmarks.suite import markdown

Markdown(markdown(result))

# %% [markdown]
# The same table with inputs, versions and every side's figures lies in `bench.json`
# (`bench-gpu.json` for a GPU) under `output_dir`.
