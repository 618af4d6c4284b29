"""Readers of what counting and quantifying programs write, one file per sample, one module per program."""
