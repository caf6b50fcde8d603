# %% [markdown]
# # Korean signboards: from a street photograph to a shop's name
#
# {badges}
#
# A map service wants the names on signboards. A reading that is nearly right still finds the shop,
# one that is wholly wrong does not, so one number is not enough. In the end you will have
#
# * a model fine-tuned on signs, its adapter and a merged copy,
# * the share of signs read exactly, read right after normalisation, and read at least 80 % alike,
#   before and after, with intervals,
# * the errors that are left, counted by kind, and the signs to look at.
#
# As it stands, the notebook runs on two CPU cores in minutes, without a download: a tiny model and
# a small sample of drawn signs take the places of a large one and of your photographs.

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
# `tiny` is the embedded model on a CPU; `korean` is meant for a GPU of 16 GB (not measured yet).
# Your own `dataset` is a folder or tar that the kit wrote. Or name a folder of AI Hub's sets as
# `raw_data`, with its format as `source`. `None` leaves a value to the recipe.

# %% tags=["parameters"]
recipe = "tiny"  # @param ["tiny", "korean"] {allow-input: true}
dataset = ""  # @param {type:"string"}
raw_data = ""  # @param {type:"string"}
source = "aihub-outdoor"  # @param ["aihub-outdoor", "aihub-wild", "aihub-public", "folder"]
output_dir = "runs/korean_signboards"  # @param {type:"string"}
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
# Nothing given: a sample of signs that the project painted on boards and photographed at an angle.
# A tar from Drive is unpacked onto the local disk, and a known format is converted. A photograph is
# a group: all its words lie in one split.

# %%
from ocrkit import load_data
from ocrkit.places import local_dataset

config.dataset = local_dataset(config.dataset, "korean", raw_data, source)
data = load_data(config)
print({split: rows.num_rows for split, rows in data.items()})

# %%
from ocrkit.evaluation.browser import gallery

gallery(data["train"], 8)

# %% [markdown]
# ## Model and plan
#
# On a GPU the model comes through Unsloth, elsewhere through transformers and PEFT; in 4-bit where
# the recipe says so (`tiny` does not). The plan counts tokens and warns where the pixel budget
# would make a sign's letters too small to read.

# %%
from ocrkit import load_model, plan

model, processor = load_model(config)
budget = plan(config, data, model, processor)

# %% [markdown]
# ## Baseline
#
# What the model reads before any training, and what Tesseract reads, where it is installed with its
# Korean data; on Colab, Kaggle and Debian `!apt-get install -y tesseract-ocr-kor` brings both.
# Tesseract was made for pages, not for signs.

# %%
from ocrkit import evaluate
from ocrkit.evaluation.evaluate import tesseract_baseline

before = evaluate(model, processor, data["test"], config, name="base")
tesseract = tesseract_baseline(data["test"], config)
before

# %% [markdown]
# ## Train
#
# Only the answer carries loss. A few validation signs are read along the way, truth (`TRU`) above
# reading (`PRE`). The recipe `korean` also damages training pictures as light, weather and cameras
# do; what is tested stays as it is.

# %%
from ocrkit import train

result = train(model, processor, data, config)
print(f"{result.global_step} steps in {result.seconds:.0f} s, mean loss {result.training_loss:.3f}")

# %% [markdown]
# ## Evaluate and compare
#
# *Exact* is equal in every character. *Normalised* leaves out case, spaces and the width of
# letters: `스타 벅스` is `스타벅스`, and ㈜ is (주). *Similar* is at most a fifth of the characters
# wrong.

# %%
from ocrkit import compare
from ocrkit.evaluation.tables import metric_table

after = evaluate(model, processor, data["test"], config, name="tuned")
comparison = compare(before, *tesseract, after)
metric_table(comparison, ["exact_match", "normalized_match", "share_similar", "cer"])

# %% [markdown]
# ## Kinds of error
#
# Spacing and case are cheap to mend afterwards. Extra content means that the model reads on where
# the sign ends, or reads the sign beside it. Wholly wrong is what no map should show.

# %%
from ocrkit.evaluation.tables import kind_table

kind_table(comparison)

# %%
from ocrkit.evaluation.tables import confusion_table

confusion_table(after)

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
# the merge both read some signs: too many differences are an error.

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
# * Many readings are *wholly wrong*: look at their pictures. If you cannot read them either, filter
#   them out; if you can, raise `max_pixels`, or train on word crops instead of whole photographs.
# * Much *extra content*: the crops hold neighbours. Cut them closer, or add that text to the truth.
# * Much *spacing*: decide on one rule for spaces in the labels, and score by `normalized_match`.
# * Rare syllables fail: draw signs that have them, `python -m data_prep.synthesize lines ko --face
#   sign --random 0.5 --out data/drawn`, and train on them first.
# * Night and rain fail: strengthen `augmentation` in the recipe (brightness, blur, shadow).
