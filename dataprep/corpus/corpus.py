"""An opened corpus."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa

from dataprep.corpus.graph_file import GRAPH_FILE, GeneGraph
from dataprep.corpus.manifest import MANIFEST_FILE, SPLITS, Manifest, Shard, parsed_manifest
from dataprep.corpus.shards import decode_expression, read_row_groups
from dataprep.corpus.tables import GENES_FILE, REJECTED_FILE, SAMPLES_FILE, parsed_table, read_content, read_table
from dataprep.corpus.versions import newest_with, own_file, version_content, version_in
from dataprep.genes.vocabulary import GeneVocabulary
from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder

# Each reading opens the shard, which costs an object store two requests: so many row groups share them, 20 MB or so.
_ROW_GROUPS_PER_READ = 8
# What a run takes from a corpus, by the names that it is recorded under.
_INPUTS = {"corpus": "profiles", "vocabulary": "gene vocabulary", "graph": "gene graph"}


@dataclass(frozen=True)
class Corpus:
    """An opened corpus: small and picklable; reads nothing but what it is asked for.

    ``fingerprint`` is the SHA-256 of the manifest's file, which has a checksum of every shard and table. ``origin`` is
    what a corpus that only lasts for one command was made of.
    """

    folder: Folder
    manifest: Manifest
    vocabulary: GeneVocabulary
    fingerprint: str
    origin: str | None = None

    @property
    def address(self) -> str:
        """What messages and records of a command call the corpus."""
        return self.origin or self.folder.uri

    @property
    def genes(self) -> int:
        """G, the number of genes of every profile."""
        return self.manifest.genes

    @property
    def version(self) -> int:
        """1, and one more each time that the corpus has grown."""
        return self.manifest.version

    @property
    def versioned_address(self) -> str:
        """That of this very version, also when the corpus grows."""
        return f"{self.folder.uri}@{self.version}"

    def own_file(self, name: str) -> str:
        """Where this version has a file, below the folder."""
        return own_file(self.version, name)

    def inputs(self) -> dict[str, str]:
        """Fingerprints of all that a run takes from here: ``corpus`` (profiles and splits), ``vocabulary``, ``graph``.

        Runs and exports record them. Raises :class:`UserError` where there is no graph.
        """
        return {
            "corpus": self.fingerprint,
            "vocabulary": self.vocabulary.fingerprint,
            "graph": self.graph().fingerprint,
        }

    def require_inputs(self, recorded: Mapping[str, str], owner: str) -> None:
        """Raise :class:`UserError` unless the corpus is as ``owner``, such as "run first", recorded it.

        ``recorded`` is what :meth:`inputs` returned, or a part of it: the first version recorded no graph.
        """
        now = self.inputs()
        changed = [key for key in _INPUTS if key in recorded and recorded[key] != now[key]]
        if changed:
            names = " and ".join(f"{_INPUTS[key]} ({recorded[key][:12]} then, {now[key][:12]} now)" for key in changed)
            raise UserError(f"{self.folder.uri} has changed since {owner} was made from it: other {names}")

    def shards(self, *splits: str) -> list[Shard]:
        """The shards of some splits in order of their row ids: not split after split, where a corpus has grown."""
        for split in splits:
            if split not in SPLITS:
                raise UserError(f"unknown split {split!r}; splits: {', '.join(SPLITS)}", exit_code=2)
        rows, vocabulary = self.manifest.rows_per_row_group, self.manifest.vocabulary_sha256
        entries = sorted(self.manifest.shards, key=lambda entry: entry.first_row_id)
        return [entry.shard(rows, vocabulary) for entry in entries if entry.split in splits]

    def rows(self, split: str) -> int:
        """Number of profiles of a split."""
        return sum(shard.rows for shard in self.shards(split))

    def samples(self) -> pa.Table:
        """One row per profile in order of row_id: sample_id, study_id, split, row_id, source, and labels as given."""
        return self._table(SAMPLES_FILE)

    def read_rejected(self) -> pa.Table:
        """Every refused sample: sample_id, source, reason, value."""
        return self._table(REJECTED_FILE)

    def graph(self) -> GeneGraph:
        """The gene graph. Raises :class:`UserError` where `dataprep graph` has not been run."""
        place = newest_with(self.folder, self.version, GRAPH_FILE)
        if place is None:
            raise UserError(
                f"{self.folder.uri} has no gene graph: run python -m dataprep graph --corpus {self.folder.uri}"
            )
        graph = GeneGraph.read(self.folder, place)
        graph.require_vocabulary(self.vocabulary)
        return graph

    @property
    def has_graph(self) -> bool:
        return newest_with(self.folder, self.version, GRAPH_FILE) is not None

    def table_file(self, name: str) -> str:
        """Where a metadata table is; the genes never change."""
        return name if name == GENES_FILE else self.own_file(name)

    def _table(self, name: str) -> pa.Table:
        """A metadata table, after comparing its checksum with the manifest's."""
        place = self.table_file(name)
        content = read_content(self.folder, place)
        found, expected = hashlib.sha256(content).hexdigest(), self.manifest.tables_sha256.get(name)
        if expected not in (None, found):
            raise UserError(
                f"{self.folder.uri}/{place} is not the one that the manifest names: its checksum should be {expected} "
                f"and is {found}"
            )
        return parsed_table(self.folder, place, content)


