# %% [markdown]
# # Visual questions: what the picture shows, and what one has to know
#
# {badges}
#
# A museum wants a guide that answers questions on its pictures. Some answers stand in the picture,
# others only in the catalogue. In the end you will have
#
# * a model fine-tuned on questions and answers, its adapter and a merged copy,
# * the share of right answers, strictly and as SQuAD counts them, with intervals,
# * the same for questions that need knowledge, asked with and without it.
#
# As it stands, the notebook runs on two CPU cores in minutes, without a download: a tiny model and
# a small sample of questions about worn price tags take the places of a large one and of AQUA.

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
# `tiny` is the embedded model on a CPU; `vqa` is meant for a GPU of 40 GB (not measured yet). Your
# own `dataset` is a folder or tar that the kit wrote. Or name a folder of a known data set as
# `raw_data`, with its format as `source`; AQUA's paintings and what is told about them lie in
# `images` and `knowledge`. `None` leaves a value to the recipe.

# %% tags=["parameters"]
recipe = "tiny"  # @param ["tiny", "vqa"] {allow-input: true}
dataset = ""  # @param {type:"string"}
raw_data = ""  # @param {type:"string"}
source = "aqua"  # @param ["aqua", "llava", "openai", "trl"]
images = ""  # @param {type:"string"}
knowledge = ""  # @param {type:"string"}
output_dir = "runs/visual_question_answering"  # @param {type:"string"}
max_steps = None  # @param {type:"raw"}
learning_rate = None  # @param {type:"raw"}
normalization_profile = "squad"  # @param ["squad", "strict", "lenient"]
export_format = "merged_16bit"  # @param ["adapter", "merged_16bit", "merged_4bit"]
seed = 42  # @param {type:"integer"}

# %%
from ocrkit import TrainConfig
from ocrkit.environment import load_secrets
from ocrkit.places import mount_drive

config = TrainConfig.from_parameters(
    globals(), also=["raw_data", "source", "images", "knowledge", "export_format"]
)
load_secrets()
mount_drive(config.dataset, raw_data, images, knowledge, config.output_dir)
print(f"{config.model_name_or_path}, LoRA r={config.lora_r}, learning rate {config.learning_rate}")

# %% [markdown]
# ## Data
#
# Nothing given: a sample that the project drew, asking in words that the tiny model was not trained
# on. A question that needs knowledge has it in front, as the catalogue's sentence; neither the
# sentence nor the picture alone tells the answer. AQUA is asked in the same way: `-p raw_data AQUA
# -p images SemArt/Images -p knowledge SemArt`, where `knowledge` takes all three of its tables.

# %%
from ocrkit import load_data
from ocrkit.places import local_dataset

config.dataset = local_dataset(
    config.dataset, "vqa", raw_data, source, images=images, knowledge=knowledge
)
data = load_data(config)
print({split: rows.num_rows for split, rows in data.items()})

# %%
from ocrkit.evaluation.browser import gallery

gallery(data["train"], 6)

# %% [markdown]
# ## Model and plan

# %%
from ocrkit import load_model, plan

model, processor = load_model(config)
budget = plan(config, data, model, processor)

# %% [markdown]
# ## Baseline

# %%
from ocrkit import evaluate

before = evaluate(model, processor, data["test"], config, name="base")
before

# %% [markdown]
# ## Train
#
# The question differs from row to row, and only the answer carries loss.

# %%
from ocrkit import train

result = train(model, processor, data, config)
print(f"{result.global_step} steps in {result.seconds:.0f} s, mean loss {result.training_loss:.3f}")

# %% [markdown]
# ## Evaluate, with and without knowledge
#
# The same questions on the same pictures are asked twice: with the sentence, and without it. What
# falls without it was not guessed.

# %%
from ocrkit.data.load import without_knowledge

after = evaluate(model, processor, data["test"], config, name="tuned")
untold = evaluate(model, processor, without_knowledge(data["test"]), config, name="untold")

# %% [markdown]
# *Strict* is equal but for white space. *SQuAD* leaves out case, punctuation and articles: "The
# Nightwatch." is "nightwatch".

# %%
from ocrkit import compare
from ocrkit.evaluation.tables import match_table, metric_table

comparison = compare(before, untold, after)
match_table(comparison, ["strict", "squad"], by="need_external_knowledge")

# %% [markdown]
# The differences to the base, paired over pictures:

# %%
metric_table(comparison, ["exact_match", "normalized_match", "cer"])

# %% [markdown]
# ## Look at the answers
#
# Worst first. In a live notebook you can filter by kind of error, length and text.

# %%
from ocrkit.evaluation.browser import browse

browse(compare(before, after))

# %% [markdown]
# ## Report, export, download

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
# * Strict is low and SQuAD high: the answers are right in other words. Agree on a form in the
#   labels, or judge by SQuAD.
# * Untold is as good as told: the model guesses from the question. Balance the answers.
# * Told is no better than untold: the sentence is too long, or cut. Look at the plan's tokens.
# * Answers became long: train on short ones, or lower `max_new_tokens`.
# * It forgot how to read: mix lines into the training split, or lower `learning_rate`.
