"""``cluster plan``: what a run takes, before there is one."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from dataprep.runtime.terminal import write_result
from pretrain.planning.after import compared, compared_text, settings_of_run
from pretrain.planning.picture import write_picture
from pretrain.planning.plan import make_plan
from pretrain.planning.settings import PlanSettings
from pretrain.planning.show import plan_data, plan_text, runs_text
from pretrain.planning.simulation import runs_data, simulate_runs


def plan_command(settings: PlanSettings) -> dict[str, Any]:
    """Print a plan and return it as plain data."""
    if settings.after is not None:
        settings = settings_of_run(settings, settings.after)
    plan = make_plan(settings)
    write_result(plan_text(plan, settings))
    data = plan_data(plan, settings)
    if settings.after is not None:
        figures = compared(plan, settings, settings.after)
        write_result("\n" + compared_text(figures))
        data["after"] = [asdict(figure) for figure in figures]
    if settings.simulate:
        runs = simulate_runs(plan, settings, settings.simulate)
        write_result("\n" + runs_text(runs))
        data["simulated"] = runs_data(runs)
        if settings.picture is not None:
            title = f"{settings.model.size}, {plan.machine.hardware.accelerator.name}"
            write_picture(settings.picture, runs, title)
    return data
