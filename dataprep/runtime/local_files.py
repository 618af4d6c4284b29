"""Writes to a local disk that are whole or absent, on the disk when they return, and safe beside other writers."""

from __future__ import annotations

import fcntl
import glob
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from dataprep.runtime.command_line import UserError
from dataprep.runtime.process import Process, is_gone


def write_whole(target: Path, fill: Callable[[IO[bytes]], object]) -> None:
    """Write what ``fill`` puts into a stream: a reader sees the old content or the new, never a part."""
    with _temporary(target, fill) as temporary:
        temporary.replace(target)
    _sync_folder(target.parent)


def try_to_write(target: Path) -> None:
    """Make the folder of ``target`` and write a file beside it, which is gone afterwards. Raises OSError."""
    with _temporary(target, lambda stream: stream.write(b"\n")):
        if target.is_dir():
            raise IsADirectoryError  # without a number: storage says it in its own words


def path_beside(target: Path) -> Path:
    """A path in the folder of ``target`` for a file that is to be renamed to it.

    Removes what processes of this system that were killed have left of the same file.
    """
    # the file's own name is cut, since the whole may have 255 bytes
    start, end = f".{target.name[:40]}.", ".partial"
    for path in target.parent.glob(f"{glob.escape(start)}*{end}"):
        mark, _, _ = path.name.removeprefix(start).removesuffix(end).rpartition("-")
        if is_gone(mark):
            path.unlink(missing_ok=True)
    # several processes may write here, and several threads of each
    return target.with_name(f"{start}{Process.this().mark}-{uuid.uuid4().hex[:12]}{end}")


def copy_whole(source: Path, target: Path) -> None:
    """Copy a file; otherwise as :func:`write_whole`."""
    with source.open("rb") as stream:
        write_whole(target, lambda sink: shutil.copyfileobj(stream, sink, 8 * 1024 * 1024))


def create_whole(target: Path, content: bytes) -> bool:
    """Write a file unless there is one. Of many writers at once, one is told True."""
    with _temporary(target, lambda stream: stream.write(content)) as temporary:
        try:
            os.link(temporary, target)
        except FileExistsError:
            # an NFS client that repeats a request is refused by its own link: the number of links tells
            created = temporary.stat().st_nlink == 2
        except OSError:
            # a file system without hard links; its readers may see a part
            created = _create_in_place(target, content)
        else:
            created = True
    _sync_folder(target.parent)
    return created


def replace_whole(target: Path, content: bytes, version: str) -> bool:
    """Write a file if its content still has this :func:`version_of`. Of many writers at once, one is told True."""
    try:
        with _locked(target):
            if version_of(target.read_bytes()) != version:
                return False
            write_whole(target, lambda stream: stream.write(content))
    except FileNotFoundError:
        return False
    return True


@contextmanager
def one_line_for_a_full_disk(what: str) -> Iterator[None]:
    """Turn what pyarrow and h5py raise when they cannot write into UserError, with the system's own words.

    For blocks in which nothing else raises OSError.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        # h5py raises either, with the errno of the system inside a longer story
        story = re.search(r"file write failed.* error message = '([^']*)'", str(error), re.DOTALL)
        if story is None and not (isinstance(error, OSError) and error.errno):
            raise
        reason = story[1] if story else os.strerror(getattr(error, "errno", 0))
        raise UserError(f"{what} cannot be written: {reason}") from None


def remove_tree(path: Path) -> None:
    """Delete a file, a link (not what it points to), or a folder with all that is in it, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def version_of(content: bytes) -> str:
    """What tells one content of a file from another."""
    return hashlib.sha256(content).hexdigest()


@contextmanager
def _temporary(target: Path, fill: Callable[[IO[bytes]], object]) -> Iterator[Path]:
    """A file beside ``target`` with what ``fill`` wrote, on the disk; gone afterwards, unless it was renamed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = path_beside(target)
    try:
        with temporary.open("xb") as stream:
            fill(stream)
            stream.flush()
            os.fsync(stream.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _create_in_place(target: Path, content: bytes) -> bool:
    try:
        with target.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    except FileExistsError:
        return False
    return True


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Hold the lock file of ``target``, which the system releases when this process ends; gone afterwards."""
    path = target.with_name(f".{target.name}.lock")
    while True:
        with path.open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is_at(lock, path):
                continue  # whoever held it has removed it, and another may have a new one
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _is_at(stream: IO[bytes], path: Path) -> bool:
    """Whether the path is that of an open file still."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _sync_folder(folder: Path) -> None:
    """Put a folder's list of names on the disk: without it a renamed file can be lost with the power."""
    # some network file systems cannot sync a folder
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
