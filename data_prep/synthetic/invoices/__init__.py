"""Synthetic invoices, receipts, statements and bills, with their truth as JSON."""
