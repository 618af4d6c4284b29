"""What AnnData has in both of its forms: samples in obs, genes in var, values in X, a layer or raw, dense or sparse.

``store`` is what h5py or zarr opens: groups, which are mappings, and arrays. anndata is imported where it is used: it
takes a second, which every worker of a build would pay.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from dataprep.runtime.command_line import UserError, refuse_without_effect
from dataprep.sources.source import RawProfiles, SampleList, Source

KIND = "an AnnData file as anndata writes it"
# Groups of a store that are read whole.
TABLES = ("obs", "var", "raw/var")
# Of a matrix that is stored by gene, values that are in memory together.
_VALUES_AT_ONCE = 4 * 1024**2


class AnnDataSource(Source):
    """AnnData in a form whose subclass opens it."""

    layer: str | None = Field(default=None, description="layer that holds the values, or raw; default: X")
    gene_column: str | None = Field(default=None, description="column of var with the gene ids; default: its index")

    @model_validator(mode="after")
    def _text_is_read(self) -> AnnDataSource:
        if self.samples is None:
            refuse_without_effect(self, ("encoding",), "without a samples table: the file itself has none")
        return self

    @abstractmethod
    def opened(self, address: str) -> AbstractContextManager[Any]:
        """The store, in which whatever a reader stumbles over becomes a :class:`UserError`."""

    def list_samples(self, address: str) -> SampleList:
        """The names in obs, and how many samples lie together."""
        with self.opened(address) as store:
            return SampleList(_sample_ids(store), stored_together=self.stored_together(address, store))

    def stored_together(self, address: str, store: Any) -> int:
        """How many samples lie in one piece."""
        return 1

    def read_metadata(self, address: str) -> pd.DataFrame:
        """Obs."""
        with self.opened(address) as store:
            return _frame(store["obs"])

    def read_samples(self, address: str, start: int, stop: int) -> Iterator[RawProfiles]:
        """Raises :class:`UserError` where the layer or the gene column is not there."""
        with self.opened(address) as store:
            matrix, var = matrix_of(address, store, self.layer)
            gene_ids = _gene_ids(address, _frame(var), self.gene_column)
            samples = _sample_ids(store)
            shape = _shape(matrix)
            if shape != (len(samples), len(gene_ids)):
                raise UserError(
                    f"{address}: a matrix of {' x '.join(map(str, shape))} with {len(samples):,} samples in obs and "
                    f"{len(gene_ids):,} genes in var; it may not have been written to its end"
                )
            values = _rows(matrix, start, stop)
        yield RawProfiles(start, samples[start:stop], gene_ids, values)


def require_obs_and_var(address: str, store: Any) -> None:
    """Raise :class:`UserError` for a store that is not AnnData's."""
    if "obs" not in store or "var" not in store:
        raise UserError(f"{address} is not an AnnData file: it has no obs and var")


def is_array(stored: Any) -> bool:
    """Whether a part of a store is an array and not a group."""
    return hasattr(stored, "dtype")


def matrix_of(address: str, store: Any, layer: str | None) -> tuple[Any, Any]:
    """The values, and the var that belongs to them: raw has its own."""
    layers = store.get("layers", {})
    if layer in ("raw", "raw/X") and layer not in layers and "raw" in store:
        return store["raw"]["X"], store["raw"]["var"]
    if layer is not None and layer not in layers:
        there = [*layers, *(["raw"] if "raw" in store else [])]
        raise UserError(f"{address} has no layer {layer!r}; it has {', '.join(there) or 'none'}")
    if layer is not None:
        return layers[layer], store["var"]
    if "X" not in store or not _shape(store["X"]):
        raise UserError(f"{address} has no X; it has the layers {', '.join(layers) or 'none'} (setting layer)")
    return store["X"], store["var"]


def _sample_ids(store: Any) -> tuple[str, ...]:
    return tuple(map(str, _frame(store["obs"]).index))


def _frame(stored: Any) -> pd.DataFrame:
    """Obs or var, as a group of columns or, as anndata wrote it before version 0.7, as one array of records."""
    from anndata.io import read_elem

    if not is_array(stored):
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


def _shape(matrix: Any) -> tuple[int, ...]:
    if is_array(matrix):
        return tuple(matrix.shape or ())
    # as anndata writes sparse matrices, now and before version 0.7
    shape = matrix.attrs["shape"] if "shape" in matrix.attrs else matrix.attrs.get("h5sparse_shape", ())
    return tuple(map(int, shape))


def _rows(matrix: Any, start: int, stop: int) -> np.ndarray:
    """Rows ``start`` to ``stop`` as float32 [n, S]."""
    from anndata.io import sparse_dataset

    if is_array(matrix):
        if matrix.dtype.kind not in "biuf":
            raise ValueError(f"{matrix.name} holds {matrix.dtype}, not numbers")
        return matrix[start:stop].astype(np.float32)
    by_row = "csr" in str(matrix.attrs.get("encoding-type", matrix.attrs.get("h5sparse_format", "csr")))
    starts = _pointers(matrix, by_row)
    stored = sparse_dataset(matrix)
    if by_row:
        return _checked(stored[start:stop]).toarray().astype(np.float32)
    rows = np.zeros((stop - start, _shape(matrix)[1]), np.float32)
    for columns in _parts(starts):
        rows[:, columns] = _checked(stored[:, columns])[start:stop].toarray()
    return rows


def _pointers(matrix: Any, by_row: bool) -> np.ndarray:
    """Where the stored values of each row (or column) of a sparse matrix begin.

    Raises ValueError unless each has its part of them.
    """
    pointers, stored = matrix["indptr"], matrix["indices"].shape
    fits = pointers.shape == (_shape(matrix)[0 if by_row else 1] + 1,) and stored == matrix["data"].shape
    starts: np.ndarray = pointers[()] if fits else np.array([1])
    if starts[0] != 0 or (starts[-1],) != stored or (np.diff(starts) < 0).any():
        raise ValueError(f"{matrix.name} is damaged: its indptr does not divide its values")
    return starts


def _parts(starts: np.ndarray) -> Iterator[slice]:
    """Columns whose values are read together, one at the least."""
    first, columns = 0, len(starts) - 1
    while first < columns:
        last = int(np.searchsorted(starts, int(starts[first]) + _VALUES_AT_ONCE, side="right")) - 1
        last = min(max(last, first + 1), columns)
        yield slice(first, last)
        first = last


def _checked(chosen: Any) -> Any:
    # scipy trusts the numbers of a file and would write outside of its memory
    chosen.check_format(full_check=True)
    return chosen
