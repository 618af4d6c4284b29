"""AnnData files: samples in obs, genes in var, values in X or a layer, dense or sparse by row.

anndata is imported where it is used: it takes a second, which every worker of a build would pay.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import h5py
import numpy as np
import pandas as pd
from pydantic import Field

from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder, split_file_address
from dataprep.sources.registry import register_source
from dataprep.sources.source import RawProfiles, SampleList, Source


@register_source
class H5adSource(Source):
    """AnnData: samples in obs, genes in var."""

    format: Literal["h5ad"] = "h5ad"
    layer: str | None = Field(default=None, description="layer that holds the values; default: X")
    gene_column: str | None = Field(default=None, description="column of var with the gene ids; default: its index")

    def list_samples(self, address: str) -> SampleList:
        """The names in obs."""
        return SampleList(tuple(map(str, _read_obs(address).index)))

    def read_metadata(self, address: str) -> pd.DataFrame:
        """Obs."""
        return _read_obs(address)

    def read_samples(self, address: str, start: int, stop: int) -> Iterator[RawProfiles]:
        """Raises :class:`UserError` where the layer or the gene column is not there."""
        from anndata.io import read_elem

        with _opened(address) as file:
            gene_ids = _gene_ids(address, read_elem(file["var"]), self.gene_column)
            samples = tuple(map(str, read_elem(file["obs"]).index[start:stop]))
            values = _rows(_matrix(address, file, self.layer), start, stop)
        yield RawProfiles(start, samples, gene_ids, values)


def _read_obs(address: str) -> pd.DataFrame:
    from anndata.io import read_elem

    with _opened(address) as file:
        return read_elem(file["obs"])


def _gene_ids(address: str, var: pd.DataFrame, column: str | None) -> tuple[str, ...]:
    if column is not None and column not in var.columns:
        raise UserError(f"{address}: var has no column {column!r}; it has {', '.join(map(str, var.columns)) or 'none'}")
    return tuple(map(str, var.index if column is None else var[column]))


def _matrix(address: str, file: h5py.File, layer: str | None) -> h5py.Dataset | h5py.Group:
    if layer is None:
        return file["X"]
    layers = file.get("layers", {})
    if layer not in layers:
        raise UserError(f"{address} has no layer {layer!r}; it has {', '.join(layers) or 'none'}")
    return layers[layer]


def _rows(matrix: h5py.Dataset | h5py.Group, start: int, stop: int) -> np.ndarray:
    from anndata.io import sparse_dataset

    if isinstance(matrix, h5py.Dataset):
        return matrix[start:stop].astype(np.float32)
    return sparse_dataset(matrix)[start:stop].toarray().astype(np.float32)


@contextmanager
def _opened(address: str) -> Iterator[h5py.File]:
    folder, name = split_file_address(address)
    try:
        with Folder(folder).open(name) as stream, h5py.File(stream, "r") as file:
            if "obs" not in file or "var" not in file:
                raise UserError(f"{address} is not an AnnData file: it has no obs and var")
            yield file
    except FileNotFoundError:
        raise UserError(f"no such file: {address}") from None
    except OSError as error:
        raise UserError(f"{address} is not a readable HDF5 file: {' '.join(str(error).split())}") from None
