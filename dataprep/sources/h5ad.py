"""AnnData files: samples in obs, genes in var, values in X or a layer, dense or sparse by row.

anndata is imported where it is used: it takes a second, which every worker of a build would pay.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import h5py
import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from dataprep.runtime.command_line import UserError, refuse_without_effect
from dataprep.sources.hdf5_files import opened_hdf5
from dataprep.sources.registry import register_source
from dataprep.sources.source import RawProfiles, SampleList, Source


@register_source
class H5adSource(Source):
    """AnnData: samples in obs, genes in var."""

    format: Literal["h5ad"] = "h5ad"
    layer: str | None = Field(default=None, description="layer that holds the values, or raw; default: X")
    gene_column: str | None = Field(default=None, description="column of var with the gene ids; default: its index")

    @model_validator(mode="after")
    def _text_is_read(self) -> H5adSource:
        if self.samples is None:
            refuse_without_effect(self, ("encoding",), "without a samples table: the file itself has none")
        return self

    def list_samples(self, address: str) -> SampleList:
        """The names in obs."""
        with _opened(address) as file:
            return SampleList(tuple(map(str, _frame(file["obs"]).index)))

    def read_metadata(self, address: str) -> pd.DataFrame:
        """Obs."""
        with _opened(address) as file:
            return _frame(file["obs"])

    def read_samples(self, address: str, start: int, stop: int) -> Iterator[RawProfiles]:
        """Raises :class:`UserError` where the layer or the gene column is not there."""
        with _opened(address) as file:
            matrix, var = _matrix(address, file, self.layer)
            gene_ids = _gene_ids(address, _frame(var), self.gene_column)
            samples = tuple(map(str, _frame(file["obs"]).index))
            shape = _shape(matrix)
            if shape != (len(samples), len(gene_ids)):
                raise UserError(
                    f"{address}: a matrix of {' x '.join(map(str, shape))} with {len(samples):,} samples in obs and "
                    f"{len(gene_ids):,} genes in var; it may not have been written to its end"
                )
            values = _rows(matrix, start, stop)
        yield RawProfiles(start, samples[start:stop], gene_ids, values)


def _frame(stored: h5py.Group | h5py.Dataset) -> pd.DataFrame:
    """Obs or var, as a group of columns or, as anndata wrote it before version 0.7, as one array of records."""
    from anndata.io import read_elem

    if isinstance(stored, h5py.Group):
        return read_elem(stored)
    records = pd.DataFrame.from_records(stored[()])
    records = records.apply(lambda column: column.map(lambda v: v.decode() if isinstance(v, bytes) else v))
    name = next((column for column in ("index", "_index") if column in records.columns), records.columns[0])
    return records.set_index(name)


def _gene_ids(address: str, var: pd.DataFrame, column: str | None) -> tuple[str, ...]:
    """Names of the genes, empty where the column has none."""
    if column is not None and column not in var.columns:
        raise UserError(f"{address}: var has no column {column!r}; it has {', '.join(map(str, var.columns)) or 'none'}")
    ids = pd.Series(var.index) if column is None else var[column]
    return tuple("" if missing else str(gene) for gene, missing in zip(ids, ids.isna(), strict=True))


def _matrix(address: str, file: h5py.File, layer: str | None) -> tuple[Any, Any]:
    """The values, and the var that belongs to them: raw has its own."""
    layers = file.get("layers", {})
    if layer in ("raw", "raw/X") and layer not in layers and "raw" in file:
        return file["raw"]["X"], file["raw"]["var"]
    if layer is not None and layer not in layers:
        there = [*layers, *(["raw"] if "raw" in file else [])]
        raise UserError(f"{address} has no layer {layer!r}; it has {', '.join(there) or 'none'}")
    if layer is not None:
        return layers[layer], file["var"]
    if "X" not in file or not _shape(file["X"]):
        raise UserError(f"{address} has no X; it has the layers {', '.join(layers) or 'none'} (setting layer)")
    return file["X"], file["var"]


def _shape(matrix: Any) -> tuple[int, ...]:
    if isinstance(matrix, h5py.Dataset):
        return tuple(matrix.shape or ())
    # as anndata writes sparse matrices, now and before version 0.7
    shape = matrix.attrs["shape"] if "shape" in matrix.attrs else matrix.attrs.get("h5sparse_shape", ())
    return tuple(map(int, shape))


def _rows(matrix: h5py.Dataset | h5py.Group, start: int, stop: int) -> np.ndarray:
    from anndata.io import sparse_dataset

    if isinstance(matrix, h5py.Dataset):
        if matrix.dtype.kind not in "biuf":
            raise ValueError(f"{matrix.name} holds {matrix.dtype}, not numbers")
        return matrix[start:stop].astype(np.float32)
    _require_pointers(matrix)
    chosen = sparse_dataset(matrix)[start:stop]
    # scipy trusts the numbers of a file and would write outside of its memory
    chosen.check_format(full_check=True)
    return chosen.toarray().astype(np.float32)


def _require_pointers(matrix: h5py.Group) -> None:
    """Raise ValueError unless each row of a sparse matrix (or column) has its part of the stored values."""
    by_row = "csr" in str(matrix.attrs.get("encoding-type", matrix.attrs.get("h5sparse_format", "csr")))
    starts, stored = matrix["indptr"][()], matrix["indices"].shape
    fits = starts.shape == (_shape(matrix)[0 if by_row else 1] + 1,) and stored == matrix["data"].shape
    if not fits or starts[0] != 0 or (starts[-1],) != stored or (np.diff(starts) < 0).any():
        raise ValueError(f"{matrix.name} is damaged: its indptr does not divide its values")


@contextmanager
def _opened(address: str) -> Iterator[h5py.File]:
    with opened_hdf5(address, "an AnnData file as anndata writes it", ("obs", "var", "raw/var")) as file:
        if "obs" not in file or "var" not in file:
            raise UserError(f"{address} is not an AnnData file: it has no obs and var")
        yield file
