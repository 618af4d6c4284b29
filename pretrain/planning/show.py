"""A plan as text and as plain data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from io import StringIO
from typing import Any

from rich.console import Console
from rich.table import Table

from pretrain.model.flops import PUBLISHED_A800_HOURS
from pretrain.planning.plan import Option, Plan
from pretrain.planning.settings import PlanSettings
from pretrain.planning.simulation import SimulatedRun

_PARTS = ("weights", "gradients", "optimizer", "activations", "graph", "buffers", "kept")


def plan_text(plan: Plan, settings: PlanSettings) -> str:
    """The plan for a person: memory, choice, time, checkpoints, loader, and all that was taken for granted."""
    stream = StringIO()
    console = Console(file=stream, highlight=False, width=124)
    console.print(_memory_table(plan))
    for line in (*_run_lines(plan, settings), "", *_assumption_lines(plan, settings)):
        console.print(line, soft_wrap=True)
    return stream.getvalue().rstrip()


def _memory_table(plan: Plan) -> Table:
    hardware, room = plan.machine.hardware, plan.machine.room_bytes
    table = Table(
        title=f"Memory of a {_worker(plan)} in GB, {hardware.count} x {hardware.accelerator.name}; "
        f"room for {room / 1e9:.1f} (estimates)"
    )
    table.add_column("recompute")
    for name in ("batch", "weights", "gradients", "activations", "graph"):
        table.add_column(name, justify="right")
    for stage in range(4):
        table.add_column(f"ZeRO {stage}" if stage else "no ZeRO", justify="right")
    table.add_column(f"per {_worker(plan)}/s", justify="right")
    for option in plan.options:
        first = option.memory[0]
        totals = [f"{of.total / 1e9:.1f}" if of.total <= room else f"({of.total / 1e9:.1f})" for of in option.memory]
        cells = [_gb(getattr(first, part)) for part in ("weights", "gradients", "activations", "graph")]
        mark = " <" if option is plan.chosen else ""
        rate = option.micro_profiles / option.seconds
        table.add_row(option.recompute, str(option.micro_profiles), *cells, *totals, f"{rate:.1f}{mark}")
    return table


def _run_lines(plan: Plan, settings: PlanSettings) -> list[str]:
    chosen, hardware, points = plan.chosen, plan.machine.hardware, plan.checkpoints
    of_stage = chosen.memory[settings.zero.stage]
    parts = ", ".join(f"{part} {_gb(size)}" for part in _PARTS if (size := getattr(of_stage, part)))
    step = plan.step
    interval = (
        f"every {plan.steps_between_checkpoints:,} steps ({_time(plan.steps_between_checkpoints * step.total)})"
        if not math.isinf(points.interval_seconds)
        else "none needed but the last: nothing is ever lost"
    )
    cost = "" if plan.cost is None else f", cost {plan.cost:,.0f}"
    loader = plan.machine.assume.loader_profiles
    enough = "enough" if loader >= plan.loader_profiles_per_second else "NOT ENOUGH: workers will wait"
    return [
        "( ): does not fit.  <: to use.",
        f"Use         {_settings_to_use(plan, settings)}",
        f"Memory      {of_stage.total / 1e9:.1f} GB: {parts}",
        f"Model       {chosen.trace.trained / 1e6:.1f} M trained numbers, {plan.flops_per_profile / 1e12:.2f} TFLOP "
        f"per profile, {len(chosen.trace.work):,} launches per pass",
        f"Step        {step.total:.2f} s for {settings.batch.global_profiles:,} profiles: passes {step.passes:.2f}, "
        f"optimizer {step.optimizer:.3f}, communication {step.communication:.3f}",
        f"Rate        {plan.profiles_per_second:,.1f} profiles/s",
        f"Run         {plan.steps:,} steps of {settings.epochs} epochs over {plan.profiles:,} profiles: "
        f"{plan.training_hours:,.1f} h of steps",
        f"Losses      one machine in {_time(points.between_losses)}; with checkpoints, repeated steps and restarts "
        f"{plan.hours:,.1f} h",
        f"Price       {plan.gpu_hours:,.0f} {_worker(plan)}-hours{cost}",
        f"Checkpoint  {_gb(points.total_bytes)} GB: weights {_gb(points.weight_bytes)}, optimizer "
        f"{_gb(points.optimizer_bytes)}, accounting {points.accounting_bytes / 1e6:.2f} MB; training waits "
        f"{points.pause_seconds:.1f} s, written after {points.writing_seconds:.0f} s; {interval}",
        f"Loader      {plan.loader_profiles_per_second:,.0f} profiles/s and {plan.loader_bytes_per_second / 1e6:,.1f} "
        f"MB/s per machine are needed; assumed {loader:,.0f} profiles/s: {enough}",
        *_published_lines(plan),
        *([] if hardware.price is not None else ["No cost without --hardware.price."]),
    ]


def _worker(plan: Plan) -> str:
    return "worker" if plan.machine.hardware.on_cpu else "GPU"


def _published_lines(plan: Plan) -> list[str]:
    if plan.published_hours is None:
        return []
    return [
        f"Published   the same assumptions give {plan.published_hours:,.0f} A800-hours for the published modules "
        f"and the published run (147M), which took about {PUBLISHED_A800_HOURS}"
    ]


def _settings_to_use(plan: Plan, settings: PlanSettings) -> str:
    return (
        f"--batch.micro-profiles {plan.chosen.micro_profiles} --model.recompute {plan.chosen.recompute} "
        f"{'--model.compile ' if settings.compiles else ''}--zero.stage {settings.zero.stage} "
        f"--checkpoint.every-steps {plan.steps_between_checkpoints}"
    )


def _assumption_lines(plan: Plan, settings: PlanSettings) -> list[str]:
    """Every assumption with the setting that changes it."""
    hardware = plan.machine.hardware
    sheet = {name: value for name, value in asdict(hardware.accelerator).items() if name != "name"}
    rented = {"count": hardware.count, "per_node": hardware.per_node}
    groups = {
        "hardware": {**rented, **sheet, "loss_rate": hardware.loss_rate},
        "assume": dict(plan.machine.assume),
    }
    lines = [f"Estimates: {_source(plan, settings)}. Taken for granted:"]
    for group, values in groups.items():
        named = [f"--{group}.{name.replace('_', '-')} {value:g}" for name, value in values.items()]
        lines += ["  " + "  ".join(named[start : start + 4]) for start in range(0, len(named), 4)]
    return lines


def _source(plan: Plan, settings: PlanSettings) -> str:
    scaled = settings.measured_step_seconds
    if scaled is not None:
        return f"times scaled to a pass of {scaled} s"
    if plan.machine.hardware.on_cpu:
        return f"times from a step of a small model on {plan.machine.hardware.threads} cores of this machine"
    return "data-sheet figures times assumed shares; nothing of it was measured on a GPU"


def runs_text(runs: Sequence[SimulatedRun]) -> str:
    """Simulated runs for a person, and what share of the GPUs' time goes to passes."""
    stream = StringIO()
    console = Console(file=stream, highlight=False, width=124)
    table = Table(title="The run on other numbers of GPUs, simulated with losses and restarts (estimates)")
    for name in ("GPUs", "hours", "GPU-hours", "profiles/s", "in passes", "slowest", "sums", "checkpoints", "losses"):
        table.add_column(name, justify="right")
    for run in runs:
        parts = run.passes, run.straggling, run.communication, run.checkpoints
        shares = [f"{part / run.hours:.1%}" for part in parts]
        hours, gpu_hours = f"{run.hours:,.1f}", f"{run.hours * run.gpus:,.0f}"
        table.add_row(f"{run.gpus:,}", hours, gpu_hours, f"{run.profiles_per_second:,.0f}", *shares, f"{run.losses:,}")
    console.print(table)
    return stream.getvalue().rstrip()


