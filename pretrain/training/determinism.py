"""Runs that repeat to the bit."""

from __future__ import annotations

import os

import torch


def use_deterministic_algorithms() -> None:
    """Have torch use algorithms that give the same bits each time in this process, and raise where it has none.

    On CPUs nearly all are; on GPUs some are slower, and cuBLAS needs a workspace of its own for each stream, which it
    learns of from the environment when its first product runs. It says nothing of other devices, other numbers of
    threads or workers, or compiled code that chooses its algorithms by timing them.
    """
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
