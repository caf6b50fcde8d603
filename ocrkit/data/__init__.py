"""From a dataset folder to batches."""
