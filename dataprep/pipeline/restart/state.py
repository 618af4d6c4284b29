"""The state of a build that has not finished: ``unfinished_build/DIGEST/`` in the folder of the corpus.

DIGEST is that of all inputs (:mod:`dataprep.pipeline.restart.inputs`). What the same command finds there after a kill
it does not do again: parts of profiles that were read, and shards that were written. Every file is whole or absent,
and what it says is true whoever wrote it, since nothing but the inputs decides about its content.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from dataprep.corpus import MANIFEST_FILE, DamagedShardError, ReplacedShardError, ShardEntry
from dataprep.corpus.replacement import STATE_FOLDER
from dataprep.corpus.shards import opened_shard
from dataprep.pipeline.restart.profile_parts import ProfileParts
from dataprep.runtime.storage import Folder
from dataprep.runtime.terminal import log

_INPUTS_FILE = "inputs.json"
_PLACE_FILE = "place_cleared"
_READERS = 16
# nothing else in the folder is ours
_DIGEST = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class BuildState:
    """The state of one build, whose folder is ``folder``."""

    corpus: Folder
    folder: Folder
    genes: int

    @property
    def parts(self) -> ProfileParts:
        """The profiles that were read."""
        return ProfileParts(self.folder / "profiles", self.genes)

    @property
    def place_is_cleared(self) -> bool:
        """Whether what was in the way of its shards is gone."""
        return self.folder.exists(_PLACE_FILE)

    def note_place_cleared(self) -> None:
        self.folder.write_text(_PLACE_FILE, "\n")

    def note_shard(self, number: int, entry: ShardEntry) -> None:
        """Note that a shard is written, after it is."""
        self.folder.write_text(_shard_file(number), entry.model_dump_json())

    def shards(self, shards: int) -> dict[int, ShardEntry]:
        """The entries of those that were written, by number."""
        present = {name for name in (self.folder / "shards").files() if name.endswith(".json")}
        numbers = [number for number in range(shards) if _shard_file(number).partition("/")[2] in present]
        with ThreadPoolExecutor(max_workers=_READERS) as pool:
            texts = pool.map(lambda number: self.folder.read_text(_shard_file(number)), numbers)
            return {number: ShardEntry.model_validate_json(text) for number, text in zip(numbers, texts, strict=True)}

    def sound_shards(self, shards: int, rows_per_row_group: int, vocabulary_sha256: str) -> set[int]:
        """The numbers of those that were written and are still there, by their footers."""

        def is_sound(entry: ShardEntry) -> bool:
            try:
                with opened_shard(self.corpus, entry.shard(rows_per_row_group, vocabulary_sha256)):
                    return True
            except (DamagedShardError, ReplacedShardError):
                return False

        entries = self.shards(shards)
        with ThreadPoolExecutor(max_workers=_READERS) as pool:
            sound = pool.map(is_sound, entries.values())
            return {number for number, good in zip(entries, sound, strict=True) if good}

    def remove(self) -> None:
        """Remove the state, and the folder of states if it was the only one there."""
        states = self.corpus / STATE_FOLDER
        states.remove(self.folder.path.rpartition("/")[2])
        if not states.files() and not states.children():
            self.corpus.remove(STATE_FOLDER)

    def note_manifest(self, text: str) -> None:
        """Note with which manifest the build is about to finish."""
        self.folder.write_text(MANIFEST_FILE, text)


def opened_state(corpus: Folder, inputs: Mapping[str, str], genes: int) -> BuildState:
    """The state of the build with these inputs, from an earlier start or new; others are removed, which is said."""
    content = json.dumps(inputs, indent=1, sort_keys=True)
    digest = _digest(content)
    states = corpus / STATE_FOLDER
    for other in _states(corpus):
        if other != digest:
            changed = _changed(states / other, inputs)
            log(f"{corpus.uri}: what an interrupted build left is of other {changed} and is removed: building anew")
            states.remove(other)
    state = BuildState(corpus, states / digest, genes)
    if not state.folder.exists(_INPUTS_FILE):
        state.folder.write_text(_INPUTS_FILE, content)
    return state


def finished_but_not_tidied(corpus: Folder) -> bool:
    """Whether a build was killed in the moment between writing its manifest and removing its state."""
    if not corpus.exists(MANIFEST_FILE):
        return False
    manifest = corpus.read_bytes(MANIFEST_FILE)
    folders = [corpus / STATE_FOLDER / state for state in _states(corpus)]
    return any(one.exists(MANIFEST_FILE) and one.read_bytes(MANIFEST_FILE) == manifest for one in folders)


def _states(corpus: Folder) -> list[str]:
    return [name for name in (corpus / STATE_FOLDER).children() if _DIGEST.fullmatch(name)]


def _changed(state: Folder, inputs: Mapping[str, str]) -> str:
    try:
        before = json.loads(state.read_bytes(_INPUTS_FILE))
    except (FileNotFoundError, ValueError):
        before = {}
    names = [name for name, digest in inputs.items() if before.get(name) != digest]
    return " and ".join(names) or "inputs"


def _digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _shard_file(number: int) -> str:
    return f"shards/{number:06d}.json"
