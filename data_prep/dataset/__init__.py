"""Dataset folders: their schema, splits, pictures and files, read and written atomically."""
