"""Folders on disk and prefixes in S3-compatible object stores, behind one small interface.

Addresses are ``/path``, ``file:///path`` or ``s3://bucket/prefix``. Credentials and endpoint come from the standard
environment variables (``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_SESSION_TOKEN``, ``AWS_REGION``,
``AWS_ENDPOINT_URL``), from ``~/.aws`` or from the machine's role; they are never part of an address or a setting.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
import fsspec
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
)
from botocore.exceptions import (
    ConnectionError as BotoConnectionError,
)
from s3fs.utils import FileExpired

from dataprep.runtime.command_line import UserError
from dataprep.runtime.local_files import copy_whole, create_whole, replace_whole, version_of, write_whole

T = TypeVar("T")

# What an object store that is restarting or out of reach looks like from here.
TRANSIENT_ERRORS = (BotoConnectionError, HTTPClientError, aiohttp.ClientError, ConnectionError, TimeoutError)
_CHUNK_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True)
class Folder:
    """A folder or an object-store prefix.

    ``patience_seconds`` is how long one operation is tried again while the store cannot be reached: short for a
    person at a terminal, long for a training run that should live through an outage.
    """

    uri: str
    patience_seconds: float = 5.0

    def __post_init__(self) -> None:
        parts = urlsplit(self.uri)
        if parts.scheme not in ("", "file", "s3"):
            raise UserError(f"{self.uri}: only a folder or s3://bucket/prefix is understood", exit_code=2)
        if parts.scheme == "s3" and (not parts.netloc or "@" in parts.netloc):
            raise UserError("an object-store address is s3://bucket/prefix, without credentials", exit_code=2)
        plain = self.uri.rstrip("/") if parts.scheme == "s3" else str(Path(parts.path).absolute())
        object.__setattr__(self, "uri", plain)

    @property
    def is_local(self) -> bool:
        return not self.uri.startswith("s3://")

    @property
    def path(self) -> str:
        """The path that :attr:`filesystem` understands."""
        return self.uri.removeprefix("s3://")

    @property
    def filesystem(self) -> fsspec.AbstractFileSystem:
        if self.is_local:
            return fsspec.filesystem("file", auto_mkdir=True)
        # a listing cache would hide what other processes write
        return fsspec.filesystem("s3", use_listings_cache=False)

    def __truediv__(self, name: str) -> Folder:
        return Folder(f"{self.uri}/{_checked(name)}", self.patience_seconds)

    def patient(self, seconds: float) -> Folder:
        """The same folder, with operations tried again for ``seconds`` while the store is out of reach."""
        return Folder(self.uri, seconds)

    def read_bytes(self, name: str) -> bytes:
        """Content of a file. Raises FileNotFoundError."""
        return self.attempt(lambda: self.filesystem.cat_file(self._file(name)))

    def read_text(self, name: str) -> str:
        return self.read_bytes(name).decode()

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write a whole file: a reader sees the old content or the new, never a part."""
        if not self.is_local:
            self.attempt(lambda: self.filesystem.pipe_file(self._file(name), content))
            return
        write_whole(Path(self._file(name)), lambda stream: stream.write(content))

    def write_text(self, name: str, content: str) -> None:
        self.write_bytes(name, content.encode())

    def upload(self, source: Path, name: str) -> None:
        """Copy a local file here; as :meth:`write_bytes`, whole or not at all."""
        if not self.is_local:
            self.attempt(lambda: self.filesystem.put_file(str(source), self._file(name)))
            return
        copy_whole(source, Path(self._file(name)))

    def create(self, name: str, content: bytes) -> bool:
        """Write a file unless there is one: of many writers at once, one is told True.

        ``content`` has to be unlike that of any other writer (an id in it does): a writer whose request succeeded
        while the answer was lost recognises it as its own.
        """
        if self.is_local:
            return create_whole(Path(self._file(name)), content)
        return self._put_if(name, content, IfNoneMatch="*")

    def replace_if(self, name: str, content: bytes, version: str) -> bool:
        """Write a file if its content still has the ``version`` that :meth:`read_version` gave; else return False.

        Of many writers at once, one is told True. For ``content``, see :meth:`create`.
        """
        if self.is_local:
            return replace_whole(Path(self._file(name)), content, version)
        return self._put_if(name, content, IfMatch=version)

    def read_version(self, name: str) -> tuple[bytes, str]:
        """Content of a file and its version, for :meth:`replace_if`. Raises FileNotFoundError."""
        if self.is_local:
            content = self.read_bytes(name)
            return content, version_of(content)
        return self.attempt(lambda: self._get_with_etag(name))

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
        """Copy a file from here to the local disk. Raises FileNotFoundError."""
        self.attempt(lambda: self.filesystem.get_file(self._file(name), str(target)))

    @contextmanager
    def open(self, name: str, read_ahead: bool = True) -> Iterator[IO[bytes]]:
        """A seekable stream for reading. Without ``read_ahead`` an object store sends just the bytes asked for: for
        readers that know which parts of a large file they want; else it sends 50 MB at a time."""
        cache = {} if self.is_local or read_ahead else {"cache_type": "none"}
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
        return sorted(str(PurePosixPath(path).relative_to(PurePosixPath(self.path))) for path in found)

    def children(self) -> list[str]:
        """Names of the files and folders directly below this one, sorted; empty where it does not exist."""
        try:
            found = self.attempt(lambda: self.filesystem.ls(self.path, detail=False))
        except FileNotFoundError:
            return []
        return sorted(PurePosixPath(path).name for path in found if path.rstrip("/") != self.path)

    def remove(self, name: str) -> None:
        """Delete a file, or a folder with all that is in it; nothing happens where there is none."""
        try:
            self.attempt(lambda: self.filesystem.rm(self._file(name), recursive=True))
        except FileNotFoundError:
            return

    def sha256(self, name: str) -> str:
        """Checksum of a file, read in pieces."""
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

    def _file(self, name: str) -> str:
        return f"{self.path}/{_checked(name)}"

    def attempt(self, operation: Callable[[], T]) -> T:
        """The result of ``operation``, tried again while the store cannot be reached; its errors as UserError."""
        give_up_at = time.monotonic() + self.patience_seconds
        pause_seconds = 0.25
        while True:
            try:
                return operation()
            except FileNotFoundError as error:
                if not self.is_local and "bucket" in str(error).lower():
                    raise UserError(f"{self.uri}: the bucket does not exist") from None
                raise
            except PermissionError as error:
                raise UserError(f"{self.uri}: access denied ({_one_line(error)})") from None
            except (NoCredentialsError, PartialCredentialsError):
                raise UserError(
                    f"{self.uri}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
                ) from None
            except (OSError, ClientError, BotoCoreError, aiohttp.ClientError) as error:
                if _condition_failed(error):
                    raise _ConditionFailedError from None
                if not _is_transient(error):
                    raise self._described(error) from None
                if time.monotonic() + pause_seconds > give_up_at:
                    raise UserError(f"{self.uri}: the object store does not answer ({_one_line(error)})") from None
                time.sleep(pause_seconds)
                pause_seconds = min(2 * pause_seconds, 8.0)

    def _described(self, error: Exception) -> Exception:
        """Turn the store's errors into one line; leave those of the local disk as they are."""
        text = _one_line(error)
        if self.is_local:
            return error
        if "bucket does not exist" in text or "NoSuchBucket" in text:
            return UserError(f"{self.uri}: the bucket does not exist")
        if any(word in text for word in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "Forbidden", "AccessDenied")):
            return UserError(f"{self.uri}: access denied ({text})")
        return UserError(f"{self.uri}: {text}")


