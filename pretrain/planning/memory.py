"""Memory of one GPU by part, for each ZeRO stage.

Activations, weights and graph are traced (:mod:`pretrain.planning.trace`). What DeepSpeed divides among N workers, and
what it holds beside, was read in its code (0.19.8, ``runtime/zero/stage_1_and_2.py`` and ``stage3.py``) and found again
among the living tensors of its engine: weights, gradients and moments are fp32, as the settings of a run have it.
"""

from __future__ import annotations

from dataclasses import dataclass

from pretrain.planning.trace import PassTrace
from pretrain.training.zero import LARGEST_BUCKET

FP32 = 4
# Numbers that stage 3 gathers and keeps for the backward pass: DeepSpeed's stage3_max_live_parameters.
LIVE = 1_000_000_000


@dataclass(frozen=True)
class Memory:
    """Bytes of one worker in the backward pass, where they are the most.

    ``buffers`` are DeepSpeed's own: the bucket in which gradients are summed, and what it has not freed yet. ``kept``
    is what lies between tensors in the heap of a process on CPUs (:mod:`pretrain.planning.cpu.retained`).
    """

    stage: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    graph: int
    buffers: int
    kept: int = 0

    @property
    def total(self) -> int:
        tensors = self.weights + self.gradients + self.optimizer + self.activations + self.graph + self.buffers
        return tensors + self.kept


def memory_of(trace: PassTrace, stage: int, workers: int) -> Memory:
    """Bytes by part. Stage 0 is plain data parallelism, for comparison: ``pretrain run`` has stages 1 to 3.

    Gradients of stages 2 and 3 are whole, too, until the last pass of a step, since they are averaged once a step.
    """
    trained = FP32 * trace.trained
    share = -(-trained // workers)
    bucket = FP32 * min(trace.trained, LARGEST_BUCKET)
    if stage == 0:
        weights, optimizer, buffers = trace.weight_bytes, 2 * trained, 0
    elif stage in (1, 2):
        # beside the moments a copy of this worker's share of the weights; the last step's gradients are still there
        weights, optimizer, buffers = trace.weight_bytes, 3 * share, bucket + trained
    else:
        # copies, but where one worker has all of them
        gathered = min(trained, FP32 * LIVE) if workers > 1 else 0
        weights, optimizer, buffers = trace.weight_bytes - trained + share + gathered, 2 * share, bucket + share
    return Memory(stage, weights, trained, optimizer, trace.peak_bytes, trace.graph_bytes, buffers)
