"""Technical replicates: sequencing runs of one library, whose reads are added up before anything is judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dataprep.config import BuildSettings
from dataprep.pipeline import quality_control as qc
from dataprep.pipeline.gene_rows import GeneRows, GeneTables, rows_of
from dataprep.pipeline.listing import LABEL, ReadTask, SourceFile
from dataprep.pipeline.normalization import linear_values
from dataprep.runtime.command_line import UserError
from dataprep.sources import RawProfiles, Source

# Sums that are normalised together.
_SUMS_PER_BLOCK = 64


@dataclass(frozen=True)
class SumTask:
    """Parts of files to read, and the ordinal of the sample that each of their wanted samples is added to."""

    parts: tuple[ReadTask, ...]
    into: Mapping[int, int]


def join_replicates(samples: pd.DataFrame, settings: BuildSettings) -> pd.DataFrame:
    """The samples of all sources with a column ``summed_into``: the first, by ordinal, of those that are one sample.

    That one is called as the replicates' common value and keeps the labels that all of them share; the others are
    refused, as added to it. Samples without a value, and those refused already, stay alone. Raises :class:`UserError`
    where there is no such label, or where the replicates of a sample are of several studies.
    """
    samples = samples.assign(summed_into=samples.index)
    for source in settings.sources:
        if source.replicates is not None:
            _join(samples, source, LABEL + source.replicates)
    return samples


def _join(samples: pd.DataFrame, source: Source, column: str) -> None:
    own = samples[samples["source"] == source.name]
    labels = [name for name in own.columns if name.startswith(LABEL) and own[name].notna().any()]
    if column not in labels:
        there = ", ".join(name.removeprefix(LABEL) for name in labels)
        raise UserError(
            f"source {source.name}: replicates: no values in column {source.replicates!r}; there are {there or 'none'}"
        )
    for value, group in own[own["reason"].isna() & own[column].notna()].groupby(column, sort=False):
        first, name = group.index[0], f"{source.sample_prefix}{value}"
        if group["study_id"].nunique() > 1:
            studies = ", ".join(sorted(group["study_id"].unique())[:3])
            raise UserError(f"source {source.name}: replicates of {name!r} are of several studies, {studies}")
        samples.loc[group.index, "summed_into"] = first
        samples.loc[group.index[1:], ["reason", "value"]] = [qc.REPLICATE, name]
        samples.loc[first, "sample_id"] = name
        samples.loc[first, [label for label in labels if group[label].nunique(dropna=False) > 1]] = None


def sum_tasks(
    files: Sequence[SourceFile], summed_into: np.ndarray, samples_per_task: int, wanted: np.ndarray
) -> list[SumTask]:
    """Divide the files of a source so that all replicates of a sample are in one task.

    ``summed_into`` and ``wanted``, all replicates of a sample or none, are by ordinal. A task has about
    ``samples_per_task`` samples, and reads as many at a time.
    """
    first, last = files[0], files[-1]
    ordinals = np.arange(first.first_ordinal, last.first_ordinal + len(last.sample_ids))
    ordinals = ordinals[wanted[ordinals]]
    if not len(ordinals):
        return []
    into = summed_into[ordinals]
    by_sum = ordinals[np.argsort(into, kind="stable")]
    starts_sum = np.r_[True, np.diff(summed_into[by_sum]) != 0]
    tasks: list[SumTask] = []
    begin = 0
    for end in [*np.flatnonzero(starts_sum)[1:], len(by_sum)]:
        if end - begin >= samples_per_task or end == len(by_sum):
            chosen = np.sort(by_sum[begin:end])
            parts = tuple(part for file in files for part in _parts(file, chosen, samples_per_task))
            tasks.append(SumTask(parts, dict(zip(chosen.tolist(), summed_into[chosen].tolist(), strict=True))))
            begin = end
    return tasks


def added_up(task: SumTask, genes: GeneTables) -> Iterator[tuple[SourceFile, np.ndarray, RawProfiles, GeneRows]]:
    """The sums of a task, some at a time, with their ordinals and where their rows go.

    Raises :class:`UserError` for values that are no reads, and where replicates have different rows.
    """
    sums: dict[int, np.ndarray] = {}
    name_of: dict[int, str] = {}
    rows: GeneRows | None = None
    for part in task.parts:
        where = f"source {part.file.source.name} ({part.file.address})"
        for given in part.file.source.read_samples(part.file.address, part.start, part.stop):
            if rows is None:
                rows = rows_of(where, given.gene_ids, part.file.source, genes)
            if rows.given != given.gene_ids:
                raise UserError(f"{where}: replicates cannot be added up, as not all files have the same rows")
            raw = rows.summed(given)
            first = part.file.first_ordinal + raw.first
            wanted = [row for row in range(len(raw.sample_ids)) if first + row in task.into]
            counted = rows.mapping.counted
            names, ids = [raw.sample_ids[row] for row in wanted], [raw.gene_ids[row] for row in np.flatnonzero(counted)]
            # an error must not hide in a sum
            linear_values(where, raw.values[wanted][:, counted], part.file.source.units, names, ids)
            for row in wanted:
                total = task.into[first + row]
                name_of.setdefault(total, raw.sample_ids[row])
                sums[total] = sums[total] + raw.values[row] if total in sums else raw.values[row].astype(np.float64)
    assert rows is not None
    ordinals = sorted(sums)
    for start in range(0, len(ordinals), _SUMS_PER_BLOCK):
        chosen = ordinals[start : start + _SUMS_PER_BLOCK]
        values = np.stack([sums[total] for total in chosen]).astype(np.float32)
        of_sums = RawProfiles(0, tuple(name_of[total] for total in chosen), rows.gene_ids or rows.given, values)
        yield task.parts[0].file, np.array(chosen), of_sums, rows


def _parts(file: SourceFile, ordinals: np.ndarray, samples_per_task: int) -> Iterator[ReadTask]:
    """Stretches of the file that hold all of these of its samples."""
    own = ordinals[(ordinals >= file.first_ordinal) & (ordinals < file.first_ordinal + len(file.sample_ids))]
    positions = own - file.first_ordinal
    while len(positions):
        here = positions[positions < positions[0] + samples_per_task]
        yield ReadTask(file, int(here[0]), int(here[-1]) + 1)
        positions = positions[len(here) :]
