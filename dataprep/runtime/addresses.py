"""Addresses of folders and files: ``/path``, ``~/path``, ``file:///path`` or ``s3://bucket/prefix``.

A plain path means what it says, also with ``#``, ``?``, ``%`` or a blank in it. A ``file://`` address is a URL, so
``%20`` is a blank. In an object store, as on a disk, several slashes are one.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from dataprep.runtime.command_line import UserError

OBJECT_STORE = "s3://"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|(s3|file):", re.IGNORECASE)
# s3fs cuts a key here
_VERSION_MARK = "?versionId="
_CREDENTIALS = re.compile(r"(?<=//)[^/\s<>]*@")


def plain_address(address: str) -> str:
    """The one form of an address: an absolute path, or ``s3://bucket/prefix`` without a slash at the end.

    Raises :class:`UserError` for what is not an address.
    """
    if not address:
        raise UserError("an address is empty", exit_code=2)
    scheme = _SCHEME.match(address)
    if scheme is None:
        return _plain_path(address)
    if scheme[0].lower() == OBJECT_STORE:
        return _plain_object_address(address[len(OBJECT_STORE) :])
    if scheme[0].lower() in ("file:", "file://"):
        return _plain_path(_path_of_url(address))
    raise UserError(f"{address}: only a folder or s3://bucket/prefix is understood", exit_code=2)


def is_absolute(address: str) -> bool:
    """Whether an address means the same from everywhere: false for a path relative to some folder."""
    return bool(_SCHEME.match(address)) or address.startswith(("/", "~"))


def split_file_address(address: str) -> tuple[str, str]:
    """The folder and the name of one file: ``s3://bucket/a/b.csv`` is ``s3://bucket/a`` and ``b.csv``."""
    plain = plain_address(address)
    folder, _, name = plain.rpartition("/")
    if address.endswith("/") or name in ("", ".", "..") or f"{folder}/" == OBJECT_STORE:
        raise UserError(f"{address!r} is not the address of a file", exit_code=2)
    return folder or "/", name


def plain_name(name: str) -> str:
    """A name below a folder, with one slash between parts. Raises :class:`UserError` for one that would leave it."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name or _VERSION_MARK in name:
        raise UserError(f"{name!r} is not a name below the folder", exit_code=2)
    return "/".join(parts)


def without_credentials(text: str) -> str:
    """An address, or a message with addresses, as it may be shown: without user and password before the host."""
    return _CREDENTIALS.sub("", text)


def _plain_path(path: str) -> str:
    if "\0" in path:
        raise UserError(f"{path!r} is not the address of a folder", exit_code=2)
    try:
        # POSIX leaves two slashes at the beginning to the system; here they are one
        expanded = Path(path).expanduser() if path.startswith("~") else Path(path)
        return re.sub("^/+", "/", str(expanded.absolute()))
    except RuntimeError:
        raise UserError(f"{path}: there is no such user; ./{path} is a folder of that name", exit_code=2) from None


def _path_of_url(url: str) -> str:
    rest = url[len("file:") :]
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        if host.lower() not in ("", "localhost"):
            raise UserError(f"{url} is on another machine: file:///path has three slashes", exit_code=2)
        rest = slash + path
    if not rest.startswith("/"):
        raise UserError(f"{url} is not absolute: file:///path has three slashes", exit_code=2)
    return unquote(rest)


def _plain_object_address(rest: str) -> str:
    bucket, _, prefix = rest.partition("/")
    if not bucket or "@" in bucket:
        raise UserError("an object-store address is s3://bucket/prefix, without credentials", exit_code=2)
    parts = [part for part in prefix.split("/") if part]
    if "." in parts or ".." in parts:
        raise UserError(f"{OBJECT_STORE}{rest}: an object store has no folders '.' and '..'", exit_code=2)
    if _VERSION_MARK in prefix:
        raise UserError(f"{OBJECT_STORE}{rest}: versions of objects cannot be addressed", exit_code=2)
    return OBJECT_STORE + "/".join([bucket, *parts])
