"""Step 4 of a build: shards, tables and manifest.

A Ray task for each shard fetches its profiles from the parts that reading left, in their order, and writes it. The
manifest comes last: without it the folder is not a corpus.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import ray

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
from dataprep.pipeline.coordinator import has_failed, raise_mistake, reporting
from dataprep.pipeline.listing import LABEL
from dataprep.pipeline.reading import carry_out
from dataprep.pipeline.restart.state import BuildState
from dataprep.runtime.storage import Folder
from dataprep.runtime.terminal import log


@dataclass(frozen=True)
class PlannedShard:
    """Where a shard goes, and its profiles: their parts, places and digests, in the order of their row ids."""

    path: str
    split: str
    first_row_id: int
    parts: np.ndarray
    places: np.ndarray
    digests: Sequence[bytes]


def write_shards(
    kept: pd.DataFrame,
    folder: Folder,
    vocabulary: GeneVocabulary,
    settings: BuildSettings,
    state: BuildState,
    coordinator: Any,
    present: Sequence[ShardEntry] = (),
) -> list[ShardEntry]:
    """Write the shards of the kept profiles that no earlier start has written, and return all in the order of their
    row ids. ``present`` are those of the version that the corpus grows from."""
    shards = planned_shards(kept, settings.rows_per_shard(vocabulary.size), present)
    done = state.sound_shards(len(shards), settings.rows_per_row_group, vocabulary.fingerprint)
    if done:
        log(f"going on with an interrupted build: {len(done):,} of {len(shards):,} shards were written already")
    write = partial(
        _write_shard,
        shards=[ray.put(shard) for shard in shards],
        folder=folder,
        vocabulary=ray.put(vocabulary),
        rows_per_row_group=settings.rows_per_row_group,
        state=state,
        coordinator=coordinator,
    )
    carry_out([number for number in range(len(shards)) if number not in done], write)
    raise_mistake(coordinator)
    entries = state.shards(len(shards))
    return [entries[number] for number in range(len(shards))]


def write_shards_here(
    profiles: pa.Table, kept: pd.DataFrame, folder: Folder, vocabulary: GeneVocabulary, settings: BuildSettings
) -> list[ShardEntry]:
    """Write the shards of the kept profiles, which are in memory with their ordinals, in this process."""
    places = pd.Index(profiles.column("ordinal").to_numpy()).get_indexer(kept.index)
    entries = []
    for shard in planned_shards(kept.assign(part=0, place=places), settings.rows_per_shard(vocabulary.size)):
        packed = profiles.column("expression").take(pa.array(shard.places))
        rows = packed.cast(pa.binary(BYTES_PER_VALUE * vocabulary.size)).combine_chunks()
        expression = np.frombuffer(rows.buffers()[1], "<f2").reshape(-1, vocabulary.size)
        entries.append(
            write_shard(
                folder, shard.path, shard.split, shard.first_row_id, expression, vocabulary, settings.rows_per_row_group
            )
        )
    return entries


def planned_shards(kept: pd.DataFrame, rows_per_shard: int, present: Sequence[ShardEntry] = ()) -> list[PlannedShard]:
    """The shards of the kept profiles, a row for each in the order of row ids; numbers follow on those ``present``."""
    shards = []
    before: Counter[str] = Counter(entry.split for entry in present)
    for split in SPLITS:
        own = kept[kept["split"] == split]
        for number, start in enumerate(range(0, len(own), rows_per_shard)):
            rows = own.iloc[start : start + rows_per_shard]
            parts, places = (rows[name].to_numpy(np.int64) for name in ("part", "place"))
            path = f"split={split}/part-{before[split] + number:05d}.parquet"
            shards.append(
                PlannedShard(path, split, int(rows["row_id"].iloc[0]), parts, places, rows["profile"].to_list())
            )
    return shards


def _write_shard(
    batch: pa.Table,
    shards: Sequence[ray.ObjectRef],
    folder: Folder,
    vocabulary: ray.ObjectRef,
    rows_per_row_group: int,
    state: BuildState,
    coordinator: Any,
) -> pa.Table:
    genes: GeneVocabulary = ray.get(vocabulary)
    for number in batch.column("number").to_pylist():
        if has_failed(coordinator):
            break
        with reporting(coordinator):
            shard: PlannedShard = ray.get(shards[number])
            entry = write_shard(
                folder,
                shard.path,
                shard.split,
                shard.first_row_id,
                # without a name: those of one shard are gone before those of the next come
                state.parts.profiles(shard.parts, shard.places, shard.digests),
                genes,
                rows_per_row_group,
            )
            state.note_shard(number, entry)
    return batch


def write_tables(folder: Folder, tables: Mapping[str, pa.Table]) -> dict[str, str]:
    """Write the metadata tables and return their checksums."""
    for name, content in tables.items():
        folder.write_bytes(name, table_bytes(content))
    return {name: folder.sha256(name) for name in tables}


def metadata_tables(samples: pd.DataFrame, kept: pd.DataFrame, vocabulary: GeneVocabulary) -> dict[str, pa.Table]:
    """The metadata tables by the names of their files."""
    labels = {name: name.removeprefix(LABEL) for name in kept.columns if name.startswith(LABEL)}
    rejected = samples[samples["reason"].notna()]
    return {
        SAMPLES_FILE: _arrow(
            kept[[*SAMPLE_COLUMNS, *labels]].rename(columns=labels), [*SAMPLE_COLUMNS, *labels.values()]
        ),
        REJECTED_FILE: _arrow(rejected, ["sample_id", "source", "reason", "value"]),
        GENES_FILE: vocabulary.to_arrow(),
    }


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
