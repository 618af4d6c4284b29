"""Predictions of a training run before there is one: memory, time, cost, checkpoints."""
