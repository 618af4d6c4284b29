"""AnnData in Zarr: a folder of arrays in chunks, of which those are read that hold the samples asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder
from dataprep.sources.anndata_forms.elements import (
    KIND,
    TABLES,
    AnnDataSource,
    is_array,
    matrix_of,
    require_obs_and_var,
)
from dataprep.sources.foreign_files import read_as, require_column_that_fits
from dataprep.sources.registry import register_source

# By which a folder is known: of format 3 and of format 2.
_MARKS = ("zarr.json", ".zgroup")


@register_source
class ZarrSource(AnnDataSource):
    """AnnData in a folder that Zarr wrote, of format 2 or 3."""

    format: Literal["zarr"] = "zarr"
    missing_chunks: Literal["refuse", "zeros"] = Field(
        default="refuse",
        description="chunks of the matrix that are not there: zarr leaves out those of zeros alone, and a copy that "
        "was interrupted leaves out others",
    )
    of_folders: ClassVar[bool] = True

    @field_validator("path")
    @classmethod
    def _without_slash(cls, path: str) -> str:
        return path.rstrip("/") or path

    def stored_together(self, address: str, store: Any) -> int:
        """As many as a chunk of the matrix has."""
        matrix, _ = matrix_of(address, store, self.layer)
        return int(matrix.chunks[0]) if is_array(matrix) else 1

    @contextmanager
    def opened(self, address: str) -> Iterator[Any]:
        """The root group."""
        with opened_zarr(address, self.missing_chunks == "zeros") as group:
            require_obs_and_var(address, group)
            yield group


def is_zarr(address: str) -> bool:
    """Whether a folder is what Zarr writes."""
    folder = Folder(address)
    return any(folder.exists(mark) for mark in _MARKS)


@contextmanager
def opened_zarr(address: str, zeros_left_out: bool) -> Iterator[Any]:
    """The root group of a folder. Raises :class:`UserError`, also for whatever a reader stumbles over inside."""
    # zarr and what it imports take half a second, which every command would pay
    import zarr

    from dataprep.sources.anndata_forms import checked_blosc  # noqa: F401 - zarr uses it from now on
    from dataprep.sources.anndata_forms.folder_store import FolderStore

    if not is_zarr(address):
        if not Folder(address).children():
            raise UserError(f"no such folder: {address}")
        raise UserError(f"{address} is not a folder that Zarr wrote: it has no {' or '.join(_MARKS)}")
    with read_as(address, KIND):
        store = FolderStore(address, TABLES, zeros_left_out)
        # what a folder says of all its arrays in one place can be older than they are
        group = zarr.open_group(store, mode="r", use_consolidated=False)
        for name in TABLES:
            _require_tables_that_fit(address, name, group)
        yield group


def _require_tables_that_fit(address: str, name: str, group: Any) -> None:
    table = group.get(name)
    if table is None:
        return
    arrays = [("", table)] if is_array(table) else table.members(max_depth=None)
    for part, stored in arrays:
        if is_array(stored):
            # text of any length has no size of its own
            require_column_that_fits(address, f"{name}/{part}", stored.size, stored.dtype.itemsize or 1)
