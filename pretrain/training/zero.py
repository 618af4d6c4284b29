"""DeepSpeed ZeRO: the engine, its settings derived from ours, and its state as plain tensors.

Optimizer state enters and leaves the engine as one fp32 tensor per parameter and moment, whatever the stage and the
number of workers; that is what makes checkpoints universal and free of pickles.

DeepSpeed is imported inside functions: it takes seconds, and it chooses its device then, which :func:`start_engine` has
to say first.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pretrain.config import RunSettings
from pretrain.training.deepspeed_internals import (
    create_optimizer_state,
    load_muon_uncompiled,
    skip_shared_memory_operator,
    stage_3_partition,
    without_mlflow,
)

MOMENTS = ("exp_avg", "exp_avg_sq")
# DeepSpeed's own default, in numbers; larger sums are made in several parts.
LARGEST_BUCKET = 500_000_000


def deepspeed_settings(settings: RunSettings, trained_numbers: int) -> dict[str, Any]:
    """The dict that DeepSpeed wants, worked out from ours and the size of what is trained.

    Precision is not in it: parameters, gradients and moments are fp32 and the model itself runs under autocast, so
    that a checkpoint does not depend on the precision it was trained at.
    """
    return {
        "train_micro_batch_size_per_gpu": settings.batch.micro_profiles,
        # the passes of a step are ours: see accumulating
        "gradient_accumulation_steps": 1,
        "gradient_clipping": settings.optimizer.max_gradient_norm,
        # DeepSpeed allocates the bucket whole, whatever the model: by default 2 GB for gradients of 54 MB (37M). On a
        # CPU those 2 GB at the heap's end also made glibc give back, in each step, the memory that is to be kept.
        "zero_optimization": {
            "stage": settings.zero.stage,
            "reduce_bucket_size": min(trained_numbers, LARGEST_BUCKET),
        },
        "steps_per_print": 2**31,
        "wall_clock_breakdown": False,
    }


def start_engine(model: nn.Module, settings: RunSettings) -> Any:
    """A DeepSpeed engine around ``model``, whose weights are already loaded. Needs torch.distributed initialised."""
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if settings.workers.gpu else "cpu")
    with without_mlflow():
        import deepspeed

    skip_shared_memory_operator()
    load_muon_uncompiled()
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        trained,
        lr=settings.optimizer.learning_rate,
        betas=(settings.optimizer.beta1, settings.optimizer.beta2),
        eps=settings.optimizer.epsilon,
        weight_decay=settings.optimizer.weight_decay,
        fused=True,
    )
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        model_parameters=trained,
        config=deepspeed_settings(settings, sum(parameter.numel() for parameter in trained)),
        dist_init_required=False,
    )
    return engine


@contextmanager
def accumulating(engine: Any) -> Iterator[None]:
    """Sum the gradients of all passes inside on each worker, and average them over workers once, at the end.

    Left to itself, DeepSpeed averages those of ZeRO stages 2 and 3 in each pass, of which a step of 4,096 profiles on
    eight workers has 128. The price is that stages 2 and 3 hold whole gradients until the end, as stage 1 does.
    """
    with engine.coalesce_grad_reduction():
        try:
            yield
        except BaseException:
            # gradients are averaged all the same, which would wait for workers that have not failed
            engine.module.zero_grad(set_to_none=True)
            raise


def set_learning_rate(engine: Any, rate: float) -> None:
    for group in engine.optimizer.param_groups:
        group["lr"] = rate


def apply_step(engine: Any) -> bool:
    """Apply the averaged gradients. False where DeepSpeed did not, on any rank, because one of them is not finite."""
    engine.step()
    return bool(engine.was_step_applied())


def gather_weights(engine: Any) -> dict[str, Tensor]:
    """The state dict with released names, on the CPU, on rank 0; empty on the others. All ranks must call it."""
    from deepspeed.runtime.zero import GatheredParameters

    parameters = list(engine.module.parameters())
    with GatheredParameters(parameters, enabled=engine.zero_optimization_stage() == 3):
        if dist.get_rank() != 0:
            return {}
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in engine.module.state_dict().items()}


def gather_moments(engine: Any) -> dict[str, Tensor]:
    """AdamW's moments as ``exp_avg.NAME`` and ``exp_avg_sq.NAME``, fp32 on the CPU, on rank 0. All ranks call it."""
    from deepspeed.utils import safe_get_full_optimizer_state

    moments = {}
    for name, parameter in _trained(engine).items():
        for moment in MOMENTS:
            full = safe_get_full_optimizer_state(parameter, moment)
            if dist.get_rank() == 0:
                moments[f"{moment}.{name}"] = full.detach().to("cpu", copy=True)
    return moments


def scatter_moments(engine: Any, moments: Mapping[str, Tensor], optimizer_steps: int) -> None:
    """The inverse of :func:`gather_moments`: every rank passes all moments and keeps its share.

    ``optimizer_steps`` is AdamW's own count, which its bias correction needs. Raises ValueError for moments that do
    not fit the model.
    """
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    expected = {f"{moment}.{name}" for name in _trained(engine) for moment in MOMENTS}
    if expected != set(moments):
        raise ValueError(f"optimizer state does not fit the model: {sorted(expected ^ set(moments))[:3]}")
    create_optimizer_state(engine, optimizer_steps, MOMENTS)
    for name, parameter in _trained(engine).items():
        for moment in MOMENTS:
            full = moments[f"{moment}.{name}"].to(parameter.device)
            if engine.zero_optimization_stage() == 3:
                safe_set_local_optimizer_state(parameter, stage_3_partition(parameter, full), moment)
            else:
                safe_set_full_optimizer_state(parameter, full, moment)


def _trained(engine: Any) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in engine.module.named_parameters() if parameter.requires_grad}
