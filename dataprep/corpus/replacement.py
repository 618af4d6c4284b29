"""Making room for a new corpus: what is removed is an older corpus, or what an interrupted build left."""

from __future__ import annotations

import re
from pathlib import Path

from dataprep.corpus.graph_file import GRAPH_FILE
from dataprep.corpus.manifest import MANIFEST_FILE, SPLITS, Manifest, manifest_text, parsed_manifest
from dataprep.corpus.tables import GENES_FILE, REJECTED_FILE, SAMPLES_FILE
from dataprep.corpus.versions import VERSIONS_FOLDER, manifest_of
from dataprep.runtime.command_line import UserError
from dataprep.runtime.ownership import mark_begun, require_own
from dataprep.runtime.storage import Folder

BEGUN_FILE = "unfinished_build.txt"
# What a build keeps until it has finished.
STATE_FOLDER = "unfinished_build"
_TABLES = (SAMPLES_FILE, GENES_FILE, REJECTED_FILE, GRAPH_FILE, VERSIONS_FOLDER)
_SPLIT_FOLDERS = tuple(f"split={split}" for split in SPLITS)
_SHARD_NAME = re.compile(r"\.?part-\d{5}\.parquet(\..*\.partial)?")
_MAKER = "a build"


def require_free(folder: Folder, overwrite: bool) -> None:
    """Raise :class:`UserError` where a corpus may not be built: over another one without ``overwrite``, or over files
    that are no corpus's."""
    folder.require_reachable()
    if not folder.exists(MANIFEST_FILE):
        require_own(folder, BEGUN_FILE, (*_TABLES, *_SPLIT_FOLDERS), _MAKER)
        return
    # refuses a manifest of something else
    parsed_manifest(folder, folder.read_bytes(MANIFEST_FILE))
    if not overwrite:
        raise UserError(f"{folder.uri} is a finished corpus already; --overwrite replaces it")


def begin_corpus(folder: Folder) -> None:
    """Remove an older corpus, its manifest first, or what an interrupted build left, once it may be replaced.

    Files that no build writes stay, also in the folders of splits.
    """
    require_free(folder, overwrite=True)
    mark_begun(folder, BEGUN_FILE, _MAKER)
    folder.remove(MANIFEST_FILE)
    for name in _TABLES:
        folder.remove(name)
    for name in _SPLIT_FOLDERS:
        _remove_shards(folder, name)


def finish_corpus(folder: Folder, manifest: Manifest) -> None:
    """Write the manifest, which makes the folder a corpus."""
    folder.write_text(MANIFEST_FILE, manifest_text(manifest))
    tidy_up(folder)


def finish_growth(folder: Folder, before: bytes, manifest: Manifest) -> None:
    """Put a grown corpus's manifest in place of that of the version before, with content ``before``, which stays
    readable as a version of its own."""
    folder.write_bytes(manifest_of(manifest.version - 1), before)
    folder.write_text(manifest_of(manifest.version), manifest_text(manifest))
    folder.write_text(MANIFEST_FILE, manifest_text(manifest))
    tidy_up(folder)


def remove_unlisted_shards(folder: Folder, manifest: Manifest) -> None:
    """Remove the shards that an interrupted growth left, which no version lists."""
    listed = {entry.path for entry in manifest.shards}
    for name in _SPLIT_FOLDERS:
        shards = [f"{name}/{file}" for file in (folder / name).files() if _SHARD_NAME.fullmatch(file)]
        for path in shards:
            if path not in listed:
                folder.remove(path)


def tidy_up(folder: Folder) -> None:
    """Remove what only an unfinished build needs."""
    folder.remove(STATE_FOLDER)
    folder.remove(BEGUN_FILE)


def _remove_shards(folder: Folder, split_folder: str) -> None:
    if folder.is_local and Path(folder.path, split_folder).is_symlink():
        folder.remove(split_folder)  # the link: what it points to may be another corpus's
        return
    names = (folder / split_folder).files()
    shards = [name for name in names if _SHARD_NAME.fullmatch(name)]
    if len(shards) == len(names):
        folder.remove(split_folder)
        return
    for name in shards:
        (folder / split_folder).remove(name)
