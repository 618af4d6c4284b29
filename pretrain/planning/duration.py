"""Time of a pass and of an optimizer step: estimates from data sheets, or scaled to a pass that was measured.

A roofline for each operation (Williams, Waterman, Patterson 2009, CACM 52(4), Roofline): the longer of its FLOPs and
its bytes, each at the assumed share of what the data sheet says. The host launches operations one after the other,
which may take longer than they do. Sums over workers go around a ring (Patarasuk and Yuan 2009, J. Parallel Distrib.
Comput. 69(2), Bandwidth optimal all-reduce algorithms): each of N moves 2 (N - 1) / N of the bytes, at the rate of the
slowest link.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from pretrain.planning.accelerators import Accelerator
from pretrain.planning.memory import FP32
from pretrain.planning.settings import Assumptions, HardwareSettings
from pretrain.planning.trace import PassTrace, Work

# AdamW reads weights, gradients and two moments and writes all but the gradients; gradients go to a bucket and back.
OPTIMIZER_BYTES_PER_NUMBER = 7 * FP32 + 4 * FP32
_SECONDS_PER_HOP = 10e-6


@dataclass(frozen=True)
class StepTime:
    """Seconds of an optimizer step on each worker, by what they are spent on."""

    passes: float
    optimizer: float
    communication: float

    @property
    def total(self) -> float:
        return self.passes + self.optimizer + self.communication


def pass_seconds(work: Iterable[Work], accelerator: Accelerator, assume: Assumptions) -> float:
    """Seconds of a forward and a backward pass on one GPU."""
    narrow, wide = (
        tflops * 1e12 * assume.product_share for tflops in (accelerator.bf16_tflops, accelerator.fp32_tflops)
    )
    bandwidth = accelerator.bandwidth * 1e12 * assume.bandwidth_share
    device = host = 0.0
    for launch in work:
        device += max(launch.flops / (narrow if launch.narrow else wide), launch.bytes / bandwidth)
        host += assume.launch_microseconds * 1e-6
    return max(device, host)


def step_time(
    trace: PassTrace, seconds: float, passes: int, stage: int, hardware: HardwareSettings, assume: Assumptions
) -> StepTime:
    """An optimizer step of ``passes`` passes of ``seconds`` each, on every worker."""
    trained, workers = trace.trained, hardware.count
    share = trained if stage == 0 else trained / workers
    bandwidth = hardware.accelerator.bandwidth * 1e12 * assume.bandwidth_share
    # stages 1 to 3 gather the new weights after the step; stage 3 again in each forward and backward pass
    gathers = {0: 0, 1: 1, 2: 1, 3: 2 * passes}[stage]
    communication = (2 + gathers) * half_ring_seconds(FP32 * trained, hardware, assume)
    return StepTime(passes * seconds, share * OPTIMIZER_BYTES_PER_NUMBER / bandwidth, communication)


def half_ring_seconds(size_bytes: float, hardware: HardwareSettings, assume: Assumptions) -> float:
    """Seconds in which N workers gather, or sum and scatter, ``size_bytes``: one half of an all-reduce."""
    workers = hardware.count
    if workers == 1:
        return 0.0
    # GPUs of a machine share its way out, in a ring that leaves each machine once
    link = hardware.accelerator.link if hardware.nodes == 1 else min(hardware.accelerator.link, assume.node_bandwidth)
    hops = math.ceil(math.log2(workers))
    return (workers - 1) / workers * size_bytes / (link * 1e9 * assume.link_share) + hops * _SECONDS_PER_HOP
