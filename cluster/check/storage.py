"""Whether every node can write to the bucket and read from it, how fast, and whether it is the same one."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cluster.check.contract import Check, Judgement, Verdict, failed, not_applicable, ok, verdict
from cluster.config import CheckSettings
from dataprep.runtime.command_line import UserError, one_line
from dataprep.runtime.storage import Folder
from dataprep.runtime.terminal import log

NAME = "storage"
_MEGABYTE = 10**6
_ADVICE = "give the processes that run `ray start` AWS_* or a role, and a bucket that exists"


@dataclass(frozen=True)
class Throughput:
    """Of one file written and read again, in bytes a second."""

    written: float
    read: float


@dataclass(frozen=True)
class Trial:
    """A folder of a name of its own below the storage, for the time of one check."""

    storage: Folder
    name: str

    @property
    def check(self) -> Check[Throughput]:
        return Check(NAME, partial(throughput, self), judge_throughput, _ADVICE)

    def seen(self, found: Verdict) -> Verdict:
        """The verdict, failed where the nodes wrote to places that the driver does not see."""
        if found.outcome != "ok":
            return found
        try:
            there = len((self.storage / self.name).files())
        except UserError as error:
            return verdict(NAME, {**found.places, "driver": failed(one_line(error), _ADVICE)})
        if there == len(found.places):
            return found
        value = f"sees the files of {there} of {len(found.places)} nodes"
        advice = "name a bucket or a disk that all nodes share, and the same AWS_ENDPOINT_URL everywhere"
        return verdict(NAME, {**found.places, "driver": failed(value, advice)})


@contextmanager
def trial(settings: CheckSettings) -> Iterator[Trial | None]:
    """A trial at ``--storage``, None without one. Whatever nodes write in it is removed at the end."""
    if settings.storage is None:
        yield None
        return
    begun = Trial(Folder(settings.storage), f".cluster-check-{uuid.uuid4().hex}")
    try:
        yield begun
    finally:
        try:
            begun.storage.remove(begun.name)
        except UserError as error:
            log(f"whether {begun.storage.uri}/{begun.name} is left behind cannot be told: {error}")


def throughput(begun: Trial, settings: CheckSettings) -> Throughput:
    """Write a file, read it again, compare. Raises UserError where the storage cannot be used."""
    if begun.storage.is_local and not Path(begun.storage.path).is_dir():
        raise UserError(f"there is no folder {begun.storage.uri}")
    content = os.urandom(settings.storage_test_megabytes * _MEGABYTE)
    name = uuid.uuid4().hex
    folder = begun.storage / begun.name
    started = time.perf_counter()
    folder.write_bytes(name, content)
    written = time.perf_counter()
    same = folder.read_bytes(name) == content
    read = time.perf_counter()
    if not same:
        raise UserError(f"{folder.uri}/{name} is read otherwise than it was written")
    return Throughput(len(content) / (written - started), len(content) / (read - written))


def judge_throughput(
    found: Mapping[str, Throughput], driver: Throughput | None, settings: CheckSettings
) -> Mapping[str, Judgement]:
    least = settings.min_storage_megabytes_per_second
    return {place: _judged(measured, least) for place, measured in found.items()}


def no_trial() -> Verdict:
    return verdict(NAME, {"cluster": not_applicable("give --storage s3://BUCKET/PREFIX")})


def _judged(measured: Throughput, least: float) -> Judgement:
    slower = min(measured.written, measured.read) / _MEGABYTE
    value = f"write {measured.written / _MEGABYTE:.0f}, read {measured.read / _MEGABYTE:.0f} MB/s"
    if slower < least:
        return failed(f"{value} of {least:g}", "use a bucket in the region of the machines; look for a shared NAT")
    return ok(value, goodness=slower)
