"""Measurements of training steps."""
