"""``python -m cluster COMMAND``."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

from cluster.check.command import check
from cluster.config import CheckSettings, DownSettings, JobsSettings, StatusSettings, SubmitSettings, UpSettings
from cluster.jobs.listing import jobs
from cluster.jobs.submit import submit
from cluster.local.lifecycle import down, status, up
from dataprep.runtime.command_line import Command, main
from pretrain.planning.settings import PlanSettings

SUMMARY = "Bring up the services that the other packages use, and submit jobs to them."


def _plan(settings: PlanSettings) -> dict[str, Any]:
    from pretrain.planning.command import plan_command  # loads torch, which takes seconds

    return plan_command(settings)


def commands(entrypoint: list[str]) -> dict[str, Command]:
    """All commands; ``entrypoint`` is the command line of the job that ``submit`` sends."""
    return {
        "up": Command(UpSettings, up, "start the embedded object store, MLflow and Ray on this machine"),
        "down": Command(DownSettings, down, "end them"),
        "status": Command(StatusSettings, status, "show where they are and whether they answer"),
        "check": Command(CheckSettings, check, "measure whether every node can do what training asks of it"),
        "submit": Command(
            SubmitSettings, partial(submit, entrypoint=entrypoint), "run `-- COMMAND ...` as a job on the cluster"
        ),
        "jobs": Command(JobsSettings, jobs, "list the jobs of the cluster, and how far they are"),
        "plan": Command(PlanSettings, _plan, "predict memory, time, cost and checkpoints of a run on GPUs"),
    }


def run(argv: list[str]) -> int:
    """Run one command. What follows ``--`` is the job's command line and reaches it untouched."""
    own, entrypoint = argv, []
    if "--" in argv:
        split = argv.index("--")
        own, entrypoint = argv[:split], argv[split + 1 :]
    return main("cluster", SUMMARY, commands(entrypoint), own)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
