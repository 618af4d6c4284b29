"""Simple methods that a model is compared with."""
