"""Folders on disk and prefixes in S3-compatible object stores, behind one small interface.

For addresses, see :mod:`dataprep.runtime.addresses`. Credentials and endpoint come from the standard
environment variables (``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_SESSION_TOKEN``, ``AWS_REGION``,
``AWS_ENDPOINT_URL``), from ``~/.aws`` or from the machine's role; they are never part of an address or a setting.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeVar

import fsspec

from dataprep.runtime.addresses import OBJECT_STORE, plain_address, plain_name, split_file_address
from dataprep.runtime.command_line import UserError, one_line
from dataprep.runtime.local_files import (
    copy_whole,
    create_whole,
    remove_tree,
    replace_whole,
    try_to_write,
    version_of,
    write_whole,
)
from dataprep.runtime.object_store.block_cache import GrowingBlocks
from dataprep.runtime.object_store.meaning import Meaning

__all__ = ["Folder", "split_file_address"]

T = TypeVar("T")

_CHUNK_BYTES = 8 * 1024 * 1024
_BLOCK_BYTES = 1024 * 1024
_FIRST_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 8.0
# of one DeleteObjects request
_MOST_KEYS_PER_REQUEST = 1000
# absence is an answer that callers ask for
_LEFT_TO_CALLERS = (FileNotFoundError, NotADirectoryError)


class StorageError(UserError):
    """A store, a disk or the right to use them is at fault, not what was read: the same command may succeed later."""


@dataclass(frozen=True)
class Folder:
    """A folder or an object-store prefix.

    ``patience_seconds`` is how long one operation is tried again while the store cannot be reached: short for a
    person at a terminal, long for a training run that should live through an outage.
    """

    uri: str
    patience_seconds: float = 5.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "uri", plain_address(self.uri))

    @property
    def is_local(self) -> bool:
        return not self.uri.startswith(OBJECT_STORE)

    @property
    def path(self) -> str:
        """The path that :attr:`filesystem` understands."""
        return self.uri.removeprefix(OBJECT_STORE)

    @property
    def filesystem(self) -> fsspec.AbstractFileSystem:
        if self.is_local:
            return fsspec.filesystem("file", auto_mkdir=True)
        # a listing cache would hide what other processes write
        return fsspec.filesystem("s3", use_listings_cache=False)

    def __truediv__(self, name: str) -> Folder:
        return Folder(f"{self.uri}/{plain_name(name)}", self.patience_seconds)

    def patient(self, seconds: float) -> Folder:
        """The same folder, with operations tried again for ``seconds`` while the store is out of reach."""
        return Folder(self.uri, seconds)

    def read_bytes(self, name: str) -> bytes:
        """Content of a file. Raises FileNotFoundError."""
        return self.attempt(lambda: self.filesystem.cat_file(self._file(name)))

    def read_text(self, name: str) -> str:
        return self.read_bytes(name).decode()

    def write_bytes(self, name: str, content: bytes | memoryview) -> None:
        """Write a whole file: a reader sees the old content or the new, never a part."""
        if not self.is_local:
            self.attempt(lambda: self.filesystem.pipe_file(self._file(name), bytes(content)))
            return
        self._write_locally(lambda: write_whole(Path(self._file(name)), lambda stream: stream.write(content)))

    def write_stream(self, name: str, fill: Callable[[IO[bytes]], object]) -> None:
        """Write what ``fill`` puts into a stream; as :meth:`write_bytes`, whole or not at all.

        On a disk the content is never in memory as a whole. ``fill`` is called again where a write is tried again.
        """
        if self.is_local:
            self._write_locally(lambda: write_whole(Path(self._file(name)), fill))
            return
        content = io.BytesIO()
        fill(content)
        self.write_bytes(name, content.getvalue())

    def write_text(self, name: str, content: str) -> None:
        self.write_bytes(name, content.encode())

    def upload(self, source: Path, name: str) -> None:
        """Copy a local file here; as :meth:`write_bytes`, whole or not at all."""
        if not self.is_local:
            self.attempt(lambda: self.filesystem.put_file(str(source), self._file(name)))
            return
        self._write_locally(lambda: copy_whole(source, Path(self._file(name))))

    def create(self, name: str, content: bytes) -> bool:
        """Write a file unless there is one: of many writers at once, one is told True.

        ``content`` has to be unlike that of any other writer (an id in it does): a writer whose request succeeded
        while the answer was lost recognises it as its own.
        """
        if self.is_local:
            return self._write_locally(lambda: create_whole(Path(self._file(name)), content))
        return self._put_if(name, content, IfNoneMatch="*")

    def replace_if(self, name: str, content: bytes, version: str) -> bool:
        """Write a file if its content still has the ``version`` that :meth:`read_version` gave; else return False.

        Of many writers at once, one is told True. For ``content``, see :meth:`create`.
        """
        if self.is_local:
            return self._write_locally(lambda: replace_whole(Path(self._file(name)), content, version))
        return self._put_if(name, content, IfMatch=version)

    def read_version(self, name: str) -> tuple[bytes, str]:
        """Content of a file and its version, for :meth:`replace_if`. Raises FileNotFoundError."""
        if self.is_local:
            content = self.read_bytes(name)
            return content, version_of(content)
        return self.attempt(lambda: self._get_with_etag(name))

    def _write_locally(self, operation: Callable[[], T]) -> T:
        try:
            return self.attempt(operation)
        except NotADirectoryError:
            raise UserError(f"{self.uri} is not a folder: a part of the path is a file") from None
        except FileNotFoundError as error:
            raise UserError(f"{self.uri} cannot be made: {error.strerror}") from None

    def _get_with_etag(self, name: str) -> tuple[bytes, str]:
        # the stream asks for the content of this very ETag
        with self.filesystem.open(self._file(name), "rb") as stream:
            return stream.read(), stream.details["ETag"]

    def _put_if(self, name: str, content: bytes, **condition: str) -> bool:
        bucket, _, key = self._file(name).partition("/")
        try:
            self.attempt(
                lambda: self.filesystem.call_s3("put_object", Bucket=bucket, Key=key, Body=content, **condition)
            )
        except (_ConditionFailedError, FileNotFoundError):
            with suppress(FileNotFoundError):
                return self.read_bytes(name) == content
            return False
        return True

    def download(self, name: str, target: Path) -> None:
        """Copy a file from here to the local disk, whole or not at all. Raises FileNotFoundError."""
        partial = target.with_name(f"{target.name}.partial")
        try:
            self.attempt(lambda: self.filesystem.get_file(self._file(name), str(partial)))
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    @contextmanager
    def open(self, name: str, read_ahead: bool = True, in_blocks: bool = False) -> Iterator[IO[bytes]]:
        """A seekable stream for reading. Without ``read_ahead`` an object store sends just the bytes asked for: for
        readers that know which parts of a large file they want; else it sends 50 MB at a time. ``in_blocks`` keeps the
        last 96 MB, for readers that jump between places."""
        cache: dict[str, Any] = {} if read_ahead else {"cache_type": "none"}
        if in_blocks:
            options = {"most_blocks": 96, "longest_fetch": 16}
            cache = {"cache_type": GrowingBlocks.name, "block_size": _BLOCK_BYTES, "cache_options": options}
        cache = {} if self.is_local else cache
        stream = self.attempt(lambda: self.filesystem.open(self._file(name), "rb", **cache))
        try:
            yield stream
        finally:
            stream.close()

    def exists(self, name: str) -> bool:
        return self.attempt(lambda: bool(self.filesystem.exists(self._file(name))))

    def size_bytes(self, name: str) -> int:
        return int(self.attempt(lambda: self.filesystem.info(self._file(name)))["size"])

    def files(self) -> list[str]:
        """Names, relative to this folder, of all files below it, sorted; empty where it does not exist."""
        found = self.attempt(lambda: self.filesystem.find(self.path))
        # keys that end with a slash are the folders of S3 consoles
        names = [path.removeprefix(self.path).lstrip("/") for path in found if not path.endswith("/")]
        return sorted(name for name in names if name)

    def children(self) -> list[str]:
        """Names of the files and folders directly below this one, sorted; empty where it does not exist."""
        try:
            found = self.attempt(lambda: self.filesystem.ls(self.path, detail=False))
        except FileNotFoundError:
            return []
        return sorted(PurePosixPath(path).name for path in found if path.rstrip("/") != self.path)

    def remove(self, name: str) -> None:
        """Delete a file, or a folder with all that is in it; nothing happens where there is none."""
        path = self._file(name)
        self.attempt(lambda: remove_tree(Path(path)) if self.is_local else self._remove_objects(path))

    def _remove_objects(self, path: str) -> None:
        # not by s3fs.rm, which takes a name with * or [ for a pattern
        bucket, _, own_key = path.partition("/")
        keys = [own_key, *(found.partition("/")[2] for found in self.filesystem.find(path))]
        for start in range(0, len(keys), _MOST_KEYS_PER_REQUEST):
            objects = [{"Key": key} for key in keys[start : start + _MOST_KEYS_PER_REQUEST]]
            answer = self.filesystem.call_s3("delete_objects", Bucket=bucket, Delete={"Objects": objects})
            if errors := answer.get("Errors"):
                raise UserError(f"{self.uri}: {len(errors):,} objects were not removed, e.g. {errors[0]}")

    def read_ranges(self, ranges: Sequence[tuple[str, int, int]]) -> list[bytes]:
        """Parts of files: name, first byte, and the byte after the last. An object store is asked for many at a time.
        Raises FileNotFoundError."""
        if not self.is_local:
            paths, starts, ends = zip(*((self._file(name), start, end) for name, start, end in ranges), strict=True)
            return self.attempt(
                lambda: self.filesystem.cat_ranges(list(paths), list(starts), list(ends), on_error="raise")
            )
        contents = []
        for name, own in groupby(ranges, key=lambda one: one[0]):
            with self.open(name) as stream:
                for _, start, end in own:
                    stream.seek(start)
                    contents.append(stream.read(end - start))
        return contents

    def revision(self, name: str) -> str:
        """What changes where a file, or a file in a folder, is written anew, without reading it: sizes with ETags or
        times. Raises FileNotFoundError."""
        info = self.attempt(lambda: self.filesystem.info(self._file(name)))
        if info["type"] == "directory":
            return self._revision_of_folder(self._file(name))
        return _revision(info)

    def _revision_of_folder(self, path: str) -> str:
        found = self.attempt(lambda: self.filesystem.find(path, detail=True))
        return version_of("".join(f"{file} {_revision(info)}\n" for file, info in sorted(found.items())).encode())

    def sha256(self, name: str) -> str:
        """Checksum of a file, read in pieces. Raises FileNotFoundError."""
        return self.attempt(lambda: self._sha256(name))

    def _sha256(self, name: str) -> str:
        digest = hashlib.sha256()
        with self.open(name) as stream:
            while piece := stream.read(_CHUNK_BYTES):
                digest.update(piece)
        return digest.hexdigest()

    def require_reachable(self) -> None:
        """Raise :class:`UserError` unless the bucket exists and the credentials are accepted."""
        if not self.is_local:
            bucket = self.path.partition("/")[0]
            try:
                self.attempt(lambda: self.filesystem.call_s3("head_bucket", Bucket=bucket))
            except FileNotFoundError:
                # a server may answer a plain 404, which s3fs takes for a missing file
                raise UserError(f"{self.uri}: the bucket does not exist") from None

    def require_writable(self, name: str) -> None:
        """Raise :class:`UserError` unless a file of this name can be written, for which its folder is made.

        For commands that write after a long time: what is wrong with the place should be known before.
        """
        if self.is_local:
            try:
                self._write_locally(lambda: try_to_write(Path(self._file(name))))
            except IsADirectoryError:
                raise UserError(f"{self.uri}/{name} is a folder, not a file to write", exit_code=2) from None
            except UserError as error:
                raise UserError(f"{error}; choose another place than {self.uri}/{name}", exit_code=2) from None
            return
        self.require_reachable()
        self.attempt(lambda: self._begin_to_upload(name))

    def _begin_to_upload(self, name: str) -> None:
        """Ask for what needs the right to write, and leaves nothing behind."""
        bucket, _, key = self._file(name).partition("/")
        begun = self.filesystem.call_s3("create_multipart_upload", Bucket=bucket, Key=key)
        # who may write need not be allowed to do this; stores end such uploads by themselves
        with suppress(*self._errors()):
            self.filesystem.call_s3("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=begun["UploadId"])

    def _file(self, name: str) -> str:
        return f"{self.path.rstrip('/')}/{plain_name(name)}"

    def attempt(self, operation: Callable[[], T]) -> T:
        """The result of ``operation``, tried again while the store is unavailable or the credentials have expired.

        Other errors, and those that outlast the patience, are raised as StorageError; FileNotFoundError stays as it is.
        """
        give_up_at = time.monotonic() + self.patience_seconds
        pause_seconds = _FIRST_PAUSE_SECONDS
        seen: set[Meaning] = set()
        while True:
            try:
                return operation()
            except ValueError as error:
                # botocore's, of an endpoint without http:// or a host
                if isinstance(error, UserError) or "Invalid endpoint" not in str(error):
                    raise
                raise UserError(f"{self.uri}: AWS_ENDPOINT_URL should be http(s)://HOST:PORT ({error})") from None
            except self._errors() as error:
                if self.is_local:
                    raise self._of_the_disk(error) from None
                meaning = self._required_retry(error, seen)
                if time.monotonic() + pause_seconds > give_up_at:
                    raise StorageError(self._gave_up(error, meaning)) from None
                seen.add(meaning)
            if meaning is not Meaning.UNAVAILABLE:
                # connections are kept with their credentials; a new one reads environment, files and role again
                type(self.filesystem).clear_instance_cache()
            time.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)

    def _errors(self) -> tuple[type[Exception], ...]:
        """All that an operation here raises."""
        if self.is_local:
            return (OSError,)
        # takes s3fs with botocore and aiohttp: half a second of each process, which a disk needs none of
        from dataprep.runtime.object_store.errors import STORE_ERRORS

        return STORE_ERRORS

    def _required_retry(self, error: Exception, seen: set[Meaning]) -> Meaning:
        """What an error means where trying again may help; raises where it does not."""
        from dataprep.runtime.object_store.errors import meaning_of

        meaning = meaning_of(error)
        if meaning in (Meaning.UNAVAILABLE, Meaning.EXPIRED):
            return meaning
        # while credentials are being renewed, the new ones may be absent, in part, or not known to the store yet
        if Meaning.EXPIRED in seen and meaning in (Meaning.DENIED, Meaning.NO_CREDENTIALS):
            return Meaning.EXPIRED
        # keys may have been exchanged since the connection was made
        if meaning is Meaning.DENIED and Meaning.DENIED not in seen:
            return meaning
        if meaning is Meaning.NO_BUCKET:
            raise StorageError(f"{self.uri}: the bucket does not exist") from None
        if meaning is Meaning.CONDITION_FAILED:
            raise _ConditionFailedError from None
        if meaning is Meaning.DENIED:
            raise StorageError(f"{self.uri}: access denied ({one_line(error)})") from None
        if meaning is Meaning.NO_CREDENTIALS:
            raise StorageError(f"{self.uri}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY") from None
        if isinstance(error, (FileNotFoundError, RuntimeError)):
            raise error
        raise StorageError(f"{self.uri}: {one_line(error)}") from None

    def _gave_up(self, error: Exception, meaning: Meaning) -> str:
        if meaning is Meaning.EXPIRED:
            return (
                f"{self.uri}: the credentials have expired ({one_line(error)}); renew them in ~/.aws or the machine's "
                "role, which are read again (the variables of a running process are not), or start again with new ones"
            )
        if meaning is Meaning.DENIED:
            return f"{self.uri}: access denied ({one_line(error)})"
        return f"{self.uri}: the object store does not answer ({one_line(error)})"

    def _of_the_disk(self, error: Exception) -> Exception:
        """One line for what the user can mend: a full or damaged disk, missing rights; other errors as they are."""
        if isinstance(error, PermissionError):
            return StorageError(f"{self.uri}: access denied ({one_line(error)})")
        if isinstance(error, IsADirectoryError) and error.filename:
            return UserError(f"{error.filename} is a folder, not a file")
        if not isinstance(error, OSError) or error.errno is None or isinstance(error, _LEFT_TO_CALLERS):
            return error
        return StorageError(f"{self.uri}: {error.strerror}")


def _revision(info: dict[str, Any]) -> str:
    return f"{info['size']} {info.get('ETag') or info.get('mtime')}"


class _ConditionFailedError(Exception):
    """The object is not, or no longer, what a conditional write asks for."""
