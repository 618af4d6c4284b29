"""The models that a sweep trains: sizes, shares of the train split, seeds, and what each of them costs."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from dataprep.corpus import Corpus
from dataprep.runtime.command_line import UserError, one_line
from evaluation.config import ScalingSweepSettings
from pretrain.config import RunSettings
from pretrain.model.flops import parameters, training_flops

# Settings of runs that the sweep decides itself.
_OWN = ("corpus", "storage", "name", "seed", "max_steps", "epochs")
_OWN_OF_GROUPS = {"model": ("size",), "tracking": ("experiment", "parent_run")}


@dataclass(frozen=True)
class Point:
    """One model to train. ``profiles``: of its part of the train split; ``flops``: of its training.

    ``learning_rate`` is None where it is the shared settings', or not chosen yet.
    """

    size: str
    fraction: float
    seed: int
    learning_rate: float | None
    parameters: int
    profiles: int
    steps: int
    flops: float

    @property
    def name(self) -> str:
        """Of its run: letters, digits and signs that every store takes."""
        size = "".join(sign if sign.isalnum() else "-" for sign in Path(self.size).stem)
        rate = "" if self.learning_rate is None else f"-rate{self.learning_rate:g}"
        return f"{size}-{self.fraction:g}-seed{self.seed}{rate}"


def grid(
    settings: ScalingSweepSettings, shared: Mapping[str, Any], corpus: Corpus, profiles: Mapping[float, int]
) -> list[Point]:
    """Every size with every part and seed; ``profiles`` are those of each part, ``shared`` the settings of all runs.

    Raises UserError for sizes or shared settings that a run would refuse.
    """
    edges = len(corpus.graph().source)
    points = []
    for size in settings.sizes:
        run = run_settings(settings, shared, size, "size", 0, 1, corpus.folder.uri)
        shape = run.model.shape(corpus.genes)
        of_step = training_flops(shape, edges, 1) * run.batch.global_profiles
        steps = _steps(settings, run, of_step)
        points += [
            Point(size, fraction, seed, None, parameters(shape), profiles[fraction], steps, steps * of_step)
            for fraction in settings.fractions
            for seed in settings.seeds
        ]
    if len({point.name for point in points}) < len(points):
        raise UserError("two sizes of the sweep would have runs of one name: give their files other names", exit_code=2)
    return points


def candidates(points: Sequence[Point], settings: ScalingSweepSettings) -> list[Point]:
    """The runs that choose a learning rate for each size: its largest share and first seed with every rate."""
    largest, seed = max(settings.fractions), settings.seeds[0]
    return [
        replace(point, learning_rate=rate)
        for point in points
        if (point.fraction, point.seed) == (largest, seed)
        for rate in settings.learning_rates
    ]


def run_settings(
    settings: ScalingSweepSettings,
    shared: Mapping[str, Any],
    size: str,
    name: str,
    seed: int,
    steps: int,
    corpus: str,
    learning_rate: float | None = None,
    parent_run: str | None = None,
) -> RunSettings:
    """Settings of one training run; all but size, corpus, seed and perhaps learning rate are the same for each."""
    groups: dict[str, dict[str, Any]] = {
        "model": {"size": size},
        "optimizer": {} if learning_rate is None else {"learning_rate": learning_rate},
        "tracking": {"experiment": settings.experiment, "parent_run": parent_run},
    }
    merged = {group: {**shared.get(group, {}), **own} for group, own in groups.items()}
    own = {"corpus": corpus, "storage": f"{settings.output}/runs", "name": name, "seed": seed, "max_steps": steps}
    try:
        # so many epochs that the steps are what ends it
        return RunSettings(**dict(shared) | merged | own | {"epochs": steps})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "settings"
        raise UserError(f"{settings.training or size}: {where}: {first['msg']}", exit_code=2) from None


def shared_settings(file: str | None) -> dict[str, Any]:
    """What the file says of all runs. Raises UserError where it says what the sweep decides, or is no such file."""
    if file is None:
        return {}
    try:
        content = yaml.safe_load(Path(file).read_text()) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"--training {file}: {one_line(error)}", exit_code=2) from None
    groups = [*_OWN_OF_GROUPS, "optimizer"]
    if not isinstance(content, dict) or not all(isinstance(content.get(group, {}), dict) for group in groups):
        raise UserError(f"--training {file} holds no settings of pretrain run", exit_code=2)
    decided = [name for name in _OWN if name in content]
    decided += [
        f"{group}.{name}" for group, own in _OWN_OF_GROUPS.items() for name in own if name in content.get(group, {})
    ]
    if decided:
        raise UserError(f"--training {file}: {', '.join(decided)} is the sweep's to decide", exit_code=2)
    return content


def _steps(settings: ScalingSweepSettings, run: RunSettings, flops_of_step: float) -> int:
    if settings.budget_steps is not None:
        return settings.budget_steps
    if settings.budget_profiles is not None:
        return max(1, round(settings.budget_profiles / run.batch.global_profiles))
    assert settings.budget_flops is not None
    return max(1, round(settings.budget_flops / flops_of_step))


def grid_table(points: Sequence[Point], teraflops_per_second: float | None, hourly_cost: float | None) -> str:
    """The grid with what each point takes; hours and cost where speed and price are given."""
    columns = ["run", "parameters", "profiles", "steps", "FLOPs"]
    columns += ["hours"] * (teraflops_per_second is not None) + ["cost"] * (hourly_cost is not None)
    table = Table(*columns, title="points of the sweep", title_justify="left")

    def spent(flops: float) -> list[str]:
        hours = flops / (teraflops_per_second * 3.6e15) if teraflops_per_second else 0.0
        cost = [f"{hours * hourly_cost:,.2f}"] if hourly_cost is not None else []
        return [f"{flops:.2g}", *([f"{hours:.2g}"] if teraflops_per_second else []), *cost]

    for point in points:
        table.add_row(
            point.name, f"{point.parameters:,}", f"{point.profiles:,}", f"{point.steps:,}", *spent(point.flops)
        )
    table.add_row(f"all {len(points)}", "", "", "", *spent(sum(point.flops for point in points)))
    console = Console(file=sys.stdout)
    with console.capture() as captured:
        console.print(table)
    return captured.get().rstrip("\n")
