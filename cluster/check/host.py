"""What a machine has to offer beside its processors: shared memory, free disk, a clock that is right, a guarded Ray."""

from __future__ import annotations

import ipaddress
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from cluster.check.contract import Check, Judgement, Unmeasured, Verdict, failed, not_applicable, ok, verdict
from cluster.config import CheckSettings
from dataprep.runtime.ray_internals import session_folder

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108
_GIGABYTE = 1e9
_CLOCK_READINGS = 5


@dataclass(frozen=True)
class FreeDisk:
    """The fullest of the disks that a node writes to."""

    folder: str
    free_bytes: int


def shared_memory_bytes(settings: CheckSettings) -> int | None:
    """Size of /dev/shm, None on a system that has no such place."""
    return psutil.disk_usage(str(_SHARED_MEMORY)).total if _SHARED_MEMORY.is_dir() else None


def judge_shared_memory(
    found: Mapping[str, int | None], driver: int | None, settings: CheckSettings
) -> Mapping[str, Judgement]:
    advice = "give the container more: `docker run --shm-size`, an emptyDir of medium Memory at /dev/shm"
    return {place: _shared_memory(size, settings.min_shared_memory_gigabytes, advice) for place, size in found.items()}


def _shared_memory(size: int | None, least_gigabytes: float, advice: str) -> Judgement:
    if size is None:
        return not_applicable("no /dev/shm on this system")
    value = f"{size / _GIGABYTE:.1f} GB"
    if size < least_gigabytes * _GIGABYTE:
        return failed(f"{value} of {least_gigabytes:g} GB", advice)
    return ok(value, goodness=size)


def free_disk(settings: CheckSettings) -> FreeDisk:
    """Of Ray's folder, where objects are spilled and jobs unpacked, and of that for temporary files."""
    folders = {str(session_folder()), tempfile.gettempdir()}
    return min((FreeDisk(folder, psutil.disk_usage(folder).free) for folder in folders), key=lambda f: f.free_bytes)


def judge_free_disk(
    found: Mapping[str, FreeDisk], driver: FreeDisk | None, settings: CheckSettings
) -> Mapping[str, Judgement]:
    least = settings.min_free_disk_gigabytes
    return {
        place: ok(f"{disk.free_bytes / _GIGABYTE:.0f} GB free", goodness=disk.free_bytes)
        if disk.free_bytes >= least * _GIGABYTE
        else failed(
            f"{disk.free_bytes / _GIGABYTE:.1f} of {least:g} GB free in {disk.folder}",
            "make room there, or start Ray with --temp-dir on a larger disk",
        )
        for place, disk in found.items()
    }


def token_is_wanted(settings: CheckSettings) -> bool:
    """Whether Ray on this node refuses calls without a token. A driver without one would not have come so far."""
    return os.environ.get("RAY_AUTH_MODE", "").lower() == "token"


def judge_tokens(found: Mapping[str, bool], driver: bool | None, settings: CheckSettings) -> Mapping[str, Judgement]:
    advice = "anybody who reaches these ports can run programs: start Ray with RAY_AUTH_MODE=token and a token"
    return {
        place: ok("wanted")
        if is_wanted
        else not_applicable("none wanted, on a loopback address")
        if _is_loopback(place)
        else failed("none wanted", advice)
        for place, is_wanted in found.items()
    }


def _is_loopback(place: str) -> bool:
    """Whether a node, named by its address, can only be reached from its own machine."""
    try:
        return ipaddress.ip_address(place.partition(" ")[0]).is_loopback
    except ValueError:
        return False


def clock() -> float:
    """Seconds since 1970, as this machine has it."""
    return time.time()


def clock_offset_seconds(read: Callable[[], float]) -> float:
    """How far another clock is ahead of ours, by the quickest of a few readings: it is off by half its time at most."""
    readings = []
    for _ in range(_CLOCK_READINGS):
        asked, theirs, answered = clock(), read(), clock()
        readings.append((answered - asked, theirs - (asked + answered) / 2))
    return min(readings)[1]


def clock_verdict(offsets: Mapping[str, float | Unmeasured], settings: CheckSettings) -> Verdict:
    advice = "set the clocks by NTP (chrony, systemd-timesyncd); S3 refuses requests of clocks that are far off"
    return verdict(
        "clock",
        {
            place: failed(offset.reason, advice)
            if isinstance(offset, Unmeasured)
            else ok(f"{offset:+.3f} s", goodness=-abs(offset))
            if abs(offset) <= settings.max_clock_offset_seconds
            else failed(f"{offset:+.1f} s, more than {settings.max_clock_offset_seconds:g}", advice)
            for place, offset in offsets.items()
        },
    )


SHARED_MEMORY = Check("shared memory", shared_memory_bytes, judge_shared_memory, "see whether /dev/shm can be read")
DISK = Check("disk", free_disk, judge_free_disk, "see whether Ray's folder and TMPDIR are there")
TOKEN = Check("token", token_is_wanted, judge_tokens, "")
