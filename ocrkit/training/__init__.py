"""Train a model: the loop, losses, callbacks, checkpoints, and what to know before a run."""
