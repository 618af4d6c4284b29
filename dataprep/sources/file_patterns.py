"""Which files a path with wildcards means."""

from __future__ import annotations

import fnmatch
import re
from pathlib import PurePosixPath

_WILDCARDS = "*?["


def has_wildcards(path: str) -> bool:
    """Whether a path may mean several files."""
    return any(character in path for character in _WILDCARDS)


def fixed_folder(address: str) -> str:
    """The folder that the files of a pattern are all below."""
    first = min(address.index(character) for character in _WILDCARDS if character in address)
    return address[:first].rpartition("/")[0] or "/"


def matches(name: str, pattern: str) -> bool:
    """Whether a name with folders is meant: ``*`` and ``?`` stay within a folder, ``**`` is any number of folders,
    ``[[]`` is a bracket."""
    return _matches(PurePosixPath(name).parts, PurePosixPath(pattern).parts)


def _matches(names: tuple[str, ...], patterns: tuple[str, ...]) -> bool:
    if not patterns:
        return not names
    first, *rest = patterns
    if first == "**":
        return any(_matches(names[skipped:], tuple(rest)) for skipped in range(len(names) + 1))
    return bool(names) and re.match(fnmatch.translate(first), names[0]) is not None and _matches(names[1:], tuple(rest))
