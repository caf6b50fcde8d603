# %% [markdown]
# # Quickstart: teach a small model to read worn receipts
#
# {badges}
#
# In three to ten minutes, on two CPU cores and without a download, you get
#
# * a vision-language model, fine-tuned with LoRA on lines that it could not read before,
# * a report of its error rates before and after, with confidence intervals, and of what it forgot,
# * the adapter and a merged model, ready to load elsewhere.
#
# The model is tiny and shows how fine-tuning goes; to read receipts, take RapidOCR, or a larger
# model where RapidOCR does not know the script or the task. Everything else is the same as on a
# GPU: the Qwen3-VL architecture, dataset folder, collator, loss, metrics and report. Set `dataset`
# to your own folder and `recipe` to a larger model; the rest of this notebook stays the same.

# %% [markdown]
# {install}

# %% [markdown]
# ## Parameters
#
# `None` takes the recipe's value. You can add any other setting of the kit here (`python -m ocrkit
# train --help` lists them) or pass it with `papermill -p NAME VALUE`; an unknown name is an error.

# %% tags=["parameters"]
recipe = "quickstart"  # @param {type:"string"}
dataset = ""  # @param {type:"string"}
output_dir = "runs/quickstart"  # @param {type:"string"}
receipts = 300  # @param {type:"integer"}
max_steps = None  # @param {type:"raw"}
learning_rate = None  # @param {type:"raw"}
push_to_hub = ""  # @param {type:"string"}
seed = 42  # @param {type:"integer"}

# %%
from ocrkit import TrainConfig
from ocrkit.places import mount_drive

config = TrainConfig.from_parameters(globals(), also=["receipts", "push_to_hub"])
mount_drive(config.dataset, config.output_dir)
print(f"{config.model_name_or_path}, LoRA: {config.use_peft}, learning rate {config.learning_rate}")

# %% [markdown]
# ## Data
#
# Without a `dataset`, the notebook draws worn till receipts: faded, blurred and tilted, in fonts
# that the model was not trained on. A receipt is a group: all its lines are in one split. It also
# draws clean lines in fonts that the model was trained on, to measure later what it forgot.

# %%
from data_prep.synthetic.receipts import printed_receipts, thermal_receipts
from ocrkit import load_data
from ocrkit.evaluation.browser import gallery
from ocrkit.places import local_dataset, off_drive

if not config.dataset:
    config.dataset = off_drive(f"{config.output_dir}/data")
    thermal_receipts(config.dataset, receipts, seed=config.seed)
config.dataset = local_dataset(config.dataset)
clean = off_drive(f"{config.output_dir}/printed")
printed_receipts(clean, seed=config.seed)
data = load_data(config)
print({split: rows.num_rows for split, rows in data.items()})
gallery(data["train"], 8)

# %% [markdown]
# ## Who reads this already?
#
# Up to 100 test rows, read with what a person would take instead: RapidOCR, and
# Tesseract where it is installed. What they get wrong is what fine-tuning can win.

# %%
from ocrkit import baseline

baseline(data["test"], config)

# %% [markdown]
# {forecast}

# %% [markdown]
# ## Baseline
#
# Evaluation before training. The character error rate (CER) is the number of character edits
# divided by the number of characters in the reference; the 95 % confidence interval shows how much
# it could vary with other receipts.

# %%
from ocrkit import evaluate

before = evaluate(model, processor, data["test"], config, name="base")
before

# %%
from dataclasses import replace

from ocrkit import evaluate, load_data

printed = load_data(replace(config, dataset=clean))["test"]
printed_before = evaluate(model, processor, printed, config, name="printed-base")

# %% [markdown]
# ## Train
#
# LoRA adapters on the vision encoder and the language model. Only the answer is trained on (the
# loss of the prompt is masked). The CER of a few validation lines is measured during training, by
# the same metric as in the report. The button and the kernel's interrupt save a checkpoint and
# stop; with `config.resume_from_checkpoint = "auto"` the cell continues from it.

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
# Forgetting: CER of clean lines that the base model could read, before and after.

# %%
from ocrkit import compare, evaluate

printed_after = evaluate(model, processor, printed, config, name="printed-tuned")
forgotten = compare(printed_before, printed_after)
forgotten

# %% [markdown]
# ## Worst cases
#
# Search, filter by kind of error, error rate or length, and step through the list with the arrow
# keys: predictions before and after. Without a running kernel, this is a table of the worst
# samples.

# %%
from ocrkit.evaluation.browser import browse

browse(comparison)

# %% [markdown]
# {own_picture}

# %% [markdown]
# ## Report
#
# One self-contained HTML file: metrics, learning curve, samples with pictures and differences, the
# largest improvements and regressions.

# %%
from ocrkit.display.notebook import framed
from ocrkit.evaluation.compare import training_of

report = comparison.save(
    f"{config.output_dir}/report",
    **training_of(f"{config.output_dir}/eval/tuned", recipe),
    other=[("What was forgotten: clean lines in fonts that the base knows", forgotten)],
)
framed(report / "index.html")

# %% [markdown]
# ## Export
#
# An adapter is small and needs its base model; the merged model needs no other files. After the
# merge, both read some lines, and too many differences are an error.

# %%
from ocrkit import export

merged = export(
    model, processor, f"{config.output_dir}/merged", "merged_16bit", data["test"], config
)
print(f"weights in {result.adapter_dir}, the whole model in {merged}")

# %% [markdown]
# {saved}

# %% [markdown]
# ## What to try next
#
# * Your own lines: `python -m data_prep.convert --list` shows the source formats; set `dataset` to
#   the folder that the conversion writes.
# * CER still falls at the end of training: raise `max_steps`.
# * CER does not fall: look at the pictures above. A model cannot learn what you cannot read.
# * Too much was forgotten: `replay = "print"` mixes in clean lines that ship with the kit (or name
#   a dataset folder); or lower `learning_rate`.
# * A larger model on a GPU: another `recipe`, see `python -m ocrkit recipes`.
