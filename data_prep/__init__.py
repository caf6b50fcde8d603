"""Turn datasets for reading from their published formats into one that trainers take."""
