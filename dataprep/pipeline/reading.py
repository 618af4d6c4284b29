"""Step 2 of a build: samples to normalised profiles, in Ray tasks.

Each task reads some samples of one file, checks and normalises them, and yields blocks of float16 profiles. The blocks
stay in Ray's object store (on its disks where they do not fit: 2 x G bytes per profile). The driver gets the other
columns alone: some numbers per sample.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray.data.context import ShuffleStrategy

from dataprep.config import BuildSettings
from dataprep.genes.identifiers import map_genes
from dataprep.genes.vocabulary import GeneVocabulary
from dataprep.pipeline import quality_control as qc
from dataprep.pipeline.coordinator import has_failed, progress_shown, raise_mistake, reporting
from dataprep.pipeline.listing import SourceFile
from dataprep.pipeline.normalization import linear_values, log1p_tpm
from dataprep.sources import RawProfiles

BLOCK_SCHEMA = pa.schema(
    [
        ("ordinal", pa.int64()),
        ("reason", pa.string()),
        ("value", pa.string()),
        ("profile", pa.binary(16)),
        ("genes", pa.int64()),
        ("unknown_genes", pa.int64()),
        ("merged_genes", pa.int64()),
        ("vocabulary_genes", pa.int64()),
        ("expression", pa.large_binary()),
    ]
)


@dataclass(frozen=True)
class ReadTask:
    """Samples ``start`` to ``stop`` of a file."""

    file: SourceFile
    start: int
    stop: int


def read_profiles(
    settings: BuildSettings,
    files: Sequence[SourceFile],
    vocabulary: GeneVocabulary,
    aliases: Mapping[str, str],
    coordinator: Any,
) -> ray.data.Dataset:
    """Read all files: blocks of :data:`BLOCK_SCHEMA`, kept in Ray's object store. Raises the tasks' UserError."""
    tasks = [
        ReadTask(file, start, min(start + settings.samples_per_task, len(file.sample_ids)))
        for file in files
        for start in range(0, len(file.sample_ids), settings.samples_per_task)
    ]
    read = partial(
        _profile_blocks,
        tasks=ray.put(tasks),
        genes=ray.put((vocabulary, aliases)),
        min_nonzero_genes=settings.min_nonzero_genes,
        coordinator=coordinator,
    )
    numbers = ray.data.from_items([{"task": number} for number in range(len(tasks))], override_num_blocks=len(tasks))
    with progress_shown(coordinator):
        profiles = numbers.map_batches(read, batch_size=1, batch_format="pyarrow").materialize()
    raise_mistake(coordinator)
    return profiles


def _profile_blocks(
    batch: pa.Table,
    tasks: ray.ObjectRef,
    genes: ray.ObjectRef,
    min_nonzero_genes: int,
    coordinator: Any,
) -> Iterator[pa.Table]:
    vocabulary, aliases = ray.get(genes)
    all_tasks: list[ReadTask] = ray.get(tasks)
    for number in batch.column("task").to_pylist():
        task = all_tasks[number]
        if has_failed(coordinator):
            return
        with reporting(coordinator):
            for raw in task.file.source.read_samples(task.file.address, task.start, task.stop):
                block = profile_block(task.file, raw, vocabulary, aliases, min_nonzero_genes)
                refused = len(block) - block.column("reason").null_count
                # waiting keeps the counts true when the last task ends
                ray.get(coordinator.add.remote(task.file.source.name, len(block), refused))
                yield block


def profile_block(
    file: SourceFile,
    raw: RawProfiles,
    vocabulary: GeneVocabulary,
    aliases: Mapping[str, str],
    min_nonzero_genes: int,
) -> pa.Table:
    """Check, normalise and judge some profiles of a file. Refused ones come without their expression."""
    source, where = file.source, f"source {file.source.name} ({file.address})"
    genes = map_genes(where, raw.gene_ids, source.gene_id, vocabulary, aliases)
    linear = linear_values(where, raw.values, source.units, raw.sample_ids, raw.gene_ids)
    totals = linear.sum(axis=1, dtype=np.float64)
    expression = log1p_tpm(linear, source.units, genes, vocabulary.size)
    nonzero = qc.nonzero_genes(expression)
    reasons = qc.refusal(totals, nonzero, min_nonzero_genes)
    profiles = [None if reason else row.tobytes() for reason, row in zip(reasons, expression, strict=True)]
    first, rows = file.first_ordinal + raw.first, len(reasons)
    return pa.table(
        {
            "ordinal": np.arange(first, first + rows),
            "reason": reasons,
            "value": [
                None if reason is None else str(count) if reason == qc.TOO_FEW_GENES else "0"
                for reason, count in zip(reasons, nonzero, strict=True)
            ],
            "profile": [None if p is None else blake2b(p, digest_size=16).digest() for p in profiles],
            "genes": np.full(rows, len(raw.gene_ids)),
            "unknown_genes": np.full(rows, genes.unknown),
            "merged_genes": np.full(rows, genes.merged),
            "vocabulary_genes": np.full(rows, genes.measured),
            "expression": profiles,
        },
        schema=BLOCK_SCHEMA,
    )


def quiet_ray_data() -> None:
    """Keep Ray Data's progress bars and logs from the terminal; the coordinator says how far the work is."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # the default shuffle starts a pool of aggregators, which takes longer than a small build
    context.shuffle_strategy = ShuffleStrategy.SORT_SHUFFLE_PULL_BASED
    logging.getLogger("ray.data").setLevel(logging.ERROR)
