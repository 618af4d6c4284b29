"""Settings of heads chosen inside the training folds."""
