"""Load, adapt, read with and write out a model."""
