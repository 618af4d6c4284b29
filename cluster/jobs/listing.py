"""`jobs`: what runs and ran on a cluster, and how far it is."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from cluster.config import JobsSettings
from cluster.jobs.access import connect
from dataprep.runtime.command_line import UserError

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

# Lines of a job's log, as `pretrain run` and `evaluation` write them; of other programs nothing is known.
_STEP = re.compile(r"\bstep (\d+)/(\d+)\b(?:.*?  (\S+ (?:s|min|h)) left)?")
_MLFLOW = re.compile(r"\bMLflow(?: run)?: (https?://\S+)")


def jobs(settings: JobsSettings) -> list[dict[str, Any]]:
    """Print the newest jobs as a table, or return them for ``--json``, oldest first.

    Step, time left and MLflow run are what the job's log says last; None where it says nothing of the kind.
    Raises :class:`UserError` where there is no cluster.
    """
    client = connect(settings)
    try:
        found = [job for job in client.list_jobs() if job.submission_id]
    except (RuntimeError, OSError) as error:
        raise UserError(f"the cluster does not list its jobs: {type(error).__name__}") from None
    newest = sorted(found, key=lambda job: job.start_time or 0)[-settings.last :]
    rows = [_row(job, _log_of(client, str(job.submission_id))) for job in newest]
    if not settings.json_line:
        Console().print(_table(rows) if rows else "no jobs")
    return rows


def _log_of(client: JobSubmissionClient, name: str) -> str:
    """The log, empty where it cannot be had: the job has not begun, or its machine is gone."""
    try:
        return str(client.get_job_logs(name))
    except (RuntimeError, OSError):
        return ""


def _row(job: JobDetails, text: str) -> dict[str, Any]:
    ended = job.end_time / 1000 if job.end_time else time.time()
    row = {
        "job": job.submission_id,
        "state": str(job.status),
        "command": job.entrypoint,
        "seconds": round(ended - job.start_time / 1000) if job.start_time else None,
    }
    return row | progress(text, running=not job.status.is_terminal())


def progress(text: str, running: bool) -> dict[str, Any]:
    """What a log says last of step and time left, and of where its MLflow run is."""
    step = next(iter(reversed(list(_STEP.finditer(text)))), None)
    addresses = _MLFLOW.findall(text)
    return {
        "step": int(step[1]) if step else None,
        "steps": int(step[2]) if step else None,
        "left": step[3] if step and running else None,
        "mlflow": addresses[-1] if addresses else None,
    }


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table("job", "state", "step", "left", "MLflow run", "command", box=None)
    for row in rows:
        step = f"{row['step']}/{row['steps']}" if row["step"] is not None else ""
        table.add_row(row["job"], row["state"], step, row["left"] or "", row["mlflow"] or "", row["command"])
    return table
