"""Step 2 of a build: samples to normalised profiles, in Ray tasks.

Each task reads some samples of one file, or of several small ones, checks and normalises them, and yields blocks of
float16 profiles. The blocks stay in Ray's object store (on its disks where they do not fit: 2 x G bytes per profile).
The driver gets the other columns alone: some numbers per sample.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from functools import lru_cache, partial
from hashlib import blake2b
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray.data.context import ShuffleStrategy

from dataprep.config import BuildSettings
from dataprep.genes.gene_sets import SexGenes, sex_by_genes
from dataprep.genes.identifiers import GeneMapping
from dataprep.pipeline import quality_control as qc
from dataprep.pipeline.coordinator import has_failed, progress_shown, raise_mistake, reporting
from dataprep.pipeline.gene_rows import GeneTables, rows_of
from dataprep.pipeline.listing import ReadTask, SourceFile
from dataprep.pipeline.normalization import normalise
from dataprep.pipeline.replicates import SumTask, added_up, sum_tasks
from dataprep.sources import RawProfiles

# What the driver gets to know of every sample.
_FOUND = [
    ("reason", pa.string()),
    ("value", pa.string()),
    ("profile", pa.binary(16)),
    ("genes", pa.int64()),
    ("unknown_genes", pa.int64()),
    ("merged_genes", pa.int64()),
    ("vocabulary_genes", pa.int64()),
    ("left_out_rows", pa.int64()),
    ("repeated_genes", pa.int64()),
    ("dates", pa.int64()),
    ("recovered", pa.int64()),
    ("missing_values", pa.int64()),
    ("outside_share", pa.float64()),
    ("unrecognised_share", pa.float64()),
    ("left_out_share", pa.float64()),
    ("left_out_examples", pa.string()),
    ("unrecognised_examples", pa.string()),
    ("sex_by_genes", pa.string()),
]
BLOCK_SCHEMA = pa.schema([("ordinal", pa.int64()), *_FOUND, ("expression", pa.large_binary())])


Task = list[ReadTask] | SumTask

# A file is read in a second or less where it holds one sample: enough work for a task, and parts enough for a cluster.
_MOST_FILES_PER_TASK = 16


def read_profiles(
    settings: BuildSettings,
    files: Sequence[SourceFile],
    genes: GeneTables,
    summed_into: np.ndarray,
    coordinator: Any,
) -> ray.data.Dataset:
    """Read all files: blocks of :data:`BLOCK_SCHEMA`, kept in Ray's object store. Raises the tasks' UserError.

    ``summed_into`` int64 [N] is the ordinal of the sample that each is added to, mostly its own.
    """
    tasks = divided(files, settings.samples_per_task, summed_into)
    read = partial(
        _profile_blocks,
        tasks=ray.put(tasks),
        genes=ray.put(genes),
        thresholds=thresholds(settings),
        coordinator=coordinator,
    )
    numbers = ray.data.from_items([{"task": number} for number in range(len(tasks))], override_num_blocks=len(tasks))
    with progress_shown(coordinator):
        profiles = numbers.map_batches(read, batch_size=1, batch_format="pyarrow").materialize()
    raise_mistake(coordinator)
    return profiles


def divided(files: Sequence[SourceFile], samples_per_task: int, summed_into: np.ndarray) -> list[Task]:
    """What each Ray task reads: some samples of one file, or several files of few samples; replicates together."""
    tasks: list[Task] = []
    for source, own in groupby(files, key=lambda file: file.source):
        if source.replicates is not None:
            tasks += sum_tasks(list(own), summed_into, samples_per_task)
        else:
            tasks += _divided(own, samples_per_task)
    return tasks


def _divided(files: Iterable[SourceFile], samples_per_task: int) -> list[list[ReadTask]]:
    tasks: list[list[ReadTask]] = []
    free_samples = 0
    for file in files:
        samples = len(file.sample_ids)
        if samples <= free_samples and len(tasks[-1]) < _MOST_FILES_PER_TASK:
            tasks[-1].append(ReadTask(file, 0, samples))
            free_samples -= samples
            continue
        # whole pieces of the file, where one is not more than a task may hold
        step = max(1, samples_per_task // file.stored_together) * min(file.stored_together, samples_per_task)
        parts = [ReadTask(file, start, min(start + step, samples)) for start in range(0, samples, step)]
        tasks += [[part] for part in parts]
        free_samples = samples_per_task - (parts[-1].stop - parts[-1].start)
    return tasks


def thresholds(settings: BuildSettings) -> qc.Thresholds:
    """What every profile has to keep to."""
    return qc.Thresholds(**{field.name: getattr(settings, field.name) for field in fields(qc.Thresholds)})


def _profile_blocks(
    batch: pa.Table,
    tasks: ray.ObjectRef,
    genes: ray.ObjectRef,
    thresholds: qc.Thresholds,
    coordinator: Any,
) -> Iterator[pa.Table]:
    tables = _gene_tables(genes)
    all_tasks: list[Task] = ray.get(tasks)
    for number in batch.column("task").to_pylist():
        if has_failed(coordinator):
            return
        with reporting(coordinator):
            for source, block in task_blocks(all_tasks[number], tables, thresholds):
                refused = len(block) - block.column("reason").null_count
                # waiting keeps the counts true when the last task ends
                ray.get(coordinator.add.remote(source, len(block), refused))
                yield block


@lru_cache(maxsize=1)
def _gene_tables(genes: ray.ObjectRef) -> GeneTables:
    """The tables of a build, for all of its tasks in a process."""
    tables: GeneTables = ray.get(genes)
    return tables


def task_blocks(task: Task, genes: GeneTables, thresholds: qc.Thresholds) -> Iterator[tuple[str, pa.Table]]:
    """The blocks of one task, each with the name of its source."""
    if isinstance(task, SumTask):
        yield from _sum_blocks(task, genes, thresholds)
        return
    for part in task:
        file = part.file
        for raw in file.source.read_samples(file.address, part.start, part.stop):
            rows = rows_of(_place(file), raw.gene_ids, file.source, genes)
            first = file.first_ordinal + raw.first
            ordinals = np.arange(first, first + len(raw.sample_ids))
            block = profile_block(file, ordinals, rows.summed(raw), rows.mapping, genes, thresholds)
            yield file.source.name, block


def _sum_blocks(task: SumTask, genes: GeneTables, thresholds: qc.Thresholds) -> Iterator[tuple[str, pa.Table]]:
    for file, ordinals, raw, rows in added_up(task, genes):
        yield file.source.name, profile_block(file, ordinals, raw, rows.mapping, genes, thresholds)
    added = [ordinal for ordinal, total in task.into.items() if ordinal != total]
    refused = [{"ordinal": ordinal, "reason": qc.REPLICATE} for ordinal in added]
    yield task.parts[0].file.source.name, pa.Table.from_pylist(refused, schema=BLOCK_SCHEMA)


def profile_block(
    file: SourceFile,
    ordinals: np.ndarray,
    raw: RawProfiles,
    genes: GeneMapping,
    tables: GeneTables,
    thresholds: qc.Thresholds,
) -> pa.Table:
    """Check, normalise and judge some profiles of a file. Refused ones come without their expression."""
    found = normalise(_place(file), raw, file.source, genes, tables.vocabulary.size, tables.tpm_over)
    refusals = qc.refusals(found, raw.gene_ids, thresholds)
    profiles = [None if refused else row.tobytes() for refused, row in zip(refusals, found.expression, strict=True)]
    rows = len(refusals)
    of_all_rows = {
        "genes": len(raw.gene_ids),
        "unknown_genes": genes.unknown,
        "merged_genes": genes.merged,
        "vocabulary_genes": genes.measured,
        "left_out_rows": genes.left_out,
        "repeated_genes": genes.repeated,
        "dates": genes.dates,
        "recovered": genes.recovered,
        "left_out_examples": ", ".join(map(repr, genes.left_out_examples)),
        "unrecognised_examples": ", ".join(map(repr, genes.unrecognised_examples)),
    }
    return pa.table(
        {
            "ordinal": ordinals,
            "reason": [refused[0] if refused else None for refused in refusals],
            "value": [refused[1] if refused else None for refused in refusals],
            "profile": [None if p is None else blake2b(p, digest_size=16).digest() for p in profiles],
            "missing_values": np.rint(found.missing_share * genes.counted.sum()).astype(np.int64),
            "outside_share": found.outside_share,
            "unrecognised_share": found.unrecognised_share,
            "left_out_share": found.left_out_share,
            "sex_by_genes": sex_by_genes(SexGenes.of(tables.vocabulary).expression(found.expression)),
            "expression": profiles,
            **{name: [value] * rows for name, value in of_all_rows.items()},
        },
        schema=BLOCK_SCHEMA,
    )


def found_by_reading(profiles: ray.data.Dataset) -> pa.Table:
    """What the driver gets to know: all columns but the profiles themselves."""
    columns = [name for name in BLOCK_SCHEMA.names if name != "expression"]
    return pa.concat_tables(ray.get(profiles.select_columns(columns).to_arrow_refs()))


def _place(file: SourceFile) -> str:
    return f"source {file.source.name} ({file.address})"


def quiet_ray_data() -> None:
    """Keep Ray Data's progress bars and logs from the terminal; the coordinator says how far the work is."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # the default shuffle starts a pool of aggregators, which takes longer than a small build
    context.shuffle_strategy = ShuffleStrategy.SORT_SHUFFLE_PULL_BASED
    logging.getLogger("ray.data").setLevel(logging.ERROR)
