"""Step 1 of a build: which files there are, and which samples are in them.

It reads headers and sample metadata, in the driver's process; no values.
"""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pandas as pd

from dataprep.config import BuildSettings
from dataprep.pipeline import quality_control as qc
from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder
from dataprep.sources import Source
from dataprep.sources.sample_metadata import labels_for, metadata_of


@dataclass(frozen=True)
class SourceFile:
    """A file of a source. Its samples have the ordinals ``first_ordinal``, ``first_ordinal + 1``, ... in the build."""

    source: Source
    address: str
    sample_ids: tuple[str, ...]
    first_ordinal: int


def list_files(settings: BuildSettings) -> list[SourceFile]:
    """The files of all sources, in the order of the settings, with their samples."""
    found = [(source, address) for source in settings.sources for address in _addresses(settings, source)]
    with ThreadPoolExecutor(max_workers=16) as pool:
        listed = list(pool.map(lambda pair: _sample_ids(*pair), found))
    files, first = [], 0
    for (source, address), sample_ids in zip(found, listed, strict=True):
        _require_unique_samples(address, sample_ids)
        files.append(SourceFile(source, address, sample_ids, first))
        first += len(sample_ids)
    return files


def _addresses(settings: BuildSettings, source: Source) -> list[str]:
    address = settings.address(source.path)
    if not any(character in source.path for character in "*?["):
        return [address]
    fixed = address[: min(address.index(character) for character in "*?[" if character in address)]
    folder = fixed.rpartition("/")[0] or "/"
    pattern = address[len(folder) :].lstrip("/")
    names = [name for name in Folder(folder).files() if fnmatch.fnmatchcase(name, pattern)]
    if not names:
        raise UserError(f"source {source.name}: no file matches {address}")
    return [f"{folder.rstrip('/')}/{name}" for name in names]


def _sample_ids(source: Source, address: str) -> tuple[str, ...]:
    listed = source.list_samples(address).sample_ids
    if not listed:
        raise UserError(f"{address} has no samples")
    return listed


def _require_unique_samples(address: str, sample_ids: Sequence[str]) -> None:
    repeated = [sample for sample, times in Counter(sample_ids).items() if times > 1]
    if repeated:
        raise UserError(
            f"{address}: {len(repeated):,} of {len(sample_ids):,} sample ids occur more than once, "
            f"e.g. {', '.join(map(repr, repeated[:3]))}"
        )


def samples_table(settings: BuildSettings, files: Sequence[SourceFile]) -> pd.DataFrame:
    """One row per sample of all sources, by ordinal: sample_id, source, study_id and labels."""
    parts = []
    for source in settings.sources:
        own = [file for file in files if file.source == source]
        address = settings.address(source.samples) if source.samples is not None else None
        given = [sample for file in own for sample in file.sample_ids]
        labels = labels_for(source, given, metadata_of(source, address, [file.address for file in own]))
        unknown = sorted(set(source.exclude_samples) - set(given))
        if unknown:
            raise UserError(f"source {source.name} has no sample {', '.join(unknown[:3])} to exclude")
        excluded = [qc.EXCLUDED if sample in set(source.exclude_samples) else None for sample in given]
        sample_ids = [source.sample_prefix + sample for sample in given]
        parts.append(labels.assign(sample_id=sample_ids, source=source.name, reason=excluded, value=None))
    return pd.concat(parts, ignore_index=True)


def samples_by_source(files: Sequence[SourceFile]) -> dict[str, int]:
    """The number of samples of each source."""
    samples: Counter[str] = Counter()
    for file in files:
        samples[file.source.name] += len(file.sample_ids)
    return dict(samples)
