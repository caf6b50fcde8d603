# %% [markdown]
# # Bangla handwriting: fine-tune a model on the pages of one archive
#
# {badges}
#
# A library has scanned some hundred handwritten pages and transcribed a few of them. A model shall
# read the rest. You will get
#
# * a model fine-tuned on those pages, its adapter and a merged copy,
# * its error rates before and after, by code point and by grapheme, with confidence intervals,
# * the conjuncts that it still confuses, and the lines to look at.
#
# By default the notebook runs on two CPU cores in minutes, without a download: a tiny model and
# a small sample of drawn lines replace a large model and your pages.

# %% [markdown]
# {install}

# %% [markdown]
# ## Parameters
#
# `tiny` is the embedded model on a CPU, which shows how fine-tuning goes. To read Bangla, take
# `bangla`, meant for a GPU of 16 GB (not measured yet).
# `dataset` is your dataset folder or tar, written by the kit. Or name a folder of one of the known
# data sets as `raw_data`, with its format as `source`. `None` takes the recipe's value.

# %% tags=["parameters"]
recipe = "tiny"  # @param ["tiny", "bangla"] {allow-input: true}
dataset = ""  # @param {type:"string"}
raw_data = ""  # @param {type:"string"}
source = "banglawriting"  # @param ["banglawriting", "bn-htrd", "bengali-ai", "folder"]
output_dir = "runs/bangla_handwriting"  # @param {type:"string"}
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
# Without `dataset` and `raw_data`: a sample of short synthetic lines in Bangla fonts, distorted
# like handwriting. A tar on Drive is unpacked to the local disk, and a known format is converted. A
# page is a group: all its lines are in one split, so the test split has no page that was trained
# on.

# %%
from ocrkit import load_data
from ocrkit.evaluation.browser import gallery
from ocrkit.places import local_dataset

config.dataset = local_dataset(config.dataset, "bangla", raw_data, source)
data = load_data(config)
print({split: rows.num_rows for split, rows in data.items()})
gallery(data["train"], 8)

# %% [markdown]
# ## Who reads this already?
#
# Up to 100 test rows, read with what a person would take instead: RapidOCR, and
# Tesseract where it is installed (on Colab, Kaggle and Debian by `!apt-get install -y
# tesseract-ocr-ben`). What they get wrong is what fine-tuning can win.

# %%
from ocrkit import baseline

baseline(data["test"], config)

# %% [markdown]
# {forecast}

# %% [markdown]
# ## Baseline
#
# Evaluation of the model before training, and of the engines on all test rows.

# %%
from ocrkit import evaluate
from ocrkit.evaluation.baseline import evaluate_engines

before = evaluate(model, processor, data["test"], config, name="base")
engines = evaluate_engines(data["test"], config)
before

# %% [markdown]
# ## Train
#
# Only the answer is trained on (the loss of the prompt is masked). A few
# validation lines are read during training and shown as reference (`TRU`) above prediction (`PRE`);
# `eval_cer` is the same metric as in the report. `-p resume_from_checkpoint auto` resumes a run.

# %%
from ocrkit import train

result = train(model, processor, data, config)
print(f"{result.global_step} steps in {result.seconds:.0f} s, mean loss {result.training_loss:.3f}")

# %% [markdown]
# ## Evaluate and compare
#
# A Bangla grapheme often consists of several code points: ক্ষ্মী has six. CER counts code points;
# the grapheme CER counts graphemes, the letters that a reader sees, so one wrong vowel sign makes
# the whole grapheme wrong.

# %%
from ocrkit import compare
from ocrkit.evaluation.tables import metric_table

after = evaluate(model, processor, data["test"], config, name="tuned")
comparison = compare(before, *engines, after)
metric_table(comparison, ["cer", "cer_grapheme", "wer", "exact_match", "normalized_match"])

# %% [markdown]
# ## Conjuncts
#
# Conjuncts, consonants that join into a new shape, are the hardest part of Bangla. A grapheme
# counts as right only if all of it is right.

# %%
from ocrkit.evaluation.tables import conjunct_table

conjunct_table(comparison)

# %%
from ocrkit.evaluation.tables import confusion_table

confusion_table(after, unit="grapheme", kind="conjunct")

# %% [markdown]
# Confusions of all graphemes, the most frequent first:

# %%
from ocrkit.evaluation.tables import confusion_table

confusion_table(after, unit="grapheme")

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
# files. After the merge, both read some lines, and too many differences are an error.

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
# * Conjuncts stay wrong and are rare in your pages: draw lines with conjuncts,
#   `python -m data_prep.synthesize lines bn --face handwriting --random 0.6 --out data/drawn`, and
#   train on them first, then on your pages.
# * The same letters are confused repeatedly: `-p loss confusion_weighted` gives them more weight.
# * Small signs are lost: raise `min_pixels` in the recipe, so that the model sees larger lines.
# * CER falls until the end: raise `max_steps`. It rises again: lower `max_steps` or
#   `learning_rate`.
# * Labels look wrong in the browser: correct them first, nothing else helps as much.
