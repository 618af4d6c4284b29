"""Whether each device takes a real training step: forward, loss, backward and optimizer of a model of the chosen size.

The step is that of ``pretrain bench``, asked for as a command: this package knows nothing of models.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from cluster.check.contract import Check, Judgement, failed, ok
from cluster.config import CheckSettings
from dataprep.runtime.command_line import UserError

_CODE = Path(__file__).parents[2]


@dataclass(frozen=True)
class Step:
    """One training step: its seconds, the most memory held in bytes, and on what."""

    seconds: float
    peak_memory_bytes: int
    device: str


def training_step(settings: CheckSettings) -> Step:
    """Take steps in a process of its own. Raises :class:`UserError` with the last line of what it says if it fails."""
    command = [
        *(sys.executable, "-m", "pretrain", "bench", "--json", "--kernel", "fused", "--no-compile"),
        *("--size", settings.size, "--micro-batch", str(settings.micro_batch), "--precision", settings.precision),
        *("--genes", str(settings.genes), "--warmup-steps", "1", "--steps", "1"),
    ]
    search_path = os.pathsep.join((str(_CODE), *filter(None, sys.path)))
    try:
        done = subprocess.run(
            command,
            env=os.environ | {"PYTHONPATH": search_path},
            capture_output=True,
            text=True,
            timeout=settings.timeout_seconds,
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"not done after {settings.timeout_seconds:g} s") from None
    if done.returncode != 0:
        raise UserError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])[0]
    return Step(row["step_seconds"], row["peak_memory_bytes"], row["device"])


def judge_steps(found: Mapping[str, Step], driver: Step | None, settings: CheckSettings) -> Mapping[str, Judgement]:
    usual = median([step.seconds for step in found.values()] or [0.0])
    return {place: _judged(step, usual, settings) for place, step in found.items()}


def _judged(step: Step, usual: float, settings: CheckSettings) -> Judgement:
    value = f"{step.seconds:.2f} s, {step.peak_memory_bytes / 1e9:.1f} GB at the peak"
    if step.device != "cpu" and step.seconds * settings.min_share_of_median_gpu > usual:
        return failed(f"{value}; the median is {usual:.2f} s", "take it out: all others wait for the slowest GPU")
    return ok(f"{value}, {settings.size} on {step.device}", goodness=-step.seconds)


STEP = Check(
    "training step",
    training_step,
    judge_steps,
    "run `python -m pretrain bench` on this node; with too little memory, a smaller --size or --micro-batch",
)
