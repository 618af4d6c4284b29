"""Scores: how they are computed, shown, stored and tracked."""
