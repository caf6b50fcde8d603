# %% [markdown]
# ## Which card, model and plan
#
# The forecast simulates a training step from the model's config, without weights and without a
# GPU, for cards that you could rent; it is no measurement.
#
# On a GPU the model is loaded by Unsloth, otherwise by transformers and PEFT; in 4-bit if the
# recipe says so. The plan counts tokens, lists pictures that the pixel budget shrinks, warns where
# it makes letters too small to read, and times a few steps.

# %%
from ocrkit import forecast, load_model, plan

cards = forecast(config, data)
model, processor = load_model(config)
budget = plan(config, data, model, processor)
