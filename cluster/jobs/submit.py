"""Submit a command as a Ray job, follow its log and exit as it does."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cluster.config import SubmitSettings
from cluster.jobs.access import Access, chosen_access, connect
from cluster.jobs.follow import JobLog
from cluster.jobs.package import Package
from cluster.local.state import StateFolder
from dataprep.runtime.command_line import UserError
from dataprep.runtime.terminal import log, write_result

if TYPE_CHECKING:
    from ray.job_submission import JobStatus, JobSubmissionClient


def submit(settings: SubmitSettings, entrypoint: Sequence[str]) -> dict[str, Any]:
    """Run ``entrypoint`` on the cluster and return the job's name and final status.

    The job inherits its credentials from the process that started Ray; nothing secret is sent along. A job of the same
    name and command that is there already is followed: so a submission whose answer was lost can be repeated.
    Raises :class:`UserError` if the job fails, the cluster cannot be reached or the working directory is too large.
    """
    if not entrypoint:
        raise UserError("no command to run: put it after `--`, as in `submit -- python -m pretrain run ...`", 2)
    package, command = _package(settings), shlex.join(entrypoint)
    if settings.dry_run:
        access = chosen_access(settings, os.environ)
        access.require_token()
        line = equivalent(access, settings, package, command)
        if not settings.json_line:
            write_result(line)
        return {"command": line}
    client = connect(settings)
    name = _submitted(client, settings, package, command)
    if settings.detach:
        return {"job": name, "status": "SUBMITTED"}
    status = _followed(client, name, settings.patience_seconds)
    if status != "SUCCEEDED":
        raise UserError(f"job {name} {status.lower()}{_reason(client.get_job_info(name).message)}")
    return {"job": name, "status": str(status)}


def equivalent(access: Access, settings: SubmitSettings, package: Package, command: str) -> str:
    """The command of Ray's own that submits the same job. A token that stands in the environment is not repeated."""
    variables = {name: value for name, value in access.variables.items() if name != "RAY_AUTH_TOKEN"}
    # Ray prefers this variable to --address
    variables["RAY_API_SERVER_ADDRESS"] = access.address
    line = [f"{name}={shlex.quote(value)}" for name, value in sorted(variables.items())]
    line += ["ray", "job", "submit", "--working-dir", shlex.quote(str(settings.working_dir))]
    line += ["--runtime-env-json", shlex.quote(json.dumps({"excludes": package.excludes}))]
    if settings.name is not None:
        line += ["--submission-id", shlex.quote(settings.name)]
    return " ".join([*line, "--", command])


def _followed(client: JobSubmissionClient, name: str, patience_seconds: float) -> JobStatus:
    """Follow the job to its end. Ctrl-C asks what is to become of it; where nobody can be asked, it keeps running."""
    job_log = JobLog(client, name, patience_seconds)
    while True:
        try:
            return job_log.follow()
        except KeyboardInterrupt as interruption:
            # not at SIGTERM and SIGHUP: whoever sends them is not there to answer
            answer = _asked(name) if type(interruption) is KeyboardInterrupt else "leave"
            if answer == "leave":
                raise UserError(
                    f"job {name} keeps running; `ray job logs -f {name}` follows it, `ray job stop {name}` ends it"
                ) from None
            if answer == "stop":
                _stop(client, name)
                log(f"job {name} is asked to stop; a run writes a checkpoint first")


def _stop(client: JobSubmissionClient, name: str) -> None:
    try:
        client.stop_job(name)
    except (RuntimeError, OSError) as error:
        raise UserError(f"the cluster did not stop job {name}: {_last_line(error)}") from None


def _asked(name: str) -> str:
    """``stop``, ``leave`` or ``follow``. A second Ctrl-C leaves the job running."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return "leave"
    answers = {"s": "stop", "l": "leave", "f": "follow"}
    try:
        while True:
            print(f"\njob {name}: [s]top it, [l]eave it running, or [f]ollow it further? ", end="", file=sys.stderr)
            sys.stderr.flush()
            answer = answers.get(sys.stdin.readline().strip().lower()[:1])
            if answer is not None:
                return answer
    except KeyboardInterrupt:
        return "leave"


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


def _submitted(client: JobSubmissionClient, settings: SubmitSettings, package: Package, command: str) -> str:
    """Name of the job that was submitted, or of the same one that is there already."""
    runtime_env = {"working_dir": str(settings.working_dir), "excludes": package.excludes}
    try:
        name = client.submit_job(entrypoint=command, submission_id=settings.name, runtime_env=runtime_env)
    # OSError: requests' errors are some
    except (RuntimeError, ValueError, OSError) as error:
        if settings.name is None or not _is_there(client, settings.name, command):
            raise UserError(f"the cluster refused the job: {_last_line(error)}") from None
        log(f"job {settings.name} is there already, with the same command: following it")
        return settings.name
    log(f"job {name} submitted to {client.get_address()}")
    return str(name)


def _is_there(client: JobSubmissionClient, name: str, command: str) -> bool:
    try:
        return bool(client.get_job_info(name).entrypoint == command)
    except (RuntimeError, OSError):
        return False


def _reason(message: str | None) -> str:
    """What Ray says of a failed job, without the log that was already printed."""
    reason = (message or "").partition(", last available logs")[0].strip()
    return f": {reason.splitlines()[0]}" if reason else ""


def _last_line(error: Exception) -> str:
    """The exception at the end of the server's traceback."""
    lines = [line.strip() for line in str(error).splitlines() if len(line.strip()) > 1]
    return lines[-1].removeprefix("ValueError: ").rstrip(".") if lines else type(error).__name__
