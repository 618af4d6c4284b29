"""Whether a corpus holds what its manifest says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dataprep.corpus.corpus import Corpus
from dataprep.corpus.manifest import SPLITS, Shard
from dataprep.corpus.shards import opened_shard, shard_schema
from dataprep.runtime.command_line import UserError


def verify(corpus: Corpus, shards: Sequence[Shard] | None = None) -> None:
    """Check shards (default: all) and tables against the manifest: checksum, rows, row ids, schema, vocabulary.

    Raises :class:`UserError` naming the file with what was expected and what was found. Reads every byte once.
    """
    verify_tables(corpus)
    if shards is None:
        shards = corpus.shards(*SPLITS)
    for shard in shards:
        verify_shard(corpus, shard)


def verify_tables(corpus: Corpus) -> None:
    """Check the checksums of the metadata tables; see :func:`verify`."""
    for name, expected in corpus.manifest.tables_sha256.items():
        place = corpus.table_file(name)
        _require_equal(corpus, place, "checksum", expected, _sha256(corpus, place))


def verify_shard(corpus: Corpus, shard: Shard) -> None:
    """Check one shard; see :func:`verify`."""
    _require_equal(corpus, shard.path, "checksum", shard.sha256, _sha256(corpus, shard.path))
    with opened_shard(corpus.folder, shard) as file:
        layout = file.metadata
        groups = tuple(layout.row_group(number).num_rows for number in range(layout.num_row_groups))
        row_ids = file.read(columns=["row_id"]).column("row_id").to_numpy()
        schema = file.schema_arrow
    expected = shard_schema(corpus.vocabulary, shard.content_sha256)
    found: Mapping[bytes, bytes] = schema.metadata or {}
    _require_equal(corpus, shard.path, "rows", shard.rows, layout.num_rows)
    _require_equal(corpus, shard.path, "rows of its row groups", shard.row_group_rows, groups)
    for key, value in expected.metadata.items():
        _require_equal(corpus, shard.path, key.decode(), value.decode(), found.get(key, b"nothing").decode())
    _require_equal(corpus, shard.path, "columns", expected.remove_metadata(), schema.remove_metadata())
    if not np.array_equal(row_ids, np.arange(shard.first_row_id, shard.first_row_id + shard.rows)):
        raise UserError(f"{corpus.folder.uri}/{shard.path}: row ids are not consecutive from {shard.first_row_id}")


def _require_equal(corpus: Corpus, name: str, what: str, expected: object, found: object) -> None:
    if expected != found:
        raise UserError(f"{corpus.folder.uri}/{name}: {what} should be {expected} and is {found}")


def _sha256(corpus: Corpus, name: str) -> str:
    try:
        return corpus.folder.sha256(name)
    except FileNotFoundError:
        raise UserError(f"{corpus.folder.uri}/{name} is missing") from None
