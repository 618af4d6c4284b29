"""Step 1 of a build: which files there are, and which samples are in them.

It reads headers and sample metadata, in the driver's process; no values.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

import pandas as pd

from dataprep.config import BuildSettings
from dataprep.pipeline import quality_control as qc
from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder, split_file_address
from dataprep.runtime.terminal import log
from dataprep.sources import SampleList, Source
from dataprep.sources.file_patterns import fixed_folder, has_wildcards, matches
from dataprep.sources.sample_metadata import labels_for, metadata_of
from dataprep.sources.source import SAMPLE_NAMES, Refusal
from dataprep.sources.text_files import name_without_suffix

# Before the names of metadata columns, which may be those of columns that a build works with.
LABEL = "label:"


@dataclass(frozen=True)
class SourceFile:
    """A file of a source. Its samples have the ordinals ``first_ordinal``, ``first_ordinal + 1``, ... in the build."""

    source: Source
    address: str
    sample_ids: tuple[str, ...]
    first_ordinal: int
    ignored_columns: tuple[str, ...] = ()
    refusals: Mapping[str, Refusal] = field(default_factory=dict)
    stored_together: int = 1


@dataclass(frozen=True)
class ReadTask:
    """Samples ``start`` to ``stop`` of a file."""

    file: SourceFile
    start: int
    stop: int


def list_files(settings: BuildSettings) -> list[SourceFile]:
    """The files of all sources, in the order of the settings, with their samples."""
    found = [(source, address) for source in settings.sources for address in _addresses(settings, source)]
    with ThreadPoolExecutor(max_workers=16) as pool:
        listed = list(pool.map(lambda pair: _samples_of(settings, *pair), found))
    files, first = [], 0
    for (source, address), samples in zip(found, listed, strict=True):
        listed_as = {name: getattr(samples, name) for name in ("ignored_columns", "refusals", "stored_together")}
        files.append(SourceFile(source, address, samples.sample_ids, first, **listed_as))
        first += len(samples.sample_ids)
    for source in settings.sources:
        own = [file for file in files if file.source == source]
        _require_unique_over_files(source, own)
        _say_ignored_columns(source, own)
    return files


def _addresses(settings: BuildSettings, source: Source) -> list[str]:
    address = settings.address(source.path)
    if not has_wildcards(source.path):
        return [address]
    folder, name = split_file_address(address)
    if not has_wildcards(folder) and Folder(folder).exists(name):
        # a file whose name has a bracket
        return [address]
    folder = fixed_folder(address)
    pattern = address[len(folder) :].lstrip("/")
    files = Folder(folder).files()
    found = {str(parent) for name in files for parent in PurePosixPath(name).parents} if source.of_folders else files
    names = sorted(name for name in found if matches(name, pattern))
    if not names:
        raise UserError(f"source {source.name}: no {'folder' if source.of_folders else 'file'} matches {address}")
    return [f"{folder.rstrip('/')}/{name}" for name in names]


def _samples_of(settings: BuildSettings, source: Source, address: str) -> SampleList:
    """The samples of a file, under the names that the source wants for them."""
    listed = source.list_samples(address)
    ids = tuple(sample.strip() for sample in listed.sample_ids)
    if not ids:
        raise UserError(f"{address} has no samples")
    repeated = [sample for sample, times in Counter(ids).items() if times > 1]
    if repeated:
        raise UserError(
            f"{address}: {len(repeated):,} of {len(ids):,} sample ids occur more than once, "
            f"e.g. {', '.join(map(repr, repeated[:3]))}"
        )
    if source.sample_from != "column":
        name = _name_of_file(source, address, settings.address(source.path))
        ids = (name,) if len(ids) == 1 else tuple(f"{name}/{sample}" for sample in ids)
    named = dict(zip(listed.sample_ids, ids, strict=True))
    refusals = {named[sample]: refusal for sample, refusal in listed.refusals.items()}
    return replace(listed, sample_ids=ids, refusals=refusals)


def _name_of_file(source: Source, address: str, pattern: str) -> str:
    if source.sample_from not in SAMPLE_NAMES:
        found = re.search(source.sample_from, address)
        if found is None or not found[1]:
            raise UserError(f"source {source.name}: no sample's name in {address} (sample_from: {source.sample_from})")
        return found[1]
    folder, name = address.rpartition("/")[::2]
    stem = name_without_suffix(name)
    if source.sample_from == "file":
        return stem
    if source.sample_from == "folder":
        return folder.rpartition("/")[2]
    below = folder[len(fixed_folder(pattern)) :].strip("/") if has_wildcards(source.path) else ""
    return f"{below}/{stem}" if below else stem


def _require_unique_over_files(source: Source, files: Sequence[SourceFile]) -> None:
    first: dict[str, str] = {}
    repeated: dict[str, tuple[str, str]] = {}
    for file in files:
        for sample in file.sample_ids:
            if sample in first:
                repeated.setdefault(sample, (first[sample], file.address))
            first.setdefault(sample, file.address)
    if repeated:
        sample, (one, other) = next(iter(repeated.items()))
        raise UserError(
            f"source {source.name}: {len(repeated):,} samples are in several of its {len(files):,} files, e.g. "
            f"{sample!r} in {one} and {other}; sample_from: file, folder, path or a regular expression names samples "
            f"by their file"
        )


def _say_ignored_columns(source: Source, files: Sequence[SourceFile]) -> None:
    ignored = Counter(name for file in files for name in file.ignored_columns)
    if ignored:
        names = ", ".join(map(repr, list(ignored)[:5])) + (", ..." if len(ignored) > 5 else "")
        log(f"{source.name}: {len(ignored):,} columns hold annotation and are no samples: {names}")


def samples_table(settings: BuildSettings, files: Sequence[SourceFile]) -> pd.DataFrame:
    """One row per sample of all sources, by ordinal: sample_id, source, study_id, and labels, which start with
    :data:`LABEL`."""
    parts = []
    for source in settings.sources:
        own = [file for file in files if file.source == source]
        address = settings.address(source.samples) if source.samples is not None else None
        given = [sample for file in own for sample in file.sample_ids]
        metadata = metadata_of(source, address, [(file.address, file.sample_ids) for file in own])
        _require_no_ignored_samples(source, own, metadata)
        labels = labels_for(source, given, metadata)
        study = labels.pop("study_id")
        unknown = sorted(set(source.exclude_samples) - set(given))
        if unknown:
            raise UserError(f"source {source.name} has no sample {', '.join(unknown[:3])} to exclude")
        refusals = {sample: refusal for file in own for sample, refusal in file.refusals.items()}
        refusals |= dict.fromkeys(source.exclude_samples, Refusal(qc.EXCLUDED, None))
        reasons, values = zip(*(refusals.get(sample, (None, None)) for sample in given), strict=True)
        sample_ids = [source.sample_prefix + sample for sample in given]
        labels = labels.add_prefix(LABEL)
        parts.append(
            labels.assign(sample_id=sample_ids, source=source.name, study_id=study, reason=reasons, value=values)
        )
    return pd.concat(parts, ignore_index=True)


def _require_no_ignored_samples(source: Source, files: Sequence[SourceFile], metadata: pd.DataFrame | None) -> None:
    ignored = {name for file in files for name in file.ignored_columns}
    named = sorted(ignored & set(metadata.index)) if metadata is not None and source.samples is not None else []
    if named:
        raise UserError(
            f"source {source.name}: {named[0]!r} is a sample in {source.samples}, but its column holds text or has the "
            f"name of an annotation (drop_annotation: false reads it)"
        )
