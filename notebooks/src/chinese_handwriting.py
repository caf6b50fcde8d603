# %% [markdown]
# # Chinese handwriting: measure throughput, then train
#
# {badges}
#
# You have CASIA-HWDB, hundreds of thousands of lines, and a GPU that is paid by the hour. Before a
# long run, make sure that the GPU does not wait for pictures. You will get
#
# * training settings whose throughput was measured, one change at a time,
# * a model fine-tuned on handwritten lines, its adapter and a merged copy,
# * the correct rate (CR) and accurate rate (AR), the usual metrics of HWDB, with intervals.
#
# By default the notebook runs on two CPU cores in minutes, without a download: a tiny model and
# a small sample of drawn lines replace a large model and HWDB.

# %% [markdown]
# {install}

# %% [markdown]
# ## Parameters
#
# `tiny` is the embedded model on a CPU, which shows how fine-tuning goes. To read handwriting, take
# `chinese`, meant for a GPU of 16 GB (not measured yet); to read print, RapidOCR.
# `dataset` is your dataset folder or tar, written by the kit. Or name HWDB's folder as `raw_data`,
# with its format as `source`. `None` takes the recipe's value.

# %% tags=["parameters"]
recipe = "tiny"  # @param ["tiny", "chinese"] {allow-input: true}
dataset = ""  # @param {type:"string"}
raw_data = ""  # @param {type:"string"}
source = "hwdb-dgrl"  # @param ["hwdb-dgrl", "hwdb-gnt", "hwdb-dgr", "hctr", "folder"]
output_dir = "runs/chinese_handwriting"  # @param {type:"string"}
learning_rate_batch_size = 16  # @param {type:"integer"}
larger_batch = 16  # @param {type:"integer"}
workers = 2  # @param {type:"integer"}
max_steps = None  # @param {type:"raw"}
learning_rate = None  # @param {type:"raw"}
export_format = "merged_16bit"  # @param ["adapter", "merged_16bit", "merged_4bit", "gguf"]
push_to_hub = ""  # @param {type:"string"}
seed = 42  # @param {type:"integer"}

# %%
from ocrkit import TrainConfig
from ocrkit.environment import load_secrets
from ocrkit.places import mount_drive

config = TrainConfig.from_parameters(
    globals(),
    also=["raw_data", "source", "larger_batch", "workers", "export_format", "push_to_hub"],
)
load_secrets()
mount_drive(config.dataset, raw_data, config.output_dir)
print(f"{config.model_name_or_path}, LoRA r={config.lora_r}, learning rate {config.learning_rate}")

# %% [markdown]
# ## Data
#
# Without `dataset` and `raw_data`: a sample of short synthetic lines in brush-like fonts. HWDB's
# original files are converted; a writer is a group, so all lines of a writer are in one split.

# %%
from ocrkit import load_data
from ocrkit.evaluation.browser import gallery
from ocrkit.places import local_dataset, off_drive

config.dataset = local_dataset(config.dataset, "chinese", raw_data, source)
data = load_data(config)
print({split: rows.num_rows for split, rows in data.items()})
gallery(data["train"], 8)

# %% [markdown]
# ## Who reads this already?
#
# Up to 100 test rows, read with what a person would take instead: RapidOCR, and
# Tesseract where it is installed (on Colab, Kaggle and Debian by `!apt-get install -y
# tesseract-ocr-chi-sim`). What they get wrong is what fine-tuning can win.

# %%
from ocrkit.evaluation.baseline import baseline, evaluate_engines

baseline(data["test"], config)

# %% [markdown]
# {forecast}

# %% [markdown]
# ## Throughput, one change at a time
#
# Each measurement trains a few batches without changing weights, and keeps the changes of the
# measurement before it: first one line at a time without workers, as most scripts do; then a larger
# batch, whose learning rate is scaled by the square root of its size (`learning_rate_batch_size` is
# the size that the recipe's rate is meant for); then workers that prepare the next batches, which
# help if `waiting` is high, and need memory.

