"""Scaling laws: how the validation loss falls with the size of the model and the number of profiles."""
