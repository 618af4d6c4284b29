"""What the heap of a worker process on CPUs holds between its tensors.

After the first step glibc keeps what is freed (:mod:`dataprep.runtime.allocator`), so a process holds the heap at its
longest: the tensors that come and go in a step, and the holes between them. How much the holes are was measured
(docs/planning.md), and differs by a tenth of all memory from one process to the next: these shares are for those that
hold much. They are larger where tensors are few and large, as those of the published modules, and
with ZeRO stage 3, for which no reason was found.
"""

from __future__ import annotations

from dataclasses import replace

from pretrain.config import Kernel
from pretrain.planning.memory import Memory

# Of the bytes that come and go in a step: one share by kernel, another on top with stage 3.
HOLES: dict[Kernel, float] = {"fused": 0.22, "reference": 0.65}
HOLES_OF_STAGE_3 = 0.2
# Anonymous memory and own copies of libraries' pages of a worker before its model is made.
PROCESS_GIGABYTES = 0.5


def process_memory(memory: Memory, kernel: Kernel) -> Memory:
    """The memory of a worker process, whose tensors take ``memory``, but for what it held before its model was made."""
    share = HOLES[kernel] + (HOLES_OF_STAGE_3 if memory.stage == 3 else 0.0)
    return replace(memory, kept=round(share * (memory.activations + memory.gradients)))
