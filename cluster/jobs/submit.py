"""Submit a command as a Ray job, follow its log and exit as it does."""

from __future__ import annotations

import asyncio
import shlex
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cluster.config import SubmitSettings
from cluster.jobs.access import connect
from cluster.jobs.package import Package
from cluster.local.state import StateFolder
from dataprep.runtime.command_line import UserError
from dataprep.runtime.terminal import log

if TYPE_CHECKING:
    from ray.job_submission import JobStatus, JobSubmissionClient

_POLL_SECONDS = 1.0


def submit(settings: SubmitSettings, entrypoint: Sequence[str]) -> dict[str, Any]:
    """Run ``entrypoint`` on the cluster and return the job's name and final status.

    The job inherits its credentials from the process that started Ray; nothing secret is sent along.
    Raises :class:`UserError` if the job fails, the cluster cannot be reached or the working directory is too large.
    """
    if not entrypoint:
        raise UserError("no command to run: put it after `--`, as in `submit -- python -m pretrain run ...`", 2)
    package = _package(settings)
    client = connect(settings)
    name = _submitted(client, settings, package, shlex.join(entrypoint))
    log(f"job {name} submitted to {client.get_address()}")
    if not settings.wait:
        return {"job": name, "status": "SUBMITTED"}
    try:
        status = asyncio.run(_follow(client, name))
    except KeyboardInterrupt:
        raise UserError(
            f"job {name} keeps running; `ray job logs -f {name}` follows it, `ray job stop {name}` ends it"
        ) from None
    if status != "SUCCEEDED":
        raise UserError(f"job {name} {status.lower()}{_reason(client.get_job_info(name).message)}")
    return {"job": name, "status": str(status)}


def _package(settings: SubmitSettings) -> Package:
    """What is to be sent along, without the state of services and copies of their credentials."""
    state = StateFolder.at(settings.state)
    try:
        secrets = state.credentials().secrets if state.is_ours else ()
        package = Package.of(settings.working_dir, secrets)
        package.require_size()
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}") from None
    for file in package.files_with_secrets:
        log(f"not sent along, since it holds credentials of the services on this machine: {file}")
    return package


def _submitted(client: JobSubmissionClient, settings: SubmitSettings, package: Package, entrypoint: str) -> str:
    runtime_env = {"working_dir": str(settings.working_dir), "excludes": package.excludes}
    try:
        return client.submit_job(entrypoint=entrypoint, submission_id=settings.name, runtime_env=runtime_env)
    # OSError: requests' errors are some
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(f"the cluster refused the job: {_last_line(error)}") from None


async def _follow(client: JobSubmissionClient, name: str) -> JobStatus:
    """Print the job's log as it grows and return the final status."""
    async for piece in client.tail_job_logs(name):
        print(piece, end="", flush=True)
    # the log ends a moment before the status changes
    while not (status := client.get_job_status(name)).is_terminal():
        time.sleep(_POLL_SECONDS)
    return status


def _reason(message: str | None) -> str:
    """What Ray says of a failed job, without the log that was already printed."""
    reason = (message or "").partition(", last available logs")[0].strip()
    return f": {reason.splitlines()[0]}" if reason else ""


def _last_line(error: Exception) -> str:
    """The exception at the end of the server's traceback."""
    lines = [line.strip() for line in str(error).splitlines() if len(line.strip()) > 1]
    return lines[-1].removeprefix("ValueError: ") if lines else type(error).__name__
