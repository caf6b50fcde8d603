# %% [markdown]
# # Financial documents: receipts to JSON, tables to HTML
#
# {badges}
#
# An office books hundreds of receipts a week. A program behind the model takes JSON and nothing
# else, and an amount that is nearly right is wrong. In the end you will have
#
# * a model that answers with JSON, fine-tuned on your documents, its adapter and a merged copy,
# * the share of answers that pass the schema, and of fields, amounts and tables that are right,
#   before and after, with intervals,
# * the fields that fail, and the documents to look at.
#
# As it stands, the notebook runs on two CPU cores in minutes, without a download: a tiny model and
# a small sample of worn receipts and tables take the places of a large one and of your documents.

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
# `tiny` is the embedded model on a CPU; `financial` is meant for a GPU of 16 GB (not measured yet).
# Your own `dataset` is a folder or tar that the kit wrote. Or name a folder of a known data set as
# `raw_data`, with its format as `source`. `schema_file` is the JSON Schema of your fields; empty is
# the sample's for the sample, and none for your own data.

# %% tags=["parameters"]
recipe = "tiny"  # @param ["tiny", "financial"] {allow-input: true}
dataset = ""  # @param {type:"string"}
raw_data = ""  # @param {type:"string"}
source = "sroie"  # @param ["sroie", "cord", "wildreceipt", "funsd", "finscribe", "pdf"]
schema_file = ""  # @param {type:"string"}
output_dir = "runs/financial_documents"  # @param {type:"string"}
max_steps = None  # @param {type:"raw"}
learning_rate = None  # @param {type:"raw"}
normalization_profile = "strict"  # @param ["strict", "lenient"]
export_format = "merged_16bit"  # @param ["adapter", "merged_16bit", "merged_4bit"]
seed = 42  # @param {type:"integer"}

# %%
from ocrkit import TrainConfig
from ocrkit.environment import load_secrets
from ocrkit.places import mount_drive

config = TrainConfig.from_parameters(
    globals(), also=["raw_data", "source", "schema_file", "export_format"]
)
load_secrets()
mount_drive(config.dataset, raw_data, config.output_dir)
print(f"{config.model_name_or_path}, LoRA r={config.lora_r}, learning rate {config.learning_rate}")

# %% [markdown]
# ## Data
#
# Nothing given: receipts and tables that the project drew and wore down. A document is a group and
# lies in one split. The truth of a receipt is JSON on one line, that of a table HTML. The fields
# have names that the tiny model was not trained on, as those of your bookkeeping will: at first it
# answers with its own, and what it gains is your schema as well as better reading.

# %%
import json

from data_prep.synthetic.toys import REPHRASED_SCHEMA
from ocrkit import load_data
from ocrkit.places import local_dataset

if not (config.dataset or raw_data or schema_file):
    schema_file = REPHRASED_SCHEMA
config.dataset = local_dataset(config.dataset, "financial", raw_data, source, task="fields")
data = load_data(config)
schema = json.loads(Path(schema_file).read_text(encoding="utf-8")) if schema_file else None
print({split: rows.num_rows for split, rows in data.items()})

# %%
from ocrkit.evaluation.browser import gallery

gallery(data["train"], 6)

# %% [markdown]
# ## Model and plan
#
# On a GPU the model comes through Unsloth, elsewhere through transformers and PEFT; in 4-bit where
# the recipe says so (`tiny` does not). The plan warns where the pixel budget would make print too
# small to read.

# %%
from ocrkit import load_model, plan

model, processor = load_model(config)
budget = plan(config, data, model, processor)

# %% [markdown]
# ## What is trained
#
# Only the answer, up to the end of the turn. The prompt and the picture carry no loss: a model that
# is trained on them learns to write prompts.

# %%
from ocrkit.evaluation.tables import loss_table

loss_table(data["train"].take(1)[0], processor, config)

# %% [markdown]
# ## Baseline

# %%
from ocrkit import evaluate

before = evaluate(model, processor, data["test"], config, name="base")
before

# %% [markdown]
# ## Train

# %%
from ocrkit import train

result = train(model, processor, data, config)
print(f"{result.global_step} steps in {result.seconds:.0f} s, mean loss {result.training_loss:.3f}")

# %% [markdown]
# ## Evaluate and compare
#
# An answer that is no JSON scores 0 in every field. *Field accuracy* counts values at their places,
# *field F1* and *nTED* are Donut's measures, *numeric accuracy* compares amounts as numbers with
# their signs, and *TEDS* is PubTabNet's for tables, with and without their contents.

# %%
from ocrkit import compare
from ocrkit.evaluation.tables import document_table

after = evaluate(model, processor, data["test"], config, name="tuned")
comparison = compare(before, after)
document_table(comparison, schema)

# %% [markdown]
# The differences, paired over documents:

# %%
from ocrkit.evaluation.tables import field_table, metric_table

metric_table(comparison, ["field_accuracy", "numeric_accuracy", "teds", "cer"])

# %%
field_table(comparison)

# %% [markdown]
# ## Look at the readings
#
# Worst first. In a live notebook you can filter by field as well.

# %%
from ocrkit.evaluation.browser import browse

browse(comparison)

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
# * Answers are cut: raise `max_new_tokens`; the column `finish_reason` of the predictions says so.
# * Valid JSON, wrong amounts: the print is too small. Raise `max_pixels`, and watch the plan.
# * One field fails: look whether the labels agree on it (a date's order, a currency's place).
# * Not enough documents: `python -m data_prep.synthesize invoices --count 5000 --out data/invoices`
#   draws invoices, receipts and statements with their truth.
# * Sums do not add up: `python -m data_prep.validate DIR --schema schema.json` finds labels that
#   contradict themselves.
