# %% [markdown]
# ## Read your own picture
#
# Upload or paste a picture, or give its path: it is read before and after training, token by
# token, and marked where the model is unsure. Without widgets, the first test picture is read.

# %%
from ocrkit.evaluation.own_picture import read_own_picture

read_own_picture(model, processor, config, data["test"])
