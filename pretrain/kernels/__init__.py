"""Operators of the fused kernel, each with its gradient."""
