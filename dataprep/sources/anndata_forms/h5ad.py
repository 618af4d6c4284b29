"""AnnData in one HDF5 file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import h5py
from pydantic import model_validator

from dataprep.sources.anndata_forms.elements import KIND, TABLES, AnnDataSource, require_obs_and_var
from dataprep.sources.hdf5.files import opened_hdf5
from dataprep.sources.registry import register_source


@register_source
class H5adSource(AnnDataSource):
    """AnnData: samples in obs, genes in var."""

    format: Literal["h5ad"] = "h5ad"

    @model_validator(mode="after")
    def _is_a_file(self) -> H5adSource:
        if self.path.rstrip("/").endswith(".zarr"):
            raise ValueError(f"path: {self.path} is AnnData in Zarr, which format: zarr reads")
        return self

    @contextmanager
    def opened(self, address: str) -> Iterator[h5py.File]:
        """The file."""
        with opened_hdf5(address, KIND, TABLES) as file:
            require_obs_and_var(address, file)
            yield file
