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
# Does nothing where the kit is already there; the first time it takes some minutes. The torch and
# the kernel of Colab and Kaggle are kept, so no restart is needed.
# The benchmarks are `tests/benchmarks` in the repository: a package alone, without it, has none.
#
# * Colab: for a GPU, *Runtime → Change runtime type → T4 GPU*; the default, `cpu`, needs none.
# * Kaggle: *Settings → Internet on*, and for `hardware = "gpu"` an accelerator.

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
# A line appears for each part that is done. Other programs that run meanwhile bend what is taken by
# the clock; each part notes how busy the machine was.

# %%
from tests.benchmarks.suite import benchmark

result = benchmark(hardware, config.output_dir, parts.split(",") if parts else ())

# %% [markdown]
# ## All of it

# %%
from IPython.display import Markdown

from tests.benchmarks.suite import markdown

Markdown(markdown(result))

# %% [markdown]
# The same table with inputs, versions and every side's figures lies in `bench.json`
# (`bench-gpu.json` for a GPU) under `output_dir`.
