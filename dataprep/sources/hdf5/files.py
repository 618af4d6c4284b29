"""HDF5 files as people send them: damaged, compressed as a whole, or with their values in other files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import IO, Any

import h5py

from dataprep.runtime.command_line import UserError, one_line
from dataprep.runtime.storage import Folder, split_file_address
from dataprep.sources.foreign_files import read_as, require_column_that_fits


@contextmanager
def opened_hdf5(address: str, kind: str, whole: Sequence[str], in_blocks: bool = False) -> Iterator[h5py.File]:
    """The file, for reading.

    ``kind`` says what it should be ("an AnnData file as anndata writes it"); ``whole`` names the groups and data sets
    that are read whole, which must not be larger than memory. ``in_blocks`` is as in :meth:`Folder.open`, for files of
    which a small part is read.
    Raises :class:`UserError`, also for whatever the reader of ``kind`` stumbles over inside the context.
    """
    place, name = split_file_address(address)
    folder = Folder(place)
    with read_as(address, kind):
        try:
            with (
                folder.open(name, in_blocks=in_blocks) as stream,
                h5py.File(_readable(address, stream, folder.is_local), "r", locking=False) as file,
            ):
                _require_plain(address, file, tuple(f"{name}/" for name in whole))
                yield file
        except FileNotFoundError:
            raise UserError(f"no such file: {address}") from None
        except IsADirectoryError:
            raise UserError(f"{address} is a folder, not a file") from None
        except OSError as error:
            raise UserError(f"{address} is not a readable HDF5 file: {one_line(error)}") from None


def texts(stored: h5py.Dataset, chosen: slice = slice(None)) -> tuple[str, ...]:
    """A data set of names, of fixed or variable length, or some of them. Raises ValueError where it is no list."""
    return _decoded(_names(stored, chosen))


def texts_of_each_task(stored: h5py.Dataset) -> tuple[str, ...]:
    """As :func:`texts`, for names that all tasks of a file read: a process decodes them once."""
    return _decoded_before(tuple(_names(stored, slice(None))))


def _names(stored: h5py.Dataset, chosen: slice) -> Iterable[Any]:
    if not isinstance(stored, h5py.Dataset) or stored.ndim != 1:
        raise ValueError(f"{stored.name} is no list of names")
    return stored[chosen].tolist()  # type: ignore[no-any-return]


def _decoded(names: Iterable[Any]) -> tuple[str, ...]:
    return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names)


_decoded_before = lru_cache(maxsize=2)(_decoded)


def _require_plain(address: str, file: h5py.File, whole: tuple[str, ...]) -> None:
    """Raise :class:`UserError` for a file whose values are in other files, or whose tables no memory holds.

    HDF5 would read any file of this machine that a stranger's names. What is read in parts may have any size.
    """

    # links, not objects: of these HDF5 also finds out how large their indexes are, which lie all over a file of many
    # chunks, and reads them whole for that
    links: list[tuple[str, Any]] = []
    file.visititems_links(lambda name, link: links.append((name, link)))
    for name, link in links:
        if isinstance(link, h5py.ExternalLink):
            raise UserError(f"{address}: {name} is in another file: write it into this one")
        stored = file[name] if isinstance(link, h5py.HardLink) else None
        if not isinstance(stored, h5py.Dataset):
            continue
        if stored.is_virtual or stored.external:
            raise UserError(f"{address}: the values of {name} are in another file: write them into this one")
        if f"{name}/".startswith(whole):
            require_column_that_fits(address, name, stored.size or 0, stored.dtype.itemsize)


def _readable(address: str, stream: IO[bytes], is_local: bool) -> IO[bytes] | str:
    """What HDF5 can read: the stream, or the path of a local file, which it reads faster by itself."""
    compressed = stream.read(2) == b"\x1f\x8b"
    stream.seek(0)
    if compressed:
        # it has to be seekable
        raise UserError(f"{address} is compressed with gzip; unpack it first")
    return stream.name if is_local else stream
