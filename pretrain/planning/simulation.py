"""Runs on 8 to 1,024 GPUs, simulated: stragglers, sums over workers, checkpoints, losses of machines and restarts.

The global batch stays what the settings say, so that more GPUs have fewer passes each, until each has a single one. A
step waits for the slowest GPU: each takes its time times a factor drawn anew, log-normal with the spread assumed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from pretrain.planning.duration import step_time
from pretrain.planning.plan import Plan, checkpoints_of
from pretrain.planning.settings import HardwareSettings, PlanSettings

# Steps of which the mean stands for all: the slowest of N factors differs little between them.
_SAMPLED_STEPS = 200
# A run that would never end is given up after so many losses.
_MOST_LOSSES = 100_000


@dataclass(frozen=True)
class SimulatedRun:
    """Hours of a run on ``gpus`` GPUs by what they go to, and profiles/s that are learned from over all of it."""

    gpus: int
    passes: float
    straggling: float
    communication: float
    checkpoints: float
    repeated: float
    restarts: float
    losses: int
    profiles_per_second: float

    @property
    def hours(self) -> float:
        parts = self.passes, self.straggling, self.communication, self.checkpoints, self.repeated, self.restarts
        return sum(parts)


def simulate_runs(plan: Plan, settings: PlanSettings, counts: Sequence[int], seed: int = 0) -> list[SimulatedRun]:
    """The planned run on each number of GPUs, with the micro-batch and recomputation that the plan chose."""
    return [_simulated(plan, settings, count, np.random.default_rng([seed, count])) for count in counts]


def _simulated(plan: Plan, settings: PlanSettings, gpus: int, generator: np.random.Generator) -> SimulatedRun:
    assume, batch = plan.machine.assume, settings.batch.global_profiles
    hardware: HardwareSettings = plan.machine.hardware.model_copy(update={"count": gpus})
    # a pass is a smaller one where a worker's whole share is less than the micro-batch
    share, micro = math.ceil(batch / gpus), plan.chosen.micro_profiles
    passes = max(1, math.ceil(share / micro))
    seconds = plan.pass_seconds * min(1.0, share / micro)
    step = step_time(plan.chosen.trace, seconds, passes, settings.zero.stage, hardware, assume)
    slowest = _slowest(generator, gpus, assume.straggling)
    step_seconds = step.passes * slowest + step.optimizer + step.communication
    points = checkpoints_of(plan.chosen.trace, plan.profiles, hardware, assume)
    every = max(1, round(min(points.interval_seconds, plan.steps * step_seconds) / step_seconds))
    losses, repeated = _losses(generator, plan.steps, every, step_seconds, points.pause_seconds, points.between_losses)
    hours = plan.steps / 3600
    run = SimulatedRun(
        gpus=gpus,
        passes=hours * (step.passes + step.optimizer),
        straggling=hours * step.passes * (slowest - 1),
        communication=hours * step.communication,
        checkpoints=plan.steps // every * points.pause_seconds / 3600,
        repeated=repeated / 3600,
        restarts=losses * assume.restart_seconds / 3600,
        losses=losses,
        profiles_per_second=0.0,
    )
    return replace(run, profiles_per_second=settings.epochs * plan.profiles / (run.hours * 3600))


def _slowest(generator: np.random.Generator, gpus: int, spread: float) -> float:
    """Mean over steps of the largest of N factors whose mean is 1."""
    factors = generator.lognormal(-(spread**2) / 2, spread, (_SAMPLED_STEPS, gpus))
    return float(factors.max(axis=1).mean())


def _losses(
    generator: np.random.Generator, steps: int, every: int, step_seconds: float, pause: float, between: float
) -> tuple[int, float]:
    """Losses during a run, and the seconds whose steps are done again. A segment that is lost begins anew."""
    if math.isinf(between):
        return 0, 0.0
    losses, repeated, done = 0, 0.0, 0
    until_next = generator.exponential(between)
    while done < steps:
        segment = min(every, steps - done)
        seconds = segment * step_seconds + pause
        if until_next >= seconds:
            until_next -= seconds
            done += segment
            continue
        losses += 1
        repeated += until_next
        if losses == _MOST_LOSSES:
            return losses, math.inf
        until_next = generator.exponential(between)
    return losses, repeated


def runs_data(runs: Sequence[SimulatedRun]) -> list[dict[str, Any]]:
    """The runs as ``--json`` prints them."""
    return [{**asdict(run), "hours": run.hours} for run in runs]
