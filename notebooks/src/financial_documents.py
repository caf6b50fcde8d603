# %% [markdown]
# # Financial documents: receipts to JSON, tables to HTML
#
# {badges}
#
# An office books hundreds of receipts a week. Its software accepts only JSON, and an amount that is
# nearly right is wrong. You will get
#
# * a model that answers with JSON, fine-tuned on your documents, its adapter and a merged copy,
# * the share of answers that pass the schema, and the accuracy of fields, amounts and tables,
#   before and after, with confidence intervals,
# * the fields that fail, and the documents to look at.
#
# By default the notebook runs on two CPU cores in minutes, without a download: a tiny model and
# a small sample of worn receipts and tables replace a large model and your documents.

# %% [markdown]
# {install}

# %% [markdown]
# ## Parameters
#
# `tiny` is the embedded model on a CPU, which shows how fine-tuning goes. To read invoices, take
# `financial`, meant for a GPU of 16 GB (not measured yet); for their text alone, RapidOCR.
# `dataset` is your dataset folder or tar, written by the kit. Or name a folder of a known data set
# as `raw_data`, with its format as `source`. `schema_file` is the JSON Schema of your fields; if it
# is empty, the sample has its own schema, and your data are checked against none.

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
push_to_hub = ""  # @param {type:"string"}
seed = 42  # @param {type:"integer"}

# %%
from ocrkit import TrainConfig
from ocrkit.environment import load_secrets
from ocrkit.places import mount_drive

config = TrainConfig.from_parameters(
    globals(), also=["raw_data", "source", "schema_file", "export_format", "push_to_hub"]
)
load_secrets()
mount_drive(config.dataset, raw_data, config.output_dir)
print(f"{config.model_name_or_path}, LoRA r={config.lora_r}, learning rate {config.learning_rate}")

# %% [markdown]
# ## Data
#
# Without `dataset` and `raw_data`: synthetic worn receipts and tables. A document is a group, in
# one split. The answer to a receipt is JSON on one line, the answer to a table is HTML. The field
# names are other than those that the tiny model was trained on, as yours will be: before
# fine-tuning it answers with the wrong names, so it has to learn the schema as well as to read
# better.

# %%
import json
from pathlib import Path

from data_prep.synthetic.toys import REPHRASED_SCHEMA
from ocrkit import load_data
from ocrkit.evaluation.browser import gallery
from ocrkit.places import local_dataset

if not (config.dataset or raw_data or schema_file):
    schema_file = REPHRASED_SCHEMA
config.dataset = local_dataset(config.dataset, "financial", raw_data, source, task="fields")
data = load_data(config)
schema = json.loads(Path(schema_file).read_text(encoding="utf-8")) if schema_file else None
print({split: rows.num_rows for split, rows in data.items()})
gallery(data["train"], 6)

# %% [markdown]
# ## Who reads this already?
#
# Up to 100 test rows, read with what a person would take instead: RapidOCR, and
# Tesseract where it is installed. What they get wrong is what fine-tuning can win.
# They fill no fields: counted are the right values that stand anywhere in what they read.

# %%
from ocrkit import baseline

baseline(data["test"], config)

# %% [markdown]
# {forecast}

# %% [markdown]
# ## Loss mask
#
# Only the answer is trained on, up to the end-of-turn token. Prompt and picture are masked, because
# a model that is trained on prompts learns to write prompts.

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
# An answer that is not JSON scores 0 in every field. *Field accuracy* is the share of fields with
# the right value, *field F1* and *nTED* are Donut's metrics, *numeric accuracy* compares amounts as
# signed numbers, and *TEDS* is PubTabNet's metric of tables, with and without cell contents.

# %%
from ocrkit import compare
from ocrkit.evaluation.tables import document_table

after = evaluate(model, processor, data["test"], config, name="tuned")
comparison = compare(before, after)
document_table(comparison, schema)

# %% [markdown]
# Differences, paired by document:

# %%
from ocrkit.evaluation.tables import metric_table

metric_table(comparison, ["field_accuracy", "numeric_accuracy", "teds", "cer"])

# %%
from ocrkit.evaluation.tables import field_table

field_table(comparison)

# %% [markdown]
# ## Look at the readings
#
# Worst first. In a running notebook you can also filter by field.

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
# * Answers are truncated (`finish_reason` of the predictions is `length`): raise `max_new_tokens`.
# * Valid JSON, wrong amounts: the print is too small. Raise `max_pixels`, and check the plan.
# * One field fails: check that its labels follow one rule (order of dates, place of the currency).
# * Not enough documents: `python -m data_prep.synthesize invoices --count 5000 --out data/invoices`
#   draws invoices, receipts and statements with their ground truth.
# * Sums do not add up: `python -m data_prep.validate DIR --schema schema.json` finds labels whose
#   amounts contradict each other.
