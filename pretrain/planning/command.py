"""``cluster plan``: what a run takes, before there is one."""

from __future__ import annotations

from typing import Any

from dataprep.runtime.terminal import write_result
from pretrain.planning.plan import make_plan
from pretrain.planning.settings import PlanSettings
from pretrain.planning.show import plan_data, plan_text


def plan_command(settings: PlanSettings) -> dict[str, Any]:
    """Print a plan and return it as plain data."""
    plan = make_plan(settings)
    write_result(plan_text(plan, settings))
    return plan_data(plan, settings)
