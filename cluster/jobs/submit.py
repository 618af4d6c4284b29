"""Submit a command as a Ray job, follow its log and exit as it does."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathspec import GitIgnoreSpec

from cluster.config import SubmitSettings
from cluster.local.state import StateFolder
from dataprep.runtime.command_line import UserError

if TYPE_CHECKING:
    from ray.job_submission import JobStatus, JobSubmissionClient

# Besides what .gitignore and .rayignore name, which Ray honours by itself. `ray job submit` knows only those two.
EXCLUDES = (
    ".git",
    ".venv",
    "venv",
    "__pycache__",
    "*.egg-info",
    ".*_cache",
    ".hypothesis",
    "/.local",
    "/build",
    "/data",
    "/dist",
)
# Ray keeps the package in its control store and refuses larger ones after having packed them.
LIMIT_BYTES = 512 * 2**20
_POLL_SECONDS = 1.0


def submit(settings: SubmitSettings, entrypoint: Sequence[str]) -> dict[str, Any]:
    """Run ``entrypoint`` on the cluster and return the job's name and final status.

    The job inherits its credentials from the process that started Ray; nothing secret is sent along.
    Raises :class:`UserError` if the job fails, the cluster cannot be reached or the working directory is too large.
    """
    if not entrypoint:
        raise UserError("no command to run: put it after `--`, as in `submit -- python -m pretrain run ...`", 2)
    check_size(settings.working_dir)
    client = _client(settings)
    name = _submitted(client, settings, shlex.join(entrypoint))
    print(f"job {name} submitted to {client.get_address()}", file=sys.stderr, flush=True)
    if not settings.wait:
        return {"job": name, "status": "SUBMITTED"}
    try:
        status = asyncio.run(_follow(client, name))
    except KeyboardInterrupt:
        raise UserError(
            f"job {name} goes on; `ray job logs -f {name}` follows it, `ray job stop {name}` ends it"
        ) from None
    if status != "SUCCEEDED":
        raise UserError(f"job {name} {status.lower()}{_reason(client.get_job_info(name).message)}")
    return {"job": name, "status": str(status)}


def check_size(folder: Path) -> int:
    """Bytes of the files that would be sent. Raises :class:`UserError` if Ray would refuse them."""
    if not folder.is_dir():
        raise UserError(f"no such folder: --working-dir {folder}", exit_code=2)
    by_entry: dict[str, int] = {}
    for file in files_sent(folder):
        entry = file.relative_to(folder).parts[0]
        by_entry[entry] = by_entry.get(entry, 0) + file.lstat().st_size
    total = sum(by_entry.values())
    if total > LIMIT_BYTES:
        largest = sorted(by_entry, key=lambda entry: by_entry[entry], reverse=True)[:3]
        named = ", ".join(f"{entry} ({by_entry[entry] / 2**20:.0f} MB)" for entry in largest)
        raise UserError(
            f"{folder.resolve()} holds {total / 2**20:.0f} MB, more than the {LIMIT_BYTES // 2**20} MB that Ray sends "
            f"along with a job; the largest: {named}. Name what the job does not need in .rayignore"
        )
    return total


def files_sent(folder: Path) -> Iterator[Path]:
    """The files below ``folder`` that are sent along with a job: all but those that are ignored."""
    patterns = [GitIgnoreSpec.from_lines(EXCLUDES)]
    for name in (".gitignore", ".rayignore"):
        if (folder / name).is_file():
            patterns.append(GitIgnoreSpec.from_lines((folder / name).read_text().splitlines()))
    waiting = [folder]
    while waiting:
        for entry in waiting.pop().iterdir():
            path = str(entry.relative_to(folder)) + ("/" if entry.is_dir() else "")
            if any(pattern.match_file(path) for pattern in patterns):
                continue
            if entry.is_dir() and not entry.is_symlink():
                waiting.append(entry)
            else:
                yield entry


def _client(settings: SubmitSettings) -> JobSubmissionClient:
    address = settings.address or os.environ.get("RAY_API_SERVER_ADDRESS")
    folder = StateFolder.at(settings.state)
    local = folder.read().ports.get("dashboard")
    local_address = f"http://127.0.0.1:{local}" if local else None
    address = address or local_address
    if address is None:
        raise UserError(f"no cluster: `python -m cluster up` starts one in {folder.path}, or give --address", 2)
    # Ray prefers this variable to the argument of its client
    os.environ["RAY_API_SERVER_ADDRESS"] = address
    if address == local_address:
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(folder.token_file))
        os.environ.pop("RAY_AUTH_TOKEN", None)
    # only now: Ray reads those variables when it is imported
    from ray.job_submission import JobSubmissionClient

    _hush("ray")
    try:
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError) as error:
        raise UserError(f"cannot use the cluster at {address}: {_first_line(error)}") from None


def _submitted(client: JobSubmissionClient, settings: SubmitSettings, entrypoint: str) -> str:
    runtime_env = {"working_dir": str(settings.working_dir), "excludes": list(EXCLUDES)}
    try:
        return client.submit_job(entrypoint=entrypoint, submission_id=settings.name, runtime_env=runtime_env)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"the cluster refused the job: {_last_line(error)}") from None


async def _follow(client: JobSubmissionClient, name: str) -> JobStatus:
    """Print the job's log as it grows and return the final status."""
    async for piece in client.tail_job_logs(name):
        print(piece, end="", flush=True)
    # the log ends a moment before the status changes
    while not (status := client.get_job_status(name)).is_terminal():
        time.sleep(_POLL_SECONDS)
    return status


def _hush(package: str) -> None:
    """Keep a package's chatter off the terminal; its errors are raised anyway."""
    for name in logging.root.manager.loggerDict:
        if name == package or name.startswith(f"{package}."):
            logging.getLogger(name).setLevel(logging.ERROR)


def _reason(message: str | None) -> str:
    """What Ray says of a failed job, without the log that was already printed."""
    reason = (message or "").partition(", last available logs")[0].strip()
    return f": {reason.splitlines()[0]}" if reason else ""


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _last_line(error: Exception) -> str:
    """The exception at the end of the server's traceback."""
    lines = [line.strip() for line in str(error).splitlines() if len(line.strip()) > 1]
    return lines[-1].removeprefix("ValueError: ") if lines else type(error).__name__
