"""Convert, draw, check and pack datasets of pictures and texts, without ocrkit and torch."""
