"""Evaluate pretrained models: embeddings, downstream tasks and their baselines."""
