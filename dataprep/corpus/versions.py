"""Versions of a corpus that has grown, and where each has its own files.

``manifest.json`` is the manifest of the newest version. Once there are several, ``versions/N/manifest.json`` is that of
version N. Shards stay where they are, and each version's manifest lists all of its own. Tables of the first version
stand beside the shards, those of version N in ``versions/N/``.
"""

from __future__ import annotations

import re

from dataprep.corpus.manifest import MANIFEST_FILE
from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder

VERSIONS_FOLDER = "versions"
_ADDRESS = re.compile(r"(?P<folder>.+)@(?P<version>[1-9][0-9]{0,8})")


def version_in(folder: Folder) -> tuple[Folder, int | None]:
    """The folder of a corpus and the version in an address ``CORPUS@VERSION``; None where the newest is meant.

    A corpus whose folder has such a name is meant by it.
    """
    match = _ADDRESS.fullmatch(folder.uri)
    if match is None or folder.exists(MANIFEST_FILE):
        return folder, None
    return Folder(match["folder"], folder.patience_seconds), int(match["version"])


def own_file(version: int, name: str) -> str:
    """Where a version has a file of its own."""
    return name if version == 1 else f"{VERSIONS_FOLDER}/{version}/{name}"


def manifest_of(version: int) -> str:
    """Where the manifest of a version is once there are several."""
    return f"{VERSIONS_FOLDER}/{version}/{MANIFEST_FILE}"


def newest_with(folder: Folder, version: int, name: str) -> str | None:
    """The file of a version, or of the newest earlier one that has it; None where none has."""
    places = (own_file(number, name) for number in range(version, 0, -1))
    return next((place for place in places if folder.exists(place)), None)


def version_content(folder: Folder, version: int | None) -> bytes:
    """The manifest of a version, or of the newest. Raises FileNotFoundError where there is no corpus and
    :class:`UserError` where it has no such version."""
    if version is None:
        return folder.read_bytes(MANIFEST_FILE)
    try:
        return folder.read_bytes(manifest_of(version))
    except FileNotFoundError:
        if version == 1 and not folder.exists(VERSIONS_FOLDER):
            return folder.read_bytes(MANIFEST_FILE)  # it has not grown
        if not folder.exists(MANIFEST_FILE):
            raise
        raise UserError(f"{folder.uri} has no version {version}") from None
