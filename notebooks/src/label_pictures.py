# %% [markdown]
# # Label pictures: draft, correct, train, draft again
#
# {badges}
#
# You have pictures and no labels, or labels with faults. You will get
#
# * your pictures, cut into lines if you want, with a draft of what each says, the least sure first,
# * a text box in which Enter takes a draft and a few keys correct it, without a mouse,
# * a dataset folder to train on, and the reader's own error rate on your pictures for free,
# * two rounds of correcting and training, and what the drafts saved.
#
# Without `pictures` the notebook labels a small sample that ships with the kit; where nobody is at
# the keyboard (papermill), the truth of the sample answers in your place.

# %% [markdown]
# {install}

# %% [markdown]
# ## Parameters
#
# `pictures` is a folder, a PDF or a glob; `cut_lines` cuts pages into lines first (RapidOCR's
# detector, any script). `reader` drafts: `tiny`, a model or run folder, `rapidocr` or `tesseract`
# for the scripts that they know, or a server's address with `server_model`. `round_size` pictures
# are corrected a round.

# %% tags=["parameters"]
recipe = "tiny"  # @param {type:"string"}
pictures = ""  # @param {type:"string"}
cut_lines = True  # @param {type:"boolean"}
language = "und"  # @param {type:"string"}
reader = "tiny"  # @param {type:"string"}
server_model = ""  # @param {type:"string"}
sample = "korean"  # @param ["bangla", "korean", "chinese"]
round_size = 60  # @param {type:"integer"}
output_dir = "runs/label_pictures"  # @param {type:"string"}
max_steps = 40  # @param {type:"integer"}
seed = 42  # @param {type:"integer"}

# %%
from ocrkit import TrainConfig
from ocrkit.places import mount_drive

config = TrainConfig.from_parameters(
    globals(),
    also=["pictures", "cut_lines", "language", "reader", "server_model", "sample", "round_size"],
)
mount_drive(pictures, config.output_dir)
print(f"drafts by {reader}, training {config.model_name_or_path}")

# %% [markdown]
# ## Pictures and drafts
#
# Pictures go into the labelling folder `<output_dir>/labels`, and every draft and answer after
# them. Run the notebook again, also after the kernel went away, and it goes on from there.

# %%
from ocrkit import load_data
from ocrkit.evaluation.drafts import draft, simulate
from ocrkit.evaluation.labelling import collect_pictures
from ocrkit.places import local_dataset

folder = f"{config.output_dir}/labels"
config.dataset = local_dataset(config.dataset, sample)
data = load_data(config)
source = pictures or data["train"]
labels = collect_pictures(source, folder, cut_lines and bool(pictures), language)
draft(labels, reader, config, server_model)
print(labels.progress(), "answered; the least sure comes first")

# %% [markdown]
# ## Correct
#
# Enter takes the text and Shift+Enter begins a new line; PageDown skips, F2 says that it cannot be
# read, F4 takes the last answer back, PageUp shows the one before. Input methods keep their keys.
# Doubtful characters of the draft are marked. Each answer is on the disk before the next picture.

# %%
from ocrkit.evaluation.label_widget import label

label(labels)

# %% [markdown]
# Where nobody labels, the truth of the sample corrects the first `round_size` drafts. Keystrokes
# are characters typed or deleted, and Enter; moving the cursor is not counted.

# %%
from ocrkit.display.notebook import is_interactive

truths = {row["id"]: row["completion"][0]["content"] for row in data["train"]}
if not pictures and not is_interactive():
    counted = simulate(labels, truths, round_size)
    print(
        "{pictures} pictures: {corrected} keystrokes with drafts, {typed} typing".format(**counted)
    )

# %% [markdown]
# ## The dataset, and what the drafts were worth
#
# What could not be read is in `rejects.jsonl`; pictures of one page stay in one split. The error
# rate is the reader's own on the pictures that you corrected, so far the least sure ones.

# %%
from ocrkit.errors import DataError

try:
    drafts = labels.write(f"{config.output_dir}/data-{labels.checksum()}", seed=config.seed)
    print(drafts)
except DataError as error:
    print(error)

# %% [markdown]
# ## Two rounds, and whether the least sure are worth more
#
# The same on the shipped sample with the truth in your place: correct `round_size` pictures, train,
# draft again, correct as many more, train. Once the pictures of which the model is least sure are
# corrected, once random ones; the test rows are the same. This is one seed, so read the
# intervals: `rounds(..., seeds=[42, 43, 44])` runs three, and their table is in
# `notebooks/benchmarks/README.md`.

# %%
from ocrkit.training.rounds import rounds, rounds_table

results = rounds(config, data, round_size=round_size, seeds=[config.seed])
rounds_table(results)

# %% [markdown]
# ## Labels that a report suspects
#
# `relabel` opens the same text box on labels that a model reads confidently and otherwise, and on
# the worst rows; `write_corrected` writes a new dataset with a record of every change. Nothing is
# changed in place.

# %%
from ocrkit.evaluation.relabel import relabel

checked = relabel(results[-1]["evaluation"], f"{config.output_dir}/relabel", data)
label(checked)

# %%
from ocrkit.evaluation.relabel import write_corrected

right = {row["id"]: row["completion"][0]["content"] for row in data["test"]}
if not is_interactive():
    simulate(checked, right)
changes = write_corrected(data, checked, f"{config.output_dir}/corrected-{checked.checksum()}")
print(f"{len(changes)} labels changed")

# %% [markdown]
# ## What to try next
#
# * Train on the folder that `labels.write` made: any notebook's `dataset`.
# * More pictures than one machine reads: `reader` may be a server, see `notebooks/README.md`.
