"""ARCHS4: counts of all human samples of GEO and SRA in one HDF5 file, read some samples at a time.

Files of version 2 have ``data/expression`` as genes x samples, ``meta/samples/...`` and ``meta/genes/...`` (or
``meta/transcripts/...``); the first versions had samples x genes, ``meta/Sample_...`` and ``meta/genes``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import h5py
import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from dataprep.runtime.command_line import UserError
from dataprep.sources.hdf5.chunks import read_into
from dataprep.sources.hdf5.files import opened_hdf5, texts, texts_of_each_task
from dataprep.sources.registry import register_source
from dataprep.sources.source import RawProfiles, Refusal, SampleList, Source, Units

# Profiles that are handed on together, as float32.
_PART_BYTES = 16 * 1024**2
# Those that are read together, where a chunk of the file holds more.
_BLOCK_BYTES = 256 * 1024**2
# The names of genes, by what the versions called them.
_ENSEMBL_NAMES = ("ensembl_gene", "ensembl_gene_id", "ensembl_id")
_SYMBOL_NAMES = ("symbol", "gene_symbol", "genes")
_TRANSCRIPT_NAMES = ("ensembl_id", "transcripts", "transcript_id", "ensembl_transcript_id")
_SERIES = "series_id"


@register_source
class Archs4Source(Source):
    """ARCHS4's HDF5 file of genes or of transcripts, local or in a bucket.

    What GEO says of the samples becomes their metadata, with a column ``study``: the series, where series that share
    samples are one. ``max_single_cell_probability`` refuses what ARCHS4 takes for single cells.
    """

    format: Literal["archs4"] = "archs4"
    units: Units = Field(default="counts", description="counts of genes; estimated_counts of transcripts")
    labels: list[str] = Field(
        default=["title", "source_name_ch1", "characteristics_ch1", _SERIES, "singlecellprobability"],
        description="metadata of the samples to keep, of those that the file has",
    )
    max_single_cell_probability: float = Field(
        default=0.5, ge=0, le=1, description="samples with more are refused as single cells; 1 keeps all"
    )

    @model_validator(mode="before")
    @classmethod
    def _study_from_series(cls, given: Any) -> Any:
        if isinstance(given, dict) and not {"study", "study_column"} & given.keys():
            return given | {"study_column": "study"}
        return given

    def list_samples(self, address: str) -> SampleList:
        """GEO's names of the samples, with those that are refused, and how many lie together in the file."""
        with _opened(address) as file:
            names = texts(_sample_column(file, "geo_accession"))
            refused = {}
            if _has_sample_column(file, "singlecellprobability"):
                probability = _numbers(_sample_column(file, "singlecellprobability"))
                high = np.flatnonzero(probability > self.max_single_cell_probability)
                refused = {names[number]: Refusal("single_cell", f"{probability[number]:.2f}") for number in high}
            expression = file["data/expression"]
            _require_shape(address, expression, len(names), len(self._row_names(file)))
            together = expression.chunks[_sample_axis(file)] if expression.chunks else 1
        return SampleList(names, refusals=refused, stored_together=together)

    def read_metadata(self, address: str) -> pd.DataFrame:
        """The chosen labels, and ``study``."""
        with _opened(address) as file:
            names = texts(_sample_column(file, "geo_accession"))
            known = [label for label in self.labels if _has_sample_column(file, label)]
            columns = {label: _as_text(_sample_column(file, label)) for label in known}
            if _has_sample_column(file, _SERIES):
                columns["study"] = joined_series(_as_text(_sample_column(file, _SERIES)))
        return pd.DataFrame(columns, index=list(names), dtype=object)

    def read_samples(self, address: str, start: int, stop: int) -> Iterator[RawProfiles]:
        """In parts of some megabytes, chunk after chunk. Raises :class:`UserError` where the file has no such names."""
        with _opened(address) as file:
            accessions, genes = _sample_column(file, "geo_accession"), self._row_names(file)
            stop = min(stop, len(accessions))
            expression = file["data/expression"]
            _require_shape(address, expression, len(accessions), len(genes))
            names = texts(accessions, slice(start, stop))
            for first, values in _parts(expression, _sample_axis(file), start, stop):
                yield RawProfiles(first, names[first - start : first - start + len(values)], genes, values)

    def _row_names(self, file: h5py.File) -> tuple[str, ...]:
        if "transcripts" in file["meta"]:
            return texts_of_each_task(_first_of(file["meta/transcripts"], _TRANSCRIPT_NAMES, self.gene_id))
        genes = file["meta/genes"]
        if isinstance(genes, h5py.Dataset):
            return texts_of_each_task(genes)
        wanted = _ENSEMBL_NAMES if self.gene_id == "ensembl" else _SYMBOL_NAMES
        return texts_of_each_task(_first_of(genes, wanted, self.gene_id))


