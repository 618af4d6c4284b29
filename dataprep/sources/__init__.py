"""Readers of the forms in which people publish expression data."""
