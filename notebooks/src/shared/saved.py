# %% [markdown]
# ## Use what was saved
#
# As in another notebook: a fresh model with the weights from the disk reads a few rows. To share
# them, set `push_to_hub` to `you/name` above; it takes a secret `HF_TOKEN`.

# %%
from dataclasses import replace

from ocrkit import load_model, predict
from ocrkit.data.rows import text_of
from ocrkit.display.tables import Table

few = data["test"].take(3)
fresh = replace(config, model_name_or_path=config.output_dir)
readings = predict(*load_model(fresh), few, config)
Table([{"truth": text_of(r["completion"]), "read": text} for r, text in zip(few, readings)])

# %%
from ocrkit import export

if push_to_hub:
    export(model, processor, f"{config.output_dir}/hub", "adapter", push_to_hub=push_to_hub)
