"""What a run did, beside what a plan of the same settings says."""

from __future__ import annotations

import json
from dataclasses import dataclass
from statistics import median

from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder
from pretrain.artifacts.run_settings import SETTINGS_FILE
from pretrain.config import BatchSettings, ModelSettings, ZeroSettings
from pretrain.monitoring.metrics_file import read_rows
from pretrain.planning.plan import Plan
from pretrain.planning.settings import PlanSettings


@dataclass(frozen=True)
class Compared:
    """One figure of a plan and of the run."""

    name: str
    planned: float
    done: float


def settings_of_run(settings: PlanSettings, run: str) -> PlanSettings:
    """The plan's settings with the run's model, batch, precision, ZeRO stage, epochs and workers.

    Raises UserError where there is no run.
    """
    folder = Folder(run)
    if not folder.exists(SETTINGS_FILE):
        raise UserError(f"{folder.uri} is not a run: it has no {SETTINGS_FILE}")
    done = json.loads(folder.read_bytes(SETTINGS_FILE))
    workers = {"count": done["workers"]["count"]}
    if settings.hardware.on_cpu:
        workers |= {"per_node": done["workers"]["count"], "threads": done["workers"]["threads_each"]}
    return settings.model_copy(
        update={
            "model": ModelSettings(**done["model"]),
            "batch": BatchSettings(**done["batch"]),
            "zero": ZeroSettings(**done["zero"]),
            "precision": done["precision"],
            "epochs": done["epochs"],
            "corpus": settings.corpus or done["corpus"],
            "hardware": settings.hardware.model_copy(update=workers),
        }
    )


def compared(plan: Plan, settings: PlanSettings, run: str) -> list[Compared]:
    """Figures of the plan and of the run's metrics; medians over its steps. Raises UserError where it took none."""
    rows = [row for row in read_rows(Folder(run)) if "samples_per_second" in row]
    if not rows:
        raise UserError(f"{Folder(run).uri} has no metrics of steps yet")
    rate = median(row["samples_per_second"] for row in rows)
    memory = plan.chosen.memory[settings.zero.stage].total
    if plan.machine.hardware.on_cpu:
        memory += round(1e9 * plan.machine.assume.reserved_gigabytes)
    return [
        Compared("profiles/s", plan.profiles_per_second, rate),
        Compared("s of a step", plan.step.total, settings.batch.global_profiles / rate),
        Compared("GB of memory", memory / 1e9, max(row["peak_memory_bytes"] for row in rows) / 1e9),
        Compared("share of time waiting for data", 0.0, median(row["data_wait_fraction"] for row in rows)),
    ]


def compared_text(figures: list[Compared]) -> str:
    """The figures for a person. Memory of a run on CPUs is that of the whole process, files that it maps included."""
    lines = [f"{'':32}{'planned':>12}{'done':>12}"]
    return "\n".join(lines + [f"{each.name:32}{each.planned:12,.2f}{each.done:12,.2f}" for each in figures])
