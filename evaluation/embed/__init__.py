"""``evaluation embed``."""
