"""What a dataset folder is, and how it is written whole."""
