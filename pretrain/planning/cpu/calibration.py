"""The one step that a plan for CPUs measures on this machine: a pass and an update of a small model.

The pass runs twice as it is and twice with each of its operations timed. From the second come the rates of each kind of
work, from the first what they have to add up to.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import torch

from dataprep.corpus import GeneGraph
from pretrain.bench.training_step import synthetic_graph, synthetic_profiles
from pretrain.config import Kernel, ModelSettings, Precision
from pretrain.families import FamilyName
from pretrain.kernels.device import choices_of, retain_freed_memory
from pretrain.model.bulkformer import BulkFormer
from pretrain.model.loss import masked_profile_loss
from pretrain.model.masking import mask_of_profiles
from pretrain.planning.cpu.rates import CpuRates, TimedWork, fitted_rates
from pretrain.planning.duration import OPTIMIZER_BYTES_PER_NUMBER
from pretrain.planning.trace import MASK_RATE, Operations, TracedCase, Work, trace_pass

# Wide enough that products and chunks are as long as those of the published sizes, and a second of work.
_GENES, _MICRO_PROFILES, _EDGES_PER_GENE = 4000, 4, 20
_MODEL = {"dim": 256, "heads": 8, "performer_layers": 1, "blocks": 1}
_TRIES = 3


@dataclass(frozen=True)
class Calibration:
    """What is measured: passes of a family's model, as its kernel computes them on ``threads`` threads."""

    family: FamilyName = "original"
    kernel: Kernel = "fused"
    precision: Precision = "fp32"
    compile: bool = False
    threads: int = 1

    @property
    def case(self) -> TracedCase:
        shape = ModelSettings(family=self.family, **_MODEL).shape(_GENES)
        return TracedCase(
            shape, self.kernel, self.precision, "nothing", _MICRO_PROFILES, self.compile, device_type="cpu"
        )


class TimedOperations(Operations):
    """Operations on tensors with data, each with the seconds that it took."""

    looks_inside_again = True

    def __init__(self) -> None:
        super().__init__()
        self.timed: list[TimedWork] = []

    def _note(self, work: Work, seconds: float) -> None:
        super()._note(work, seconds)
        self.timed.append(TimedWork(work, seconds))


def calibration_graph() -> GeneGraph:
    return synthetic_graph(_GENES, _EDGES_PER_GENE)


def calibrate(calibration: Calibration) -> CpuRates:
    """Measure this machine, in a process of its own that keeps freed memory as a worker does."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as process:
        return process.submit(measured_rates, calibration).result()


def measured_rates(calibration: Calibration) -> CpuRates:
    """Measure in this process."""
    torch.set_num_threads(calibration.threads)
    torch.manual_seed(0)
    case = calibration.case
    graph = calibration_graph()
    model = BulkFormer(case.shape, graph, case.kernel, case.precision, case.compile, case.recompute)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    expression_BG, _ = synthetic_profiles(_MICRO_PROFILES, _GENES)
    row_ids_B = torch.arange(_MICRO_PROFILES)

    def take_pass() -> None:
        mask_BG = mask_of_profiles(row_ids_B, _GENES, MASK_RATE, seed=0, epoch=0)
        masked_profile_loss(model, expression_BG, mask_BG).sum().backward()

    # the first one makes what lasts: gradients, moments, threads, compiled functions
    take_pass()
    optimizer.step()
    retain_freed_memory(torch.device("cpu"))
    take_pass()
    seconds = _shortest(take_pass)
    timed = _shortest_of_each([_timed(take_pass) for _ in range(_TRIES)])
    numbers = sum(weight.numel() for weight in model.parameters())
    rates = fitted_rates(timed, OPTIMIZER_BYTES_PER_NUMBER * numbers / _shortest(optimizer.step))
    return rates.matched(trace_pass(case, graph).work, seconds)


def _timed(take_pass: Callable[[], None]) -> list[TimedWork]:
    # compiled functions run as they are written, so that their operations are seen
    operations = TimedOperations()
    with choices_of("cpu", lambda function: function), operations:
        take_pass()
    return operations.timed


def _shortest_of_each(passes: Sequence[Sequence[TimedWork]]) -> list[TimedWork]:
    """Each launch with the shortest of its times: other work on the machine makes none of them shorter."""
    return [min(same, key=lambda each: each.seconds) for same in zip(*passes, strict=True)]


def _shortest(action: Callable[[], object]) -> float:
    seconds = []
    for _ in range(_TRIES):
        started = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
