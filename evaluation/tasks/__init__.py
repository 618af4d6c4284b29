"""Downstream tasks, each with its baselines."""
