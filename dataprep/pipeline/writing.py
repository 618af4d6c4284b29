"""Step 4 of a build: shards, tables and manifest.

Blocks are shuffled by shard; one Ray task puts the profiles of a shard in order and writes it. The manifest comes last:
without it the folder is not a corpus.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import ray
import ray.data

from dataprep.config import BuildSettings
from dataprep.corpus import (
    BYTES_PER_VALUE,
    GENES_FILE,
    REJECTED_FILE,
    SAMPLE_COLUMNS,
    SAMPLES_FILE,
    SPLITS,
    Manifest,
    SampleCounts,
    ShardEntry,
    SourceSummary,
    split_summaries,
    table_bytes,
    write_shard,
)
from dataprep.genes.vocabulary import GeneVocabulary
from dataprep.pipeline.coordinator import raise_mistake, reporting
from dataprep.pipeline.listing import LABEL
from dataprep.runtime.storage import Folder

_ENTRY_SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("split", pa.string()),
        ("rows", pa.int64()),
        ("first_row_id", pa.int64()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("content_sha256", pa.string()),
    ]
)


def write_shards(
    profiles: ray.data.Dataset,
    kept: pd.DataFrame,
    folder: Folder,
    vocabulary: GeneVocabulary,
    settings: BuildSettings,
    coordinator: Any,
) -> list[ShardEntry]:
    """Write the kept profiles and return the shards in the order of their row ids."""
    rows_per_shard = settings.rows_per_shard(vocabulary.size)
    shard_of_row, plan = _shard_plan(kept["split"].to_numpy(), rows_per_shard)
    by_ordinal = np.argsort(kept.index.to_numpy())
    placement = ray.put((kept.index.to_numpy()[by_ordinal], by_ordinal, shard_of_row[by_ordinal]))
    write = partial(
        _write_shard,
        plan=plan,
        folder=folder,
        vocabulary=ray.put(vocabulary),
        rows_per_row_group=settings.rows_per_row_group,
        coordinator=coordinator,
    )
    written = (
        profiles.map_batches(partial(assign_shards, placement=placement), batch_size=None, batch_format="pyarrow")
        .groupby("shard")
        .map_groups(write, batch_format="pyarrow")
    )
    rows = [row for ref in written.to_arrow_refs() for row in ray.get(ref).to_pylist()]
    raise_mistake(coordinator)
    entries = [ShardEntry(**row) for row in sorted(rows, key=lambda row: row["first_row_id"])]
    assert [entry.path for entry in entries] == [path for path, _, _ in plan]
    return entries


def _shard_plan(splits: np.ndarray, rows_per_shard: int) -> tuple[np.ndarray, list[tuple[str, str, int]]]:
    """The shard number of every row id, int64 [N], and (path, split, first_row_id) of every shard."""
    shard_of_row = np.empty(len(splits), np.int64)
    plan: list[tuple[str, str, int]] = []
    for split in SPLITS:
        rows = np.flatnonzero(splits == split)
        for part, start in enumerate(range(0, len(rows), rows_per_shard)):
            shard_of_row[rows[start : start + rows_per_shard]] = len(plan)
            plan.append((f"split={split}/part-{part:05d}.parquet", split, int(rows[start])))
    return shard_of_row, plan


def assign_shards(block: pa.Table, placement: ray.ObjectRef) -> pa.Table:
    """The kept profiles of a block with their row id and the number of their shard."""
    ordinals, row_ids, shards = ray.get(placement)
    wanted = block.column("ordinal").to_numpy()
    position = np.minimum(np.searchsorted(ordinals, wanted), len(ordinals) - 1)
    kept = ordinals[position] == wanted
    return pa.table(
        {
            "shard": shards[position[kept]],
            "row_id": row_ids[position[kept]],
            "expression": block.column("expression").filter(pa.array(kept)),
        }
    )


def _write_shard(
    group: pa.Table,
    plan: Sequence[tuple[str, str, int]],
    folder: Folder,
    vocabulary: ray.ObjectRef,
    rows_per_row_group: int,
    coordinator: Any,
) -> pa.Table:
    path, split, first_row_id = plan[group.column("shard")[0].as_py()]
    order = np.argsort(group.column("row_id").to_numpy())
    genes: GeneVocabulary = ray.get(vocabulary)
    width = BYTES_PER_VALUE * genes.size
    packed = group.column("expression").cast(pa.binary(width)).combine_chunks()
    expression = np.frombuffer(packed.buffers()[1], "<f2").reshape(-1, genes.size)[order]
    written: list[dict[str, Any]] = []
    with reporting(coordinator):
        entry = write_shard(folder, path, split, first_row_id, expression, genes, rows_per_row_group)
        written.append(entry.model_dump())
    return pa.Table.from_pylist(written, schema=_ENTRY_SCHEMA)


def write_tables(
    folder: Folder, samples: pd.DataFrame, kept: pd.DataFrame, vocabulary: GeneVocabulary
) -> dict[str, str]:
    """Write the metadata tables and return their checksums."""
    labels = {name: name.removeprefix(LABEL) for name in kept.columns if name.startswith(LABEL)}
    rejected = samples[samples["reason"].notna()]
    tables = {
        SAMPLES_FILE: _arrow(
            kept[[*SAMPLE_COLUMNS, *labels]].rename(columns=labels), [*SAMPLE_COLUMNS, *labels.values()]
        ),
        REJECTED_FILE: _arrow(rejected, ["sample_id", "source", "reason", "value"]),
        GENES_FILE: vocabulary.to_arrow(),
    }
    for name, content in tables.items():
        folder.write_bytes(name, table_bytes(content))
    return {name: folder.sha256(name) for name in tables}


def _arrow(frame: pd.DataFrame, columns: Sequence[str]) -> pa.Table:
    types = {name: pa.int64() if name == "row_id" else pa.string() for name in columns}
    arrays = [pa.array(frame[name], type=types[name], from_pandas=True) for name in columns]
    return pa.table(arrays, schema=pa.schema(list(types.items())))


def make_manifest(
    settings: BuildSettings,
    vocabulary: GeneVocabulary,
    samples: pd.DataFrame,
    summaries: list[SourceSummary],
    kept: pd.DataFrame,
    entries: list[ShardEntry],
    tables_sha256: Mapping[str, str],
) -> Manifest:
    """What the corpus holds, and how it was made."""
    refused = samples["reason"].value_counts().to_dict()
    return Manifest(
        genes=vocabulary.size,
        vocabulary_sha256=vocabulary.fingerprint,
        tpm_over=settings.tpm_over,
        rows_per_row_group=settings.rows_per_row_group,
        splits=split_summaries(kept),
        shards=entries,
        tables_sha256=dict(tables_sha256),
        samples=SampleCounts(read=len(samples), kept=len(kept), rejected=refused),
        sources=summaries,
        settings=settings.resolved(),
    )
