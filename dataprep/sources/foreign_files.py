"""Files that strangers made: whatever a reader stumbles over in them is said in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dataprep.runtime.command_line import UserError, one_line

# No column of a table of samples or genes is larger.
_LARGEST_COLUMN_BYTES = 2 * 1024**3


@contextmanager
def read_as(address: str, kind: str) -> Iterator[None]:
    """Any error of the reader of ``kind`` ("an AnnData file as anndata writes it") becomes a :class:`UserError`."""
    try:
        yield
    except UserError:
        raise
    except MemoryError:
        raise UserError(f"{address} cannot be read: its tables take more memory than there is") from None
    except Exception as error:  # noqa: BLE001 - readers have many for files that others wrote
        # parts that a reader expects are missing or of another kind, as in a file whose writer was interrupted
        raise UserError(f"{address} is not {kind}: {one_line(error)}") from None


def require_column_that_fits(address: str, name: str, values: int, bytes_per_value: int) -> None:
    """Raise :class:`UserError` for a column of a table that no memory holds."""
    if values * bytes_per_value > _LARGEST_COLUMN_BYTES:
        raise UserError(f"{address}: {name} says that it has {values:,} rows, more than can be read")