class _ConditionFailedError(Exception):
    """The object is not, or no longer, what a conditional write asks for."""


def _condition_failed(error: BaseException) -> bool:
    answer = error if isinstance(error, ClientError) else error.__cause__
    # 409: another conditional write to the object is going on
    return isinstance(answer, ClientError) and answer.response["ResponseMetadata"].get("HTTPStatusCode") in (409, 412)


def _is_transient(error: BaseException) -> bool:
    """Whether trying again may help: no connection, an error on the store's side (HTTP 5xx), or content that changed
    while it was read."""
    if isinstance(error, (*TRANSIENT_ERRORS, FileExpired)):
        return True
    # s3fs turns botocore's errors into OSError and keeps them as the cause
    answer = error if isinstance(error, ClientError) else error.__cause__
    return isinstance(answer, ClientError) and answer.response["ResponseMetadata"].get("HTTPStatusCode", 0) >= 500


def split_file_address(address: str) -> tuple[str, str]:
    """The folder and the name of one file: ``s3://bucket/a/b.csv`` is ``s3://bucket/a`` and ``b.csv``."""
    folder, slash, name = address.rpartition("/")
    if not name:
        raise UserError(f"{address!r} is not the address of a file", exit_code=2)
    return (folder or "/") if slash else ".", name


def _checked(name: str) -> str:
    """Refuse names that would leave the folder."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts:
        raise ValueError(f"{name!r} is not a name below the folder")
    return name


def _one_line(error: Any) -> str:
    return " ".join(str(error).split()) or type(error).__name__
