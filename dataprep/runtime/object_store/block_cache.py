"""How readers that jump between places of a large object in a store fetch it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from fsspec.caching import BaseCache, register_cache

_STRETCHES = 16


class GrowingBlocks(BaseCache):
    """Keeps the blocks that were used last, and fetches the more of them at once the longer a stretch is read on.

    A request costs a store and the way to it about as much as megabytes do. fsspec's caches either fetch block by block
    or keep one stretch only; HDF5 goes over many stretches, and comes back to them for the next samples.
    """

    name = "growing-blocks"

    def __init__(
        self, blocksize: int, fetcher: Callable[[int, int], bytes], size: int, most_blocks: int, longest_fetch: int
    ) -> None:
        """``fetcher`` gets the bytes from a first to a last + 1; ``most_blocks`` are kept, and ``longest_fetch`` of
        them fetched at once, or as many as are asked for."""
        super().__init__(blocksize, fetcher, size)
        self._most_blocks = most_blocks
        self._longest_fetch = longest_fetch
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        # where the last fetches ended, and how many blocks they had
        self._ends: OrderedDict[int, int] = OrderedDict()

    def _fetch(self, start: int | None, stop: int | None) -> bytes:
        """The bytes from ``start`` to ``stop``, which fsspec asks for by this name."""
        start, stop = start or 0, self.size if stop is None else min(stop, self.size)
        if start >= stop:
            return b""
        first, last = start // self.blocksize, (stop - 1) // self.blocksize
        content = b"".join([self._block(number, last) for number in range(first, last + 1)])
        return content[start - first * self.blocksize : stop - first * self.blocksize]

    def _block(self, number: int, last: int) -> bytes:
        if number not in self._blocks:
            self._fetch_blocks(number, last)
        self._blocks.move_to_end(number)
        return self._blocks[number]

    def _fetch_blocks(self, number: int, last: int) -> None:
        """Fetch a block, those that are asked for after it, and more where it goes on with a stretch."""
        # a block that was skipped does not end a stretch
        before = max(self._ends.pop(number, 0), self._ends.pop(number - 1, 0))
        count = max(min(2 * before, self._longest_fetch), last - number + 1, 1)
        end = next((other for other in range(number, number + count) if other in self._blocks), number + count)
        content = memoryview(self.fetcher(number * self.blocksize, min(end * self.blocksize, self.size)))
        for place, block in enumerate(range(number, end)):
            self._blocks[block] = bytes(content[place * self.blocksize : (place + 1) * self.blocksize])
        while len(self._blocks) > max(self._most_blocks, end - number):
            self._blocks.popitem(last=False)
        self._ends[end] = end - number
        while len(self._ends) > _STRETCHES:
            self._ends.popitem(last=False)


register_cache(GrowingBlocks)