def plan_data(plan: Plan, settings: PlanSettings) -> dict[str, Any]:
    """The plan as ``--json`` prints it. What is infinite is null."""
    numbers = {
        name: getattr(plan, name)
        for name in (
            "profiles", "steps", "profiles_per_second", "training_hours", "hours", "gpu_hours", "cost",
            "steps_between_checkpoints", "loader_profiles_per_second", "loader_bytes_per_second", "flops_per_profile",
            "published_hours",
        )
    }  # fmt: skip
    return {
        "estimates": True,
        **{name: _finite(value) for name, value in numbers.items()},
        "chosen": _option_data(plan.chosen),
        "options": [_option_data(option) for option in plan.options],
        "step": {**asdict(plan.step), "total": plan.step.total},
        "checkpoint": {name: _finite(value) for name, value in asdict(plan.checkpoints).items()},
        "settings": settings.resolved(),
    }


def _option_data(option: Option) -> dict[str, Any]:
    return {
        "recompute": option.recompute,
        "micro_profiles": option.micro_profiles,
        "pass_seconds": option.seconds,
        "launches": len(option.trace.work),
        "memory": [{**asdict(memory), "total": memory.total} for memory in option.memory],
    }


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and math.isinf(value) else value


def _gb(size: float) -> str:
    return f"{size / 1e9:.2f}"


def _time(seconds: float) -> str:
    if math.isinf(seconds):
        return "no time"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"
