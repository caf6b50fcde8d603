# %% [markdown]
# # Bangla handwriting: teach a model one archive's hand
#
# {badges}
#
# A library has scanned some hundred handwritten pages and typed a few of them. The rest shall be
# read by a model. In the end you will have
#
# * a model fine-tuned on those pages, its adapter and a merged copy,
# * its error rates before and after, by character and by letter as a reader sees it, with
#   intervals,
# * the conjuncts that it still mixes up, and the lines to look at.
#
# As it stands, the notebook runs on two CPU cores in minutes, without a download: a tiny model and
# a small sample of drawn lines take the places of a large one and of your pages.

# %% [markdown]
# ## Install
#
# Does nothing where the kit is already there; the first time it takes some minutes. The torch and
# the kernel of Colab and Kaggle are kept, so no restart is needed.
#
# * Colab: for a GPU, *Runtime → Change runtime type → T4 GPU*; `tiny` needs none.
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
# `tiny` is the embedded model on a CPU; `bangla` is meant for a GPU of 16 GB (not measured yet).
# Your own `dataset` is a folder or tar that the kit wrote. Or name a folder of one of the known
# data sets as `raw_data`, with its format as `source`. `None` leaves a value to the recipe.

# %% tags=["parameters"]
recipe = "tiny"  # @param ["tiny", "bangla"] {allow-input: true}
dataset = ""  # @param {type:"string"}
raw_data = ""  # @param {type:"string"}
source = "banglawriting"  # @param ["banglawriting", "bn-htrd", "bengali-ai", "folder"]
output_dir = "runs/bangla_handwriting"  # @param {type:"string"}
max_steps = None  # @param {type:"raw"}
learning_rate = None  # @param {type:"raw"}
export_format = "merged_16bit"  # @param ["adapter", "merged_16bit", "merged_4bit", "gguf"]
seed = 42  # @param {type:"integer"}

# %%
from ocrkit import TrainConfig
from ocrkit.environment import load_secrets
from ocrkit.places import mount_drive

config = TrainConfig.from_parameters(globals(), also=["raw_data", "source", "export_format"])
load_secrets()
mount_drive(config.dataset, raw_data, config.output_dir)
print(f"{config.model_name_or_path}, LoRA r={config.lora_r}, learning rate {config.learning_rate}")

# %% [markdown]
# ## Data
#
# Nothing given: a sample of short lines that the project drew in Bangla type, shaken like a hand.
# A tar from Drive is unpacked onto the local disk, and a known format is converted. A page is a
# group: all its lines lie in one split, so the test shows pages that were never trained on.

# %%
from ocrkit import load_data
from ocrkit.places import local_dataset

config.dataset = local_dataset(config.dataset, "bangla", raw_data, source)
data = load_data(config)
print({split: rows.num_rows for split, rows in data.items()})

# %%
from ocrkit.evaluation.browser import gallery

gallery(data["train"], 8)

# %% [markdown]
# ## Model and plan
#
# On a GPU the model comes through Unsloth, elsewhere through transformers and PEFT; in 4-bit where
# the recipe says so (`tiny` does not). The plan counts tokens, says what the pixel budget would
# shrink, and times a few steps.

# %%
from ocrkit import load_model, plan

model, processor = load_model(config)
budget = plan(config, data, model, processor)

# %% [markdown]
# ## Baseline
#
# What the model reads before any training, and what Tesseract reads, where it is installed with its
# Bangla data; on Colab, Kaggle and Debian `!apt-get install -y tesseract-ocr-ben` brings both.

# %%
from ocrkit import evaluate
from ocrkit.evaluation.evaluate import tesseract_baseline

before = evaluate(model, processor, data["test"], config, name="base")
tesseract = tesseract_baseline(data["test"], config)
before

# %% [markdown]
# ## Train
#
# Only the answer carries loss. A few validation lines are read along the way, truth (`TRU`) above
# reading (`PRE`), and `eval_cer` is the same measure as in the report. A run that was stopped goes
# on with `-p resume_from_checkpoint auto`.

# %%
from ocrkit import train

result = train(model, processor, data, config)
print(f"{result.global_step} steps in {result.seconds:.0f} s, mean loss {result.training_loss:.3f}")

# %% [markdown]
# ## Evaluate and compare
#
# One Bangla letter is often several code points: ক্ষ্মী is six. The plain CER counts code points; the
# CER over graphemes counts letters as a reader sees them, so a wrong vowel sign spoils its letter.

# %%
from ocrkit import compare
from ocrkit.evaluation.tables import metric_table

after = evaluate(model, processor, data["test"], config, name="tuned")
comparison = compare(before, *tesseract, after)
metric_table(comparison, ["cer", "cer_grapheme", "wer", "exact_match", "normalized_match"])

# %% [markdown]
# ## Conjuncts
#
# Consonants that join into a new shape are what readers of Bangla fail at. A letter counts as right
# where all of it is.

# %%
from ocrkit.evaluation.tables import confusion_table, conjunct_table

conjunct_table(comparison)

# %%
confusion_table(after, unit="grapheme", kind="conjunct")

# %% [markdown]
# Letters of every kind, the most frequent confusions first:

# %%
confusion_table(after, unit="grapheme")

# %% [markdown]
# ## Look at the readings
#
# Worst first. In a live notebook you can filter by kind of error, length and text.

# %%
from ocrkit.evaluation.browser import browse

browse(comparison)

# %% [markdown]
# ## Report, export, download
#
# The report is one HTML file. The adapter needs its base; the merged model stands alone, and after
# the merge both read some lines: too many differences are an error.

# %%
from ocrkit import export
from ocrkit.run_folder import skipped_counts
from ocrkit.places import download

skipped = skipped_counts(config.output_dir)
report = comparison.save(f"{config.output_dir}/report", history=result.history, skipped=skipped)
folder = f"{config.output_dir}/{export_format}"
exported = export(model, processor, folder, export_format, data["test"], config)
download(config.output_dir, report, result.adapter_dir)

# %% [markdown]
# ## When the numbers disappoint
#
# * Conjuncts stay wrong and are rare in your pages: draw lines that have them,
#   `python -m data_prep.synthesize lines bn --face handwriting --random 0.6 --out data/drawn`, and
#   convert your pages into a second folder; train on the drawn ones first.
# * The same letters are mixed up again and again: `-p loss confusion_weighted` gives them weight.
# * Small signs are lost: raise `min_pixels` in the recipe, the model sees each line larger.
# * CER falls until the end: more `max_steps`. It rises again: fewer, or a lower `learning_rate`.
# * Labels look wrong in the browser: mend them first, nothing else helps as much.
