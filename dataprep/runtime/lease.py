"""A lease: of all processes that would work on the same thing, one does.

It is a file that names its holder, who counts up in it every few seconds. Another process that wants the lease

* takes it over at once where the holder was a process of this machine that is gone;
* is refused where the holder is a process of this machine that exists, or where the count goes up;
* takes it over where the count has not changed for a while.

No two clocks are compared: the while is measured by the one who waits. A holder that cannot reach the store keeps the
lease, and hears afterwards if another has taken it over. On disks and in object stores the file changes hands by
conditional writes (:meth:`Folder.create`, :meth:`Folder.replace_if`).
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from dataprep.runtime.background import BackgroundThread
from dataprep.runtime.command_line import UserError
from dataprep.runtime.process import Process
from dataprep.runtime.storage import Folder
from dataprep.runtime.terminal import log

HEARTBEAT_SECONDS = 5.0
SILENCE_SECONDS = 30.0


class LeaseLostError(UserError):
    """Another process has taken the lease over."""


@dataclass(frozen=True)
class Holder:
    """What the file says: who has the lease, and how often that one has said so."""

    owner: str
    process: Process
    count: int = 0

    def to_bytes(self) -> bytes:
        return (json.dumps(asdict(self), indent=1) + "\n").encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> Holder:
        try:
            fields: dict[str, Any] = json.loads(content)
            return cls(fields["owner"], Process(**fields["process"]), fields["count"])
        except (ValueError, KeyError, TypeError):
            return cls("", Process("another machine", 0))


@dataclass(frozen=True)
class LeaseKey:
    """What those that work for the holder, on other machines, need to know whether it has the lease still."""

    folder: Folder
    name: str
    what: str
    owner: str

    def require(self) -> None:
        """Raise LeaseLostError if another process has the lease."""
        try:
            self.require_in(self.folder.read_bytes(self.name))
        except FileNotFoundError:
            return  # deleted with the folder, perhaps; nobody else has it

    def require_in(self, content: bytes) -> None:
        """Raise LeaseLostError if another process has the lease by the file's content."""
        holder = Holder.from_bytes(content)
        if holder.owner != self.owner:
            raise LeaseLostError(f"{holder.process} has taken over {self.what}: this one stops")


class Lease:
    """The right to work on ``what``, such as "run first", while it is held. See the module's docstring."""

    def __init__(
        self,
        folder: Folder,
        name: str,
        what: str,
        on_loss: Callable[[LeaseLostError], None] = lambda error: None,
        process: Process | None = None,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        """``on_loss`` is called, in a thread, when another process has taken the lease over."""
        self.key = LeaseKey(folder, name, what, uuid.uuid4().hex)
        self._holder = Holder(self.key.owner, process or Process.this())
        self._on_loss = on_loss
        self._heartbeat_seconds = heartbeat_seconds
        self._silence_seconds = silence_seconds
        self._releasing = threading.Event()
        self._thread: BackgroundThread | None = None
        self.loss: LeaseLostError | None = None

    def acquire(self) -> None:
        """Have the lease when this returns. Raises UserError where another process has it."""
        folder, name = self.key.folder, self.key.name
        watched, since = "", 0.0
        while not folder.create(name, self._holder.to_bytes()):
            try:
                content, version = folder.read_version(name)
            except FileNotFoundError:
                continue  # released in this moment
            other = Holder.from_bytes(content)
            here = other.process.is_here
            if (here and other.process.exists) or (watched and watched != version):
                raise UserError(f"{self.key.what} is in the hands of {other.process}: wait for that one, or end it")
            if here or (watched and time.monotonic() - since >= self._silence_seconds):
                if folder.replace_if(name, self._holder.to_bytes(), version):
                    log(f"{self.key.what} was in the hands of {other.process}, which is gone: taking it over")
                    break
                continue
            if not watched:
                watched, since = version, time.monotonic()
                log(
                    f"{self.key.what} was in the hands of {other.process}: "
                    f"taking it over unless that one is heard of within {self._silence_seconds:.0f} s"
                )
            time.sleep(min(1.0, self._silence_seconds / 10))
        self._thread = BackgroundThread(self._beat, "lease")

    def release(self) -> None:
        """Give the lease back, if it is still held. If the store does not answer, the lease runs out."""
        self._releasing.set()
        if self._thread is not None:
            self._thread.join()
        try:
            if self._is_held():
                self.key.folder.remove(self.key.name)
        except (UserError, OSError):
            return

    def __enter__(self) -> Lease:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _is_held(self) -> bool:
        try:
            return Holder.from_bytes(self.key.folder.read_bytes(self.key.name)).owner == self.key.owner
        except FileNotFoundError:
            return False

    def _beat(self) -> None:
        complained = False
        while not self._releasing.wait(self._heartbeat_seconds):
            try:
                self._renew()
            except LeaseLostError as error:
                self.loss = error
                self._on_loss(error)
                return
            except (UserError, OSError):
                continue  # an outage of the store costs nobody the lease: who has it is asked again afterwards
            except Exception as error:  # noqa: BLE001 - the lease is held as long as its process lives
                if not complained:
                    log(f"the lease of {self.key.what} is not renewed ({type(error).__name__}: {error}); trying again")
                complained = True

    def _renew(self) -> None:
        folder, name = self.key.folder, self.key.name
        self._holder = replace(self._holder, count=self._holder.count + 1)
        try:
            content, version = folder.read_version(name)
        except FileNotFoundError:
            # somebody has deleted the folder; if somebody else is there already, the next beat will see
            folder.create(name, self._holder.to_bytes())
            return
        self.key.require_in(content)
        folder.replace_if(name, self._holder.to_bytes(), version)
