"""Dataset rows to batches: loading, order, augmentation and the collator."""
