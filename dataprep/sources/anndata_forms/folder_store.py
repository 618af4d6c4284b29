"""A folder or an object-store prefix as a store that zarr reads: with the same retries, and the same words for what
goes wrong, as for everything else that is read."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder

# Where the metadata of an array say by what its chunks are encoded, in format 3 and in format 2.
_CODECS = ("codecs", "filters", "compressor")
# Types of numbers, in format 2 and in format 3.
_NUMBER = re.compile(r"[<>|][biuf]\d+|bool|u?int\d+|float\d+")
_METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")


class FolderStore(Store):
    """The files below an address, for reading.

    A chunk that is not there is an error unless ``zeros_left_out`` says that it means zeros. Of numbers in ``tables``
    it does: labels of one value only are not written at all.
    """

    def __init__(self, address: str, tables: Sequence[str], zeros_left_out: bool) -> None:
        super().__init__(read_only=True)
        self._folder = Folder(address)
        self._tables = tuple(f"{table}/" for table in tables)
        self._zeros_left_out = zeros_left_out

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FolderStore) and other._folder == self._folder

    def __str__(self) -> str:
        return self._folder.uri

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        content = await asyncio.to_thread(self._content, key, byte_range)
        return None if content is None else prototype.buffer.from_bytes(content)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return list(await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges)))

    def _content(self, key: str, part: ByteRequest | None) -> bytes | None:
        name = key.rpartition("/")[2]
        try:
            if part is not None:
                (content,) = self._folder.read_ranges([(key, *self._range(key, part))])
                return content
            content = self._folder.read_bytes(key)
        except (FileNotFoundError, NotADirectoryError):
            if name not in _METADATA and not self._may_be_left_out(key):
                raise UserError(
                    f"{self._folder.uri}: chunk {key} is missing, as of a copy that was interrupted; where the writer "
                    "left out chunks of zeros alone, missing_chunks: zeros reads them as such"
                ) from None
            return None
        if name in _METADATA:
            self._require_no_pickles(content)
        return content

    def _may_be_left_out(self, chunk: str) -> bool:
        if not chunk.startswith(self._tables):
            return self._zeros_left_out
        array = chunk.rpartition("/")[0].removesuffix("/c")
        stated = [self._content(f"{array}/{name}", None) for name in (".zarray", "zarr.json")]
        kinds = [json.loads(content) for content in stated if content is not None]
        return any(_NUMBER.fullmatch(str(kind.get("dtype", kind.get("data_type")))) for kind in kinds)

    def _range(self, key: str, part: ByteRequest) -> tuple[int, int]:
        if isinstance(part, RangeByteRequest):
            return part.start, part.end
        size = self._folder.size_bytes(key)
        if isinstance(part, OffsetByteRequest):
            return part.offset, size
        assert isinstance(part, SuffixByteRequest)
        return max(0, size - part.suffix), size

    def _require_no_pickles(self, content: bytes) -> None:
        """Raise :class:`UserError` for arrays of pickled objects, which zarr would load: code of whoever wrote them."""
        try:
            found = json.loads(content)
        except ValueError:
            return
        if isinstance(found, dict) and _has_pickles([found.get(key) for key in _CODECS]):
            raise UserError(f"{self._folder.uri} has arrays of pickled Python objects, which are not read")

    async def exists(self, key: str) -> bool:
        return await asyncio.to_thread(self._folder.exists, key)

    async def list(self) -> AsyncIterator[str]:
        for name in await asyncio.to_thread(self._folder.files):
            yield name

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        async for name in self.list():
            if name.startswith(prefix):
                yield name

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        folder = self._folder / prefix if prefix.strip("/") else self._folder
        for name in await asyncio.to_thread(folder.children):
            yield name

    @property
    def supports_writes(self) -> bool:
        return False

    @property
    def supports_deletes(self) -> bool:
        return False

    @property
    def supports_listing(self) -> bool:
        return True

    async def set(self, key: str, value: Buffer) -> None:
        raise NotImplementedError

    async def delete(self, key: str) -> None:
        raise NotImplementedError


def _has_pickles(found: Any) -> bool:
    if isinstance(found, dict):
        return str(found.get("id", found.get("name"))).endswith("pickle") or any(map(_has_pickles, found.values()))
    return isinstance(found, list) and any(map(_has_pickles, found))
