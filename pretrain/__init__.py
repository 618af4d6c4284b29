"""Pretrain the hybrid graph and attention encoder with Ray Train and DeepSpeed."""
