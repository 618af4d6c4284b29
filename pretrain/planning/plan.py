"""A plan: which micro-batch and recomputation to use, and what the run then takes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import get_args

from dataprep.corpus import GeneGraph, open_corpus
from dataprep.runtime.command_line import UserError
from dataprep.runtime.terminal import log
from pretrain.bench.training_step import synthetic_graph
from pretrain.config import ModelSettings, Recompute
from pretrain.data.plan import steps_in
from pretrain.model.flops import PUBLISHED_EPOCHS, PUBLISHED_PROFILES, training_flops
from pretrain.planning.duration import StepTime, pass_seconds, step_time
from pretrain.planning.machine import Machine, machine_of
from pretrain.planning.memory import FP32, Memory
from pretrain.planning.reliability import best_interval, expected_seconds
from pretrain.planning.settings import Assumptions, HardwareSettings, PlanSettings, given
from pretrain.planning.trace import PassTrace, TracedCase, trace_pass
from pretrain.shape import ModelShape

STAGES = (0, 1, 2, 3)
MICRO_BATCHES = (1, 2, 4, 8, 16, 32, 64)
# The published run: genes, size, GPUs, and profiles of a pass and of a step.
_PUBLISHED_GENES, _PUBLISHED_SIZE, _PUBLISHED_GPUS, _PUBLISHED_MICRO, _PUBLISHED_GLOBAL = 20_010, "147M", 8, 4, 4096
# Profiles are stored as float16.
_BYTES_PER_GENE = 2


@dataclass(frozen=True)
class Option:
    """One way to compute passes, with its memory at each stage and the seconds of a pass."""

    recompute: Recompute
    trace: PassTrace
    memory: tuple[Memory, ...]
    seconds: float

    @property
    def micro_profiles(self) -> int:
        return self.trace.micro_profiles


@dataclass(frozen=True)
class Checkpoints:
    """Bytes of a checkpoint, seconds that one takes from training and until it is written, seconds between two."""

    weight_bytes: int
    optimizer_bytes: int
    accounting_bytes: int
    pause_seconds: float
    writing_seconds: float
    interval_seconds: float
    between_losses: float

    @property
    def total_bytes(self) -> int:
        return self.weight_bytes + self.optimizer_bytes + self.accounting_bytes


@dataclass(frozen=True)
class Plan:
    """What a run takes on a ``machine``, of what was ``chosen`` among the ``options``.

    ``published_hours``: what the same assumptions give for the published run; none for CPUs, which are measured.
    """

    machine: Machine
    shape: ModelShape
    profiles: int
    steps: int
    options: tuple[Option, ...]
    chosen: Option
    pass_seconds: float
    step: StepTime
    profiles_per_second: float
    training_hours: float
    hours: float
    gpu_hours: float
    cost: float | None
    checkpoints: Checkpoints
    steps_between_checkpoints: int
    loader_profiles_per_second: float
    loader_bytes_per_second: float
    flops_per_profile: float
    published_hours: float | None


def make_plan(settings: PlanSettings) -> Plan:
    """Work out a plan; for CPUs a step is measured. Raises UserError where no micro-batch fits into a GPU."""
    profiles, genes, graph = _corpus(settings)
    shape = settings.model.shape(genes)
    machine = machine_of(settings)
    options = tuple(_options(settings, machine, shape, graph))
    chosen = _chosen(settings, machine, options)
    hardware, assume, stage = machine.hardware, machine.assume, settings.zero.stage
    micro = chosen.micro_profiles
    passes = -(-settings.batch.global_profiles // (micro * hardware.count))
    steps = settings.epochs * steps_in(profiles, settings.batch.global_profiles)
    seconds = _measured_scale(settings, options) * chosen.seconds
    step = step_time(chosen.trace, seconds, passes, stage, hardware, assume)
    checkpoints = checkpoints_of(chosen.trace, profiles, hardware, assume)
    training_seconds = steps * step.total
    between = max(1, round(min(checkpoints.interval_seconds, training_seconds) / step.total))
    expected = expected_seconds(
        training_seconds, between * step.total, checkpoints.pause_seconds, checkpoints.between_losses,
        assume.restart_seconds,
    )  # fmt: skip
    hours, gpus = expected / 3600, hardware.count
    rate = settings.batch.global_profiles / step.total
    return Plan(
        machine=machine,
        shape=shape,
        profiles=profiles,
        steps=steps,
        options=options,
        chosen=chosen,
        pass_seconds=seconds,
        step=step,
        profiles_per_second=rate,
        training_hours=training_seconds / 3600,
        hours=hours,
        gpu_hours=hours * gpus,
        cost=None if hardware.price is None else hours * gpus * hardware.price,
        checkpoints=checkpoints,
        steps_between_checkpoints=between,
        loader_profiles_per_second=rate / hardware.nodes,
        loader_bytes_per_second=rate / hardware.nodes * genes * _BYTES_PER_GENE,
        flops_per_profile=training_flops(shape, len(graph.source), micro) / micro,
        published_hours=None if hardware.on_cpu else published_hours(assume),
    )


def published_hours(assume: Assumptions) -> float:
    """A800-hours that these assumptions give for the published run of the published modules, which took about 350."""
    trace = _published_trace()
    hardware = HardwareSettings(gpu="A800", count=_PUBLISHED_GPUS)
    passes = _PUBLISHED_GLOBAL // (_PUBLISHED_MICRO * _PUBLISHED_GPUS)
    seconds = pass_seconds(trace.work, hardware.accelerator, assume)
    step = step_time(trace, seconds, passes, 1, hardware, assume)
    steps = PUBLISHED_EPOCHS * steps_in(PUBLISHED_PROFILES, _PUBLISHED_GLOBAL)
    return steps * step.total * _PUBLISHED_GPUS / 3600


@cache
def _published_trace() -> PassTrace:
    shape = ModelSettings(size=_PUBLISHED_SIZE).shape(_PUBLISHED_GENES)
    case = TracedCase(shape, "reference", micro_profiles=_PUBLISHED_MICRO)
    return trace_pass(case, synthetic_graph(_PUBLISHED_GENES, 20))


def _corpus(settings: PlanSettings) -> tuple[int, int, GeneGraph]:
    if settings.corpus is None:
        return settings.profiles, settings.genes, synthetic_graph(settings.genes, settings.edges_per_gene)
    corpus = open_corpus(settings.corpus)
    return corpus.rows("train"), corpus.genes, corpus.graph()


def _options(settings: PlanSettings, machine: Machine, shape: ModelShape, graph: GeneGraph) -> Iterator[Option]:
    """What could be computed, up to the first micro-batch of each kind that fits at no stage."""
    stated = settings.model.recompute
    ways: tuple[Recompute, ...] = (stated,) if given(settings.model, "recompute") else get_args(Recompute)
    if settings.model.kernel != "fused":
        ways = tuple(way for way in ways if way != "hidden")
    share = -(-settings.batch.global_profiles // settings.hardware.count)
    stated_micro = (settings.batch.micro_profiles,) if given(settings.batch, "micro_profiles") else MICRO_BATCHES
    log(f"tracing passes of {shape.family} {settings.model.size} on tensors without data")
    for recompute in ways:
        for micro in (micro for micro in stated_micro if micro <= max(1, share)):
            case = TracedCase(
                shape, settings.model.kernel, settings.precision, recompute, micro, settings.compiles,
                machine.device_type,
            )  # fmt: skip
            trace = trace_pass(case, graph)
            memory = tuple(machine.memory(trace, stage, settings.model.kernel) for stage in STAGES)
            yield Option(recompute, trace, memory, machine.pass_seconds(trace.work))
            if min(of_stage.total for of_stage in memory) > machine.room_bytes:
                break


def _chosen(settings: PlanSettings, machine: Machine, options: tuple[Option, ...]) -> Option:
    """The fastest option that fits; of two that are within a percent, the one that takes less memory."""
    room, stage = machine.room_bytes, settings.zero.stage
    fitting = [option for option in options if option.memory[stage].total <= room]
    if not fitting:
        least = min(options, key=lambda option: option.memory[stage].total)
        raise UserError(
            f"nothing fits into {room / 1e9:.0f} GB of {machine.hardware.accelerator.name}: micro-batch "
            f"{least.micro_profiles} with recompute {least.recompute} takes {least.memory[stage].total / 1e9:.1f} GB; "
            "choose another --hardware.gpu, or a smaller model or micro-batch"
        )
    fastest = max(option.micro_profiles / option.seconds for option in fitting)
    as_fast = [option for option in fitting if option.micro_profiles / option.seconds > 0.99 * fastest]
    return min(as_fast, key=lambda option: option.memory[stage].total)


def _measured_scale(settings: PlanSettings, options: tuple[Option, ...]) -> float:
    """How many times as long as estimated a pass took that was measured, by the first way of recomputing stated."""
    if settings.measured_step_seconds is None:
        return 1.0
    return settings.measured_step_seconds / options[0].seconds


def checkpoints_of(trace: PassTrace, profiles: int, hardware: HardwareSettings, assume: Assumptions) -> Checkpoints:
    """Size, seconds and interval of the checkpoints of a run on such machines."""
    weights, optimizer = trace.weight_bytes, 2 * FP32 * trace.trained
    accounting = 2 * -(-profiles // 8)
    # tensors are gathered and copied while training waits, and written beside it
    pause = (weights + optimizer) / (assume.host_bandwidth * 1e9)
    writing = (weights + optimizer + accounting) / (assume.store_bandwidth * 1e9)
    losses_per_hour = hardware.loss_rate * hardware.nodes
    between_losses = 3600 / losses_per_hour if losses_per_hour else math.inf
    # one is written to its end before the next begins
    interval = max(writing, best_interval(pause, between_losses))
    return Checkpoints(weights, optimizer, accounting, pause, writing, interval, between_losses)
