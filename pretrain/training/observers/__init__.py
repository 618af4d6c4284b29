"""What happens around the steps of training: metrics, validation, checkpoints, notices.

A run has one ordered list of observers (:mod:`pretrain.training.worker`), the same on all ranks, so that those which
use collectives meet in them. Each owns its state and gives to others only what it was constructed to give.
"""
