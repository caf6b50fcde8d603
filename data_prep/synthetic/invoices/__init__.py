"""Draws invoices and their kin."""
