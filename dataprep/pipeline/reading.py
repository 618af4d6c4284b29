"""Step 2 of a build: samples to normalised profiles, in Ray tasks.

Each task reads some samples of one file, or of several small ones, checks and normalises them, and leaves a part of
float16 profiles beside the corpus (:mod:`dataprep.pipeline.restart.profile_parts`); no profile passes through Ray's
object store. The driver reads the other columns alone: some numbers per sample.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from functools import lru_cache, partial
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data

from dataprep.config import BuildSettings
from dataprep.genes.gene_sets import SexGenes, sex_by_genes
from dataprep.genes.identifiers import GeneMapping
from dataprep.pipeline import quality_control as qc
from dataprep.pipeline.coordinator import has_failed, progress_shown, raise_mistake, reporting
from dataprep.pipeline.gene_rows import GeneTables, rows_of
from dataprep.pipeline.listing import ReadTask, SourceFile
from dataprep.pipeline.normalization import normalise
from dataprep.pipeline.replicates import SumTask, added_up, sum_tasks
from dataprep.pipeline.restart.profile_parts import ProfileParts, profile_digest
from dataprep.runtime.terminal import log, tracked
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
FOUND_COLUMNS = [name for name in BLOCK_SCHEMA.names if name != "expression"]


Task = list[ReadTask] | SumTask

# A file is read in a second or less where it holds one sample: enough work for a task, and parts enough for a cluster.
_MOST_FILES_PER_TASK = 16
# What is lost with one of Ray's tasks is read again.
_MOST_NUMBERS_PER_TASK = 8


def read_profiles(
    settings: BuildSettings, tasks: Sequence[Task], genes: GeneTables, parts: ProfileParts, coordinator: Any
) -> pa.Table:
    """Carry out the tasks that no earlier start has, each of which leaves a part, and return what all of them found.

    The table has the columns of :data:`BLOCK_SCHEMA` without the profiles, whose ``part`` and ``place`` it has instead.
    Raises the tasks' UserError.
    """
    before = sorted(parts.present() & set(range(len(tasks))))
    found = dict(zip(before, parts.found(before), strict=True))
    if before:
        log(f"going on with an interrupted build: {sum(map(len, found.values())):,} samples were read already")
    ray.get([coordinator.add.remote(_source_of(tasks[number]), *_counts(found[number])) for number in before])
    waiting = [number for number in range(len(tasks)) if number not in found]
    read = partial(
        _write_parts,
        tasks=ray.put(tasks),
        genes=ray.put(genes),
        thresholds=thresholds(settings),
        parts=parts,
        coordinator=coordinator,
    )
    with progress_shown(coordinator):
        carry_out(waiting, read)
    raise_mistake(coordinator)
    found |= dict(zip(waiting, parts.found(waiting), strict=True))
    return pa.concat_tables(found[number] for number in range(len(tasks)))


def carry_out(numbers: Sequence[int], act: Callable[[pa.Table], pa.Table]) -> None:
    """Call ``act`` for each of the numbers, some in a column ``number``, in Ray tasks. What it returns is dropped."""
    if numbers:
        shares = shares_of_tasks(numbers, max(1, ray.cluster_resources().get("CPU", 1)))
        given = ray.data.from_arrow([pa.table({"number": pa.array(share, pa.int64())}) for share in shares])
        given.map_batches(act, batch_size=None, batch_format="pyarrow").materialize()


def shares_of_tasks(numbers: Sequence[int], cpus: float) -> list[Sequence[int]]:
    """The numbers of each of Ray's tasks, ever fewer. Ray Data takes a fifth of a second from one task to the next, so
    that many at once are faster, and at the end leave CPUs without work."""
    shares, start = [], 0
    while start < len(numbers):
        size = int(np.clip((len(numbers) - start) / (2 * cpus), 1, _MOST_NUMBERS_PER_TASK))
        shares.append(numbers[start : start + size])
        start += size
    return shares


def read_here(settings: BuildSettings, tasks: Sequence[Task], genes: GeneTables, samples: int) -> pa.Table:
    """Carry out the tasks in this process: a table of :data:`BLOCK_SCHEMA`."""
    blocks = ((len(block), block) for task in tasks for _, block in task_blocks(task, genes, thresholds(settings)))
    return pa.concat_tables(tracked(blocks, samples, "reading samples"))


def divided(
    files: Sequence[SourceFile], samples_per_task: int, summed_into: np.ndarray, wanted: np.ndarray | None = None
) -> list[Task]:
    """What each Ray task reads: some samples of one file, or several files of few samples; replicates together.

    ``summed_into`` int64 [N] is the ordinal of the sample that each is added to, mostly its own; ``wanted``
    boolean [N], by default all, says which are read at all.
    """
    wanted = np.ones(len(summed_into), bool) if wanted is None else wanted
    tasks: list[Task] = []
    for source, own in groupby(files, key=lambda file: file.source):
        if source.replicates is not None:
            tasks += sum_tasks(list(own), summed_into, samples_per_task, wanted)
        else:
            tasks += _divided(own, samples_per_task, wanted)
    return tasks


def _divided(files: Iterable[SourceFile], samples_per_task: int, wanted: np.ndarray) -> list[list[ReadTask]]:
    tasks: list[list[ReadTask]] = []
    free_samples = 0
    for file in files:
        stretches = _stretches(file, wanted)
        samples = sum(stop - start for start, stop in stretches)
        if not samples:
            continue
        if samples <= free_samples and len(tasks[-1]) < _MOST_FILES_PER_TASK:
            tasks[-1] += [ReadTask(file, start, stop) for start, stop in stretches]
            free_samples -= samples
            continue
        # whole pieces of the file, where one is not more than a task may hold
        step = max(1, samples_per_task // file.stored_together) * min(file.stored_together, samples_per_task)
        parts = [
            ReadTask(file, start, min(start + step, stop))
            for first, stop in stretches
            for start in range(first, stop, step)
        ]
        tasks += [[part] for part in parts]
        free_samples = samples_per_task - (parts[-1].stop - parts[-1].start)
    return tasks


def _stretches(file: SourceFile, wanted: np.ndarray) -> list[tuple[int, int]]:
    """The wanted samples of a file, as first and last + 1 of those that stand together."""
    own = wanted[file.first_ordinal : file.first_ordinal + len(file.sample_ids)]
    borders = np.flatnonzero(np.diff(np.r_[False, own, False]))
    return [(int(start), int(stop)) for start, stop in borders.reshape(-1, 2)]


def thresholds(settings: BuildSettings) -> qc.Thresholds:
    """What every profile has to keep to."""
    return qc.Thresholds(**{field.name: getattr(settings, field.name) for field in fields(qc.Thresholds)})


def _write_parts(
    batch: pa.Table,
    tasks: ray.ObjectRef,
    genes: ray.ObjectRef,
    thresholds: qc.Thresholds,
    parts: ProfileParts,
    coordinator: Any,
) -> pa.Table:
    tables = _gene_tables(genes)
    all_tasks: list[Task] = ray.get(tasks)
    for number in batch.column("number").to_pylist():
        if has_failed(coordinator):
            break
        with reporting(coordinator):
            blocks = []
            for source, block in task_blocks(all_tasks[number], tables, thresholds):
                # waiting keeps the counts true when the last task ends
                ray.get(coordinator.add.remote(source, *_counts(block)))
                blocks.append(block)
            parts.write(number, pa.concat_tables(blocks))
    return batch


def _counts(block: pa.Table) -> tuple[int, int]:
    """How many samples were read, and how many of them refused."""
    return len(block), len(block) - block.column("reason").null_count


def _source_of(task: Task) -> str:
    part = task.parts[0] if isinstance(task, SumTask) else task[0]
    return part.file.source.name


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
            "profile": [None if p is None else profile_digest(p) for p in profiles],
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


def _place(file: SourceFile) -> str:
    return f"source {file.source.name} ({file.address})"


def quiet_ray_data() -> None:
    """Keep Ray Data's progress bars and logs from the terminal; the coordinator says how far the work is."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
