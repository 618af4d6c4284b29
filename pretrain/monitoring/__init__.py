"""Metrics, rates and profiles of a run."""
