"""Follow a job to its end: its log as it grows, over a connection that may break, and then what became of it.

Whether the job succeeded is asked of the cluster, never concluded from how the log's connection ended: a proxy, a
tunnel or a dashboard that is started again closes it while the job runs.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from dataprep.runtime.command_line import UserError
from dataprep.runtime.terminal import log

if TYPE_CHECKING:
    from ray.job_submission import JobStatus, JobSubmissionClient

# after so long without a line the status is asked for: a connection can be dead without anybody having closed it
_QUIET_SECONDS = 30.0
_RETRY_SECONDS = 2.0
# a job has ended and its log cannot be read to the end, since its machine is gone
_LAST_ATTEMPTS = 3


class JobLog:
    """The log of one job, of which each character is printed once, over however many connections."""

    def __init__(self, client: JobSubmissionClient, job: str, patience_seconds: float) -> None:
        self._client = client
        self._job = job
        self._patience_seconds = patience_seconds
        self._printed = 0

    def follow(self) -> JobStatus:
        """Print what comes until the job has ended, and return how. May be called again after an interruption.

        Raises :class:`UserError` where the cluster does not know the job any more, or has not answered for as long as
        there is patience.
        """
        return asyncio.run(self._follow())

    async def _follow(self) -> JobStatus:
        attempts_after_end = 0
        while True:
            complete = await self._print_stream()
            status = await self._status()
            if status.is_terminal():
                attempts_after_end += 1
                if complete or attempts_after_end == _LAST_ATTEMPTS:
                    return status
            await asyncio.sleep(_RETRY_SECONDS)

    async def _print_stream(self) -> bool:
        """Print what one connection brings beyond what is printed; whether it brought the log to its end."""
        # only here: Ray may be imported when it is known which cluster with which token
        from aiohttp import ClientError

        stream, received = self._client.tail_job_logs(self._job), 0
        try:
            while True:
                piece = asyncio.ensure_future(anext(stream, None))
                try:
                    if not await self._arrives(piece):
                        return False
                    text = piece.result()
                finally:
                    piece.cancel()
                if text is None:
                    return True
                received += len(text)
                self._print(text, received)
        # RuntimeError: how Ray's client says that the connection was closed
        except (RuntimeError, OSError, ClientError):
            return False

    async def _arrives(self, piece: asyncio.Future[str | None]) -> bool:
        """Wait for the next piece of the log; False where none comes though the job has ended."""
        while not (await asyncio.wait({piece}, timeout=_QUIET_SECONDS))[0]:
            if (await self._status()).is_terminal():
                return False
        return True

    def _print(self, text: str, received: int) -> None:
        """Print the end of ``text`` that was not printed before: each connection begins at the log's beginning."""
        new = received - self._printed
        if new > 0:
            print(text[-new:], end="", flush=True)
            self._printed = received

    async def _status(self) -> JobStatus:
        """Status of the job, of a cluster that may be unreachable for a while."""
        # only here, as above
        from ray.exceptions import AuthenticationError

        since, told = time.monotonic(), False
        while True:
            try:
                return self._client.get_job_status(self._job)
            except AuthenticationError:
                raise UserError(
                    f"the cluster wants another token now than when job {self._job} was submitted"
                ) from None
            except RuntimeError as error:
                if "does not exist" in str(error):
                    raise UserError(
                        f"the cluster does not know job {self._job} any more: its head was started anew, and the job "
                        "ended with the old one. A run resumes with the same command"
                    ) from None
                problem: Exception = error
            except (OSError, ValueError) as error:
                problem = error
            waited = time.monotonic() - since
            if waited > self._patience_seconds:
                raise UserError(
                    f"the cluster has not answered for {waited:.0f} s ({type(problem).__name__}); job {self._job} may "
                    "well be running: `submit` with the same --name and command follows it again"
                ) from None
            if not told:
                told = True
                log(f"the cluster does not answer; waiting up to {self._patience_seconds:.0f} s for it")
            await asyncio.sleep(_RETRY_SECONDS)
