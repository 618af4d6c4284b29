"""Every name of DeepSpeed that is not part of its documented interface, and why it is used.

DeepSpeed is pinned to one version in pyproject.toml.
``tests/integration/pretrain/test_pretrain_deepspeed_internals.py`` fails when a name has gone, and when DeepSpeed no
longer does what made it necessary.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def skip_shared_memory_operator() -> None:
    """Keep DeepSpeed from compiling its all-reduce through shared memory (``deepspeed.ops.__compatible_ops__``).

    On CPUs it would run g++ for a minute on every new machine, in each worker's start; only its inference path uses
    the operator. There is no setting for it.
    """
    import deepspeed  # takes seconds, and only workers need it

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


@contextmanager
def without_mlflow() -> Iterator[None]:
    """Keep ``import deepspeed`` from loading MLflow, which takes a second (``deepspeed.autotuning.autotuner``).

    Its autotuner loads it where it is installed and does without it elsewhere; there is no setting. No other thread may
    import MLflow meanwhile; afterwards it can be imported as ever.
    """
    hidden = "mlflow" not in sys.modules
    if hidden:
        sys.modules["mlflow"] = None  # type: ignore[assignment]  # the import raises ImportError
    try:
        yield
    finally:
        if hidden:
            del sys.modules["mlflow"]


def load_muon_uncompiled() -> None:
    """Load the Muon optimizer without compiling its functions (``deepspeed.runtime.compiler.compile``).

    Every engine loads it, whatever its optimizer, to see whether that is one; to decorate functions that nothing here
    calls, all of torch's compiler would be loaded, which takes more than a second in each worker's start. There is no
    setting for it.
    """
    from deepspeed.runtime import compiler

    compile_function, compiler.compile = compiler.compile, lambda: lambda function: function
    try:
        import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401
    finally:
        compiler.compile = compile_function


def create_optimizer_state(engine: Any, optimizer_steps: int, moments: Sequence[str]) -> None:
    """Create the state that AdamW would create at its first step, so that moments can be set before it.

    Uses the fp32 partitions that the wrapped optimizer steps on (``fp32_partitioned_groups_flat`` of stage 3,
    ``single_partition_of_fp32_groups`` of stages 1 and 2) and, for the latter, the method that links parameters to
    their moments (``_lazy_init_hp_params_optimizer_state``). DeepSpeed itself creates that state only by a step or by
    loading a checkpoint of its own; until then its ``safe_set_*`` functions have nothing to set.
    """
    optimizer = engine.optimizer
    stage_3 = engine.zero_optimization_stage() == 3
    partitions = optimizer.fp32_partitioned_groups_flat if stage_3 else optimizer.single_partition_of_fp32_groups
    for partition in partitions:
        optimizer.optimizer.state[partition] = {
            "step": torch.tensor(float(optimizer_steps), device=partition.device),
            **{moment: torch.zeros_like(partition) for moment in moments},
        }
    if not stage_3:
        optimizer._lazy_init_hp_params_optimizer_state()


def stage_3_partition(parameter: nn.Parameter, full: Tensor) -> Tensor:
    """Return this rank's partition of a tensor that is shaped like a parameter of stage 3 (``ds_tensor.ds_numel``).

    Stage 3 cuts a parameter into equal parts and pads the last. ``safe_set_full_optimizer_state`` does not pad, and
    fails on the last rank where the size does not divide.
    """
    size = parameter.ds_tensor.ds_numel  # type: ignore[attr-defined]
    padded = full.new_zeros(size * dist.get_world_size())
    padded[: full.numel()] = full.flatten()
    return padded.narrow(0, size * dist.get_rank(), size)
