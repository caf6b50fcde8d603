"""Draws data where there is none."""