def open_corpus(folder: Folder | str) -> Corpus:
    """Open the corpus at ``folder``, or one of its versions: ``CORPUS@2``; without a number it is the newest.

    Raises :class:`UserError` where there is none, or one of another format.
    """
    folder = folder if isinstance(folder, Folder) else Folder(folder)
    folder.require_reachable()
    folder, version = version_in(folder)
    try:
        content = version_content(folder, version)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder.uri} is not a corpus: it has no {MANIFEST_FILE}") from None
    manifest = parsed_manifest(folder, content)
    try:
        vocabulary = GeneVocabulary.from_arrow(read_table(folder, GENES_FILE))
    except (KeyError, pa.ArrowException) as error:
        raise UserError(f"{folder.uri}/{GENES_FILE} is not a list of genes: {error.args[0]}") from None
    if vocabulary.fingerprint != manifest.vocabulary_sha256:
        raise UserError(
            f"{folder.uri}/{GENES_FILE}: vocabulary {vocabulary.fingerprint[:12]} is not the one the manifest names, "
            f"{manifest.vocabulary_sha256[:12]}"
        )
    return Corpus(folder, manifest, vocabulary, hashlib.sha256(content).hexdigest())


def read_split(corpus: Corpus, split: str, max_rows: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The first ``max_rows`` (default: all) profiles of a split as row ids int64 [N] and expression float16 [N, G].

    Everything is held in memory, 2 x G bytes per profile (40 kB with the default vocabulary): for evaluation and
    small corpora. Profiles were shuffled when the corpus was written, so the first rows are a random sample.
    """
    shards = corpus.shards(split)
    wanted = sum(shard.rows for shard in shards) if max_rows is None else max_rows
    rows = min(wanted, sum(shard.rows for shard in shards))
    row_ids, expression = np.empty(rows, np.int64), np.empty((rows, corpus.genes), np.float16)
    filled = 0
    for ids, values in iterate_row_groups(corpus, shards):
        take = min(len(ids), rows - filled)
        row_ids[filled : filled + take] = ids[:take]
        expression[filled : filled + take] = values[:take]
        filled += take
        if filled == rows:
            break
    return row_ids, expression


def iterate_row_groups(corpus: Corpus, shards: Sequence[Shard]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Row ids int64 [n] and expression float16 [n, G] of one row group after the other.

    Waits for a store that is unavailable, as any other operation on the corpus's folder.
    """
    for shard in shards:
        yield from _read_each(corpus, shard, range(len(shard.row_group_rows)))


def iterate_rows(corpus: Corpus, row_ids: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Chosen profiles in order of their row ids: row ids int64 [n] and expression float16 [n, G], n of a row group.

    One pass over what holds them: row groups and shards without any are not read. Raises :class:`UserError` for row
    ids that the corpus does not have.
    """
    wanted = np.unique(row_ids)
    shards = corpus.shards(*SPLITS)
    present = _within(wanted, range(sum(shard.rows for shard in shards)))
    if len(present) < len(wanted):
        raise UserError(f"{corpus.folder.uri} has {len(present):,} of the {len(wanted):,} profiles asked for by row id")
    for shard in shards:
        groups = [group for group in range(len(shard.row_group_rows)) if len(_within(wanted, shard.row_ids(group)))]
        for ids, expression in _read_each(corpus, shard, groups):
            chosen = _within(wanted, range(ids[0], ids[-1] + 1))
            yield chosen, expression if len(chosen) == len(ids) else expression[chosen - ids[0]]


def _within(ascending: np.ndarray, row_ids: range) -> np.ndarray:
    """The part of ascending row ids that lies in a range."""
    start, stop = np.searchsorted(ascending, (row_ids.start, row_ids.stop))
    return ascending[start:stop]


def _read_each(corpus: Corpus, shard: Shard, row_groups: Sequence[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(row_groups), _ROW_GROUPS_PER_READ):
        groups = row_groups[start : start + _ROW_GROUPS_PER_READ]
        table = corpus.folder.attempt(partial(read_row_groups, corpus.folder, shard, groups))
        offset = 0
        for rows in (shard.row_group_rows[group] for group in groups):
            part = table.slice(offset, rows)
            yield part.column("row_id").to_numpy(), decode_expression(part.column("expression"), corpus.genes)
            offset += rows
