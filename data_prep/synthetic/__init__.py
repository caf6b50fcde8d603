"""Synthetic datasets: lines, receipts, documents and toy tasks, drawn with their texts."""
