# %% [markdown]
# # Korean signboards: read shop names in street photographs
#
# {badges}
#
# A map service wants the names on signboards. A prediction that is nearly right still finds the
# shop, one that is wholly wrong does not, so one metric is not enough. You will get
#
# * a model fine-tuned on signs, its adapter and a merged copy,
# * the share of exact matches, normalized matches, and predictions at least 80 % similar, before
#   and after, with confidence intervals,
# * the remaining errors, counted by kind, and the signs to look at.
#
# By default the notebook runs on two CPU cores in minutes, without a download: a tiny model and
# a small sample of drawn signs replace a large model and your photographs.

# %% [markdown]
# {install}

# %% [markdown]
# ## Parameters
#
# `tiny` is the embedded model on a CPU, which shows how fine-tuning goes. To read signs, take
# `korean`, meant for a GPU of 16 GB (not measured yet).
# `dataset` is your dataset folder or tar, written by the kit. Or name a folder of AI Hub's sets as
# `raw_data`, with its format as `source`. `None` takes the recipe's value.

# %% tags=["parameters"]
recipe = "tiny"  # @param ["tiny", "korean"] {allow-input: true}
dataset = ""  # @param {type:"string"}
raw_data = ""  # @param {type:"string"}
source = "aihub-outdoor"  # @param ["aihub-outdoor", "aihub-wild", "aihub-public", "folder"]
output_dir = "runs/korean_signboards"  # @param {type:"string"}
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
    globals(), also=["raw_data", "source", "export_format", "push_to_hub"]
)
load_secrets()
mount_drive(config.dataset, raw_data, config.output_dir)
print(f"{config.model_name_or_path}, LoRA r={config.lora_r}, learning rate {config.learning_rate}")

# %% [markdown]
# ## Data
#
# Without `dataset` and `raw_data`: a sample of synthetic signboards, seen at an angle. A tar on
# Drive is unpacked to the local disk, and a known format is converted. A photograph is a group: all
# its words are in one split.

# %%
from ocrkit import load_data
from ocrkit.evaluation.browser import gallery
from ocrkit.places import local_dataset

config.dataset = local_dataset(config.dataset, "korean", raw_data, source)
data = load_data(config)
print({split: rows.num_rows for split, rows in data.items()})
gallery(data["train"], 8)

# %% [markdown]
# ## Who reads this already?
#
# Up to 100 test rows, read with what a person would take instead: RapidOCR, and
# Tesseract where it is installed (on Colab, Kaggle and Debian by `!apt-get install -y
# tesseract-ocr-kor`). What they get wrong is what fine-tuning can win.

# %%
from ocrkit import baseline

baseline(data["test"], config)

# %% [markdown]
# {forecast}

# %% [markdown]
# ## Baseline
#
# Evaluation of the model before training, and of the engines on all test rows. They were made for
# pages, not for signs.

# %%
from ocrkit import evaluate
from ocrkit.evaluation.baseline import evaluate_engines

before = evaluate(model, processor, data["test"], config, name="base")
engines = evaluate_engines(data["test"], config)
before

# %% [markdown]
# ## Train
#
# Only the answer is trained on (the loss of the prompt is masked). A few validation signs are read
# during training and shown as reference (`TRU`) above prediction (`PRE`). The recipe `korean` also
# augments training pictures with the effects of light, weather and cameras; test pictures are not
# augmented.

# %%
from ocrkit import train

result = train(model, processor, data, config)
print(f"{result.global_step} steps in {result.seconds:.0f} s, mean loss {result.training_loss:.3f}")

# %% [markdown]
# ## Evaluate and compare
#
# An *exact match* is equal in every character. A *normalized match* ignores case, spaces and the
# width of letters: `스타 벅스` equals `스타벅스`, and ㈜ equals (주). *Similar* means at most a
# fifth of the characters wrong.

# %%
from ocrkit import compare
from ocrkit.evaluation.tables import metric_table

after = evaluate(model, processor, data["test"], config, name="tuned")
comparison = compare(before, *engines, after)
metric_table(comparison, ["exact_match", "normalized_match", "share_similar", "cer"])

# %% [markdown]
# ## Kinds of error
#
# Errors of spacing and case are easy to correct afterwards. *Extra content* means that the model
# adds text after the sign or reads the sign beside it. A *wholly wrong* prediction should be on no
# map.

# %%
from ocrkit.evaluation.tables import kind_table

kind_table(comparison)

# %%
from ocrkit.evaluation.tables import confusion_table

confusion_table(after)

# %% [markdown]
# ## Look at the readings
#
# Worst first. In a running notebook you can filter by kind of error, length and text.

# %%
from ocrkit.evaluation.browser import browse

browse(comparison)

# %% [markdown]
# {own_picture}

# %% [markdown]
# ## Report, export, download
#
# The report is one HTML file. The adapter needs its base model, the merged model needs no other
# files. After the merge, both read some signs, and too many differences are an error.

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
# * Many predictions are *wholly wrong*: look at their pictures. If you cannot read them either,
#   filter them out; if you can, raise `max_pixels`, or train on word crops instead of photographs.
# * Much *extra content*: the crops contain neighbouring signs. Crop closer, or add their text to
#   the labels.
# * Many *spacing* errors: use one rule for spaces in the labels, and compare by `normalized_match`.
# * Rare syllables fail: draw signs with them, `python -m data_prep.synthesize lines ko --face
#   sign --random 0.5 --out data/drawn`, and train on them first.
# * Night and rain fail: strengthen `augmentation` in the recipe (brightness, blur, shadow).