# %%
from dataclasses import replace

from ocrkit.training.plan import fastest, measure

trial = replace(config, per_device_train_batch_size=1, dataloader_num_workers=0)
steps = [measure("one line at a time", data, model, processor, trial)]
trial = replace(trial, per_device_train_batch_size=larger_batch)
steps.append(measure("a larger batch", data, model, processor, trial))
trial = replace(trial, dataloader_num_workers=workers)
steps.append(measure("workers", data, model, processor, trial))

# %% [markdown]
# The local disk. Thousands of small files on a network drive are slow to open, one tar is not. The
# dataset is packed into a tar in the run folder, which may be on Drive, and unpacked to the local
# disk; next time, set `dataset` to the tar. Training then uses the fastest batch size and workers.

# %%
from data_prep.pack import pack, unpack
from ocrkit.display.tables import Table

(tar,) = pack(config.dataset, f"{config.output_dir}/lines.tar")
config.dataset = str(unpack(tar, off_drive(f"{config.output_dir}/local")))
data = load_data(config)
steps.append(measure("local disk", data, model, processor, trial))
config = replace(config, **fastest(steps))
Table(steps, "measured on this machine; no weight changed")

# %% [markdown]
# ## Baseline, training, comparison
#
# Tesseract is evaluated as well if it is installed with its Chinese data; on Colab, Kaggle and
# Debian `!apt-get install -y tesseract-ocr-chi-sim` installs both. During training, validation
# lines are shown as reference (`TRU`) above prediction (`PRE`).

# %%
from ocrkit import evaluate

before = evaluate(model, processor, data["test"], config, name="base")
engines = evaluate_engines(data["test"], config)
before

# %%
from ocrkit import train

result = train(model, processor, data, config)
print(f"{result.global_step} steps in {result.seconds:.0f} s, mean loss {result.training_loss:.3f}")

# %% [markdown]
# CR is the share of reference characters that were read correctly; AR also subtracts inserted
# characters, so it may be below 0. Chinese has no spaces, so there is no word error rate.

# %%
from ocrkit import compare
from ocrkit.evaluation.tables import metric_table

after = evaluate(model, processor, data["test"], config, name="tuned")
comparison = compare(before, *engines, after)
metric_table(comparison, ["cr", "ar", "cer", "exact_match", "normalized_match"])

# %%
from ocrkit.evaluation.tables import confusion_table

confusion_table(after)

# %% [markdown]
# ## Look at the readings, worst first

# %%
from ocrkit.evaluation.browser import browse

browse(comparison)

# %% [markdown]
# {own_picture}

# %% [markdown]
# ## Report, export, download

# %%
from ocrkit.display.notebook import framed
from ocrkit.evaluation.compare import training_of

training = training_of(f"{config.output_dir}/eval/tuned", recipe)
report = comparison.save(f"{config.output_dir}/report", **training)
framed(report / "index.html")

# %%
from ocrkit import export
from ocrkit.places import download

folder = f"{config.output_dir}/{export_format}"
exported = export(model, processor, folder, export_format, data["test"], config)
download(config.output_dir, report, result.adapter_dir)

# %% [markdown]
# {saved}

# %% [markdown]
# ## If the results are poor
#
# * Look-alikes (己 已 巳) stay: `-p loss confusion_weighted`, or larger pictures (`min_pixels`).
# * AR far below CR: the model adds text after the end of the line. Look for labels that are longer
#   than the text in the picture.
# * Rare characters fail: draw lines with them, `python -m data_prep.synthesize lines zh --face
#   handwriting --random 0.5 --out data/drawn`, and train on them first.
# * `waiting` stays high: more workers, or smaller pictures (`-p image_height 64`, `max_pixels`).
# * The loss jumps after you enlarged the batch: the square root is only a rule of thumb; measure
#   the learning rate with `python -m ocrkit find-lr`.
