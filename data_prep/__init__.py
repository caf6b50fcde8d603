"""Turn datasets for reading, from the formats they are published in, into one that trainers take."""