def joined_series(series: Sequence[str | None]) -> list[str | None]:
    """The study of each sample: the first of all series that its own, directly or over others, share samples with.

    GEO's super-series name the samples of several series; a sample may have several, divided by commas or tabs.
    """
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    named = [[part for part in re.split(r"[\s,;]+", text or "") if part] for text in series]
    for names in named:
        for other in names[1:]:
            one, two = sorted((root(names[0]), root(other)), key=lambda name: (len(name), name))
            parent[two] = one
    return [root(names[0]) if names else None for names in named]


def _parts(expression: h5py.Dataset, axis: int, start: int, stop: int) -> Iterator[tuple[int, np.ndarray]]:
    """Positions of first samples, and values float32 [n, S]; each chunk of the file is unpacked once where a block of
    whole chunks fits into memory."""
    genes = expression.shape[1 - axis]
    width = max(1, _PART_BYTES // (4 * genes))
    together = expression.chunks[axis] if expression.chunks else 1
    most = max(width, _BLOCK_BYTES // (4 * genes))
    block = max(1, width // together) * together if together <= most else most
    while start < stop:
        # up to where a chunk ends
        end = min(stop, start - start % together + block if block % together == 0 else start + block)
        values = np.empty((end - start, genes), np.float32)
        samples, all_genes = slice(start, end), slice(0, genes)
        if axis:
            read_into(values.T, expression, (all_genes, samples))
        else:
            read_into(values, expression, (samples, all_genes))
        for first in range(start, end, width):
            yield first, values[first - start : first - start + width]
        start = end


@contextmanager
def _opened(address: str) -> Iterator[h5py.File]:
    with opened_hdf5(address, "a file of ARCHS4", ("meta",), in_blocks=True) as file:
        if "meta" not in file or "data/expression" not in file:
            raise UserError(f"{address} is no file of ARCHS4: it has no meta and data/expression")
        yield file


def _is_old(file: h5py.File) -> bool:
    return "samples" not in file["meta"]


def _sample_axis(file: h5py.File) -> int:
    return 0 if _is_old(file) else 1


def _has_sample_column(file: h5py.File, name: str) -> bool:
    return f"meta/Sample_{name}" in file if _is_old(file) else f"meta/samples/{name}" in file


def _sample_column(file: h5py.File, name: str) -> h5py.Dataset:
    return file[f"meta/Sample_{name}"] if _is_old(file) else file[f"meta/samples/{name}"]


def _first_of(group: h5py.Group, names: Sequence[str], gene_id: str) -> h5py.Dataset:
    found = next((name for name in names if name in group), None)
    if found is None:
        raise ValueError(f"no names of genes for gene_id {gene_id}; {group.name} has {', '.join(group)}")
    return group[found]


def _as_text(stored: h5py.Dataset) -> list[str | None]:
    if stored.dtype.kind in "fiu":
        return [f"{value:g}" if np.isfinite(value) else None for value in stored[()]]
    return list(texts(stored))


def _numbers(stored: h5py.Dataset) -> np.ndarray:
    """Probabilities, which some versions wrote as text; NaN where there is none."""
    if stored.dtype.kind in "fiu":
        return stored[()].astype(np.float64)
    return pd.to_numeric(pd.Series(texts(stored)), errors="coerce").to_numpy(np.float64)


def _require_shape(address: str, expression: h5py.Dataset, samples: int, genes: int) -> None:
    shape = (samples, genes) if _is_old(expression.file) else (genes, samples)
    if expression.dtype.kind not in "iuf" or expression.shape != shape:
        raise UserError(
            f"{address}: data/expression is {' x '.join(map(str, expression.shape))} of {expression.dtype}, with "
            f"{samples:,} samples and {genes:,} genes; it may not have been written to its end"
        )
