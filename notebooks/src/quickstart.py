# %% [markdown]
# # Quickstart: teach a small model to read worn receipts
#
# {badges}
#
# In about five minutes, on two CPU cores and without a download, you will have
#
# * a vision-language model that was fine-tuned with LoRA on lines that it could not read before,
# * a report of how much better it reads, with intervals, and of what it forgot,
# * the adapter and a merged model, ready to load elsewhere.
#
# The model is tiny, but everything else is what runs on a GPU: a real Qwen3-VL architecture, the
# same data folder, collator, loss, metrics and report. Point `dataset` at your own folder and
# `recipe` at a larger model, and the rest of this notebook stays as it is.

# %% [markdown]
# ## Install
#
# Does nothing where the kit is already there; the first time it takes some minutes. The torch and
# the kernel of Colab and Kaggle are kept, so no restart is needed.
#
# * Colab: for a GPU, *Runtime → Change runtime type → T4 GPU*; `quickstart` needs none.
# * Kaggle: *Settings → Internet on*, and an accelerator for other recipes.

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
# `None` leaves a value to the recipe. Any other setting of the kit (`python -m ocrkit train
# --help` lists them) may be added here or given by `papermill -p NAME VALUE`; a name that nothing
# uses is refused.

# %% tags=["parameters"]
recipe = "quickstart"  # @param {type:"string"}
dataset = ""  # @param {type:"string"}
output_dir = "runs/quickstart"  # @param {type:"string"}
receipts = 300  # @param {type:"integer"}
max_steps = None  # @param {type:"raw"}
learning_rate = None  # @param {type:"raw"}
seed = 42  # @param {type:"integer"}

# %%
from ocrkit import TrainConfig
from ocrkit.places import mount_drive

config = TrainConfig.from_parameters(globals(), also=["receipts"])
mount_drive(config.dataset, config.output_dir)
print(f"{config.model_name_or_path}, LoRA: {config.use_peft}, learning rate {config.learning_rate}")

# %% [markdown]
# ## Data
#
# With no `dataset` given, worn till receipts are drawn on the spot: faded, blurred, tilted, in
# fonts that the model has never seen. A receipt is a group: all its lines lie in one split. Clean
# lines in fonts that the model knows are drawn beside them, to see later what it forgot.

# %%
from data_prep.synthetic.receipts import printed_receipts, thermal_receipts
from ocrkit import load_data
from ocrkit.places import local_dataset, off_drive

if not config.dataset:
    config.dataset = off_drive(f"{config.output_dir}/data")
    thermal_receipts(config.dataset, receipts, seed=config.seed)
config.dataset = local_dataset(config.dataset)
clean = off_drive(f"{config.output_dir}/printed")
printed_receipts(clean, seed=config.seed)
data = load_data(config)
print({split: rows.num_rows for split, rows in data.items()})

# %%
from ocrkit.evaluation.browser import gallery

gallery(data["train"], 8)

# %% [markdown]
# ## Model and plan
#
# On a GPU the model comes through Unsloth, elsewhere through transformers and PEFT; in 4-bit where
# the recipe says so, which this one does not: the tiny model is no larger than a photo. The plan
# counts tokens, says what the pixel budget would shrink, and times a few steps.

# %%
from ocrkit import load_model, plan

model, processor = load_model(config)
budget = plan(config, data, model, processor)

# %% [markdown]
# ## Baseline
#
# What the model reads before any training. The character error rate (CER) is the number of
# characters to change over the number of characters there are; the interval says how far it could
# be off because only so many receipts were read.

# %%
from ocrkit import evaluate

before = evaluate(model, processor, data["test"], config, name="base")
before

# %%
from dataclasses import replace

printed = load_data(replace(config, dataset=clean))["test"]
printed_before = evaluate(model, processor, printed, config, name="printed-base")

# %% [markdown]
# ## Train
#
# LoRA adapters on what sees and on what writes. Only the answer carries loss, and a few validation
# lines are read along the way: their CER is the same measure as in the report. The button stops
# the run after a checkpoint, as the kernel's interrupt does; with
# `config.resume_from_checkpoint = "auto"` the cell goes on from there.

# %%
from ocrkit import train

result = train(model, processor, data, config)
print(f"{result.global_step} steps in {result.seconds:.0f} s, mean loss {result.training_loss:.3f}")

# %% [markdown]
# ## Evaluate and compare

# %%
from ocrkit import compare

after = evaluate(model, processor, data["test"], config, name="tuned")
comparison = compare(before, after)
comparison

# %% [markdown]
# What was forgotten: clean lines that the base knew how to read, before and after.

# %%
printed_after = evaluate(model, processor, printed, config, name="printed-tuned")
forgotten = compare(printed_before, printed_after)
forgotten

# %% [markdown]
# ## Worst cases
#
# Search, filter by kind of error, rate or length, and go through the list with the arrow keys:
# what the model read before and after. Where no kernel runs, this is a table of the worst.

# %%
from ocrkit.evaluation.browser import browse

browse(comparison)

# %% [markdown]
# ## Report
#
# One HTML file that needs nothing else: numbers, learning curve, samples with their pictures and
# differences, what got better and what got worse.

# %%
from ocrkit.run_folder import skipped_counts

report = comparison.save(
    f"{config.output_dir}/report",
    history=result.history,
    skipped=skipped_counts(config.output_dir),
    other=[("What was forgotten: clean lines in fonts that the base knows", forgotten)],
)
print(f"{report}/index.html")

# %% [markdown]
# ## Export
#
# An adapter is small and needs its base; the merged model stands alone. After the merge both read
# some lines, and too many differences are an error.

# %%
from ocrkit import export

merged = export(
    model, processor, f"{config.output_dir}/merged", "merged_16bit", data["test"], config
)
print(f"weights in {result.adapter_dir}, the whole model in {merged}")

# %% [markdown]
# ## What to try next
#
# * Your own lines: `python -m data_prep.convert --list` shows the formats that are read; give the
#   folder it writes as `dataset`.
# * CER still falls at the end of training: raise `max_steps`.
# * CER stays where it was: look at the pictures above. What you cannot read, no model learns.
# * Too much was forgotten: mix some of the old lines into the training split, or lower
#   `learning_rate`.
# * A larger model on a GPU: another `recipe`, see `python -m ocrkit recipes`.
