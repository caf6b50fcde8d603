# %% [markdown]
# # Visual question answering: questions about pictures, with and without knowledge
#
# {badges}
#
# A museum wants a guide that answers questions about its pictures. Some answers are in the picture,
# others only in the catalogue. You will get
#
# * a model fine-tuned on questions and answers, its adapter and a merged copy,
# * the share of right answers, by strict and by SQuAD matching, with confidence intervals,
# * the same for questions that need knowledge, asked with and without it.
#
# By default the notebook runs on two CPU cores in minutes, without a download: a tiny model and
# a small sample of questions about worn price tags replace a large model and AQUA.

# %% [markdown]
# {install}

# %% [markdown]
# ## Parameters
#
# `tiny` is the embedded model on a CPU, which shows how fine-tuning goes. To answer questions, take
# `vqa`, meant for a GPU of 24 GB (forecast, not measured). Your own `dataset` is a folder or tar
# that the kit wrote. Or name a folder of a known data set as `raw_data`, with its format as
# `source`; `images` and `knowledge` are the folders of AQUA's paintings and of their descriptions.
# `None` takes the recipe's value.

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
push_to_hub = ""  # @param {type:"string"}
seed = 42  # @param {type:"integer"}

# %%
from ocrkit import TrainConfig
from ocrkit.environment import load_secrets
from ocrkit.places import mount_drive

config = TrainConfig.from_parameters(
    globals(), also=["raw_data", "source", "images", "knowledge", "export_format", "push_to_hub"]
)
load_secrets()
mount_drive(config.dataset, raw_data, images, knowledge, config.output_dir)
print(f"{config.model_name_or_path}, LoRA r={config.lora_r}, learning rate {config.learning_rate}")

# %% [markdown]
# ## Data
#
# Without `dataset` and `raw_data`: a synthetic sample, with questions that the tiny model was not
# trained on. A question that needs knowledge follows a sentence of the catalogue; neither the
# sentence nor the picture alone contains the answer. AQUA has the same form: `-p raw_data AQUA -p
# images SemArt/Images -p knowledge SemArt`, where `knowledge` contains all three of its tables.

# %%
from ocrkit import load_data
from ocrkit.evaluation.browser import gallery
from ocrkit.places import local_dataset

config.dataset = local_dataset(
    config.dataset, "vqa", raw_data, source, images=images, knowledge=knowledge
)
data = load_data(config)
print({split: rows.num_rows for split, rows in data.items()})
gallery(data["train"], 6)

# %% [markdown]
# ## Who reads this already?
#
# Up to 100 test rows, read with what a person would take instead: RapidOCR, and
# Tesseract where it is installed. What they get wrong is what fine-tuning can win.
# They answer no questions: counted are the right answers that stand anywhere in what they read.

# %%
from ocrkit import baseline

baseline(data["test"], config)

# %% [markdown]
# {forecast}

# %% [markdown]
# ## Baseline

# %%
from ocrkit import evaluate

before = evaluate(model, processor, data["test"], config, name="base")
before

# %% [markdown]
# ## Train
#
# Every row has its own question, and only the answer is trained on (the prompt is masked).

# %%
from ocrkit import train

result = train(model, processor, data, config)
print(f"{result.global_step} steps in {result.seconds:.0f} s, mean loss {result.training_loss:.3f}")

# %% [markdown]
# ## Evaluate, with and without knowledge
#
# The same questions about the same pictures are asked twice, with and without the sentence of
# knowledge. If the accuracy falls without the sentence, the model did use it.

# %%
from ocrkit.data.load import without_knowledge

after = evaluate(model, processor, data["test"], config, name="tuned")
unaided = evaluate(model, processor, without_knowledge(data["test"]), config, name="no-knowledge")

# %% [markdown]
# A *strict* match ignores only whitespace. A *SQuAD* match also ignores case, punctuation and
# articles: "The Nightwatch." equals "nightwatch". It is for English; for answers in other languages
# set `normalization_profile = "lenient"`: it ignores case, whitespace and spellings of a character.

# %%
from ocrkit import compare
from ocrkit.evaluation.tables import match_table

comparison = compare(before, unaided, after)
match_table(comparison, ["strict", config.normalization_profile], by="need_external_knowledge")

# %% [markdown]
# Differences to the base model, paired by picture:

# %%
from ocrkit.evaluation.tables import metric_table

metric_table(comparison, ["exact_match", "normalized_match", "cer"])

# %% [markdown]
# ## Look at the answers
#
# Worst first. In a running notebook you can filter by kind of error, length and text.

# %%
from ocrkit.evaluation.browser import browse

browse(compare(before, after))

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
# * *Strict* is low and *SQuAD* high: answers are right but have another form. Use one form in the
#   labels, or compare by *SQuAD*.
# * `no-knowledge` is too good: the model guesses from the question. Balance the answers.
# * Knowledge does not help: the sentence may be too long or truncated. Check the plan's tokens.
# * Answers became long: train on short answers, or lower `max_new_tokens`.
# * The model forgot how to read: mix lines into the training split, or lower `learning_rate`.
