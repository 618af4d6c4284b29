"""What Ray Data's tasks do: read windows of profiles from the store.

Imports neither torch nor Ray: each process that reads would spend seconds on them before its first byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import numpy as np
import pyarrow as pa

from dataprep.corpus import DamagedShardError, Shard, encode_expression, read_row_groups
from dataprep.runtime.storage import Folder
from pretrain.data.plan import Window

# Reading waits for the store more than it computes; a whole CPU would starve small machines of workers.
READ_TASK_CPUS = 0.25
# A window has row groups of many shards, and a store takes its time for each request.
_SHARDS_AT_ONCE = 8


def read_numbered(
    numbers: pa.Table, folder: Folder, windows: Sequence[Window], genes: int, skip_damaged: bool
) -> pa.Table:
    """What a Ray Data task does: read the windows whose numbers it was given."""
    tables = []
    for number in numbers.column("id").to_pylist():
        try:
            tables.append(read_window(folder, windows[number]))
        except DamagedShardError:
            if not skip_damaged:
                raise
            tables.append(salvage_window(folder, windows[number], genes))
    return pa.concat_tables(tables)


def read_window(folder: Folder, window: Window) -> pa.Table:
    """Columns row_id, readable and expression of a window's profiles, in the order in which they lie in the shards.

    Who uses them puts them in their order, without a copy of its own. Only the window's row groups are fetched; a store
    that becomes unavailable in the middle is waited for. Raises DamagedShardError naming the shard where one is missing
    or damaged.
    """
    read = partial(_wanted_of_shard, folder, np.sort(window.row_ids))
    if folder.is_local:
        tables = [read(shard, groups) for shard, groups in window.reads]
    else:
        with ThreadPoolExecutor(_SHARDS_AT_ONCE) as pool:
            tables = list(pool.map(read, *zip(*window.reads, strict=True)))
    table = pa.concat_tables(tables)
    assert len(table) == len(window.row_ids), "row groups lack profiles of their window"
    return table


def salvage_window(folder: Folder, window: Window, genes: int) -> pa.Table:
    """The same where row groups are damaged: their profiles come last, not ``readable``, with zeros."""
    row_ids = np.sort(window.row_ids)
    tables = []
    for shard, groups in window.reads:
        for group in groups:
            with suppress(DamagedShardError):
                tables.append(_wanted_of_shard(folder, row_ids, shard, (group,)))
    lost = np.setdiff1d(row_ids, np.concatenate([row_ids[:0], *(table.column("row_id") for table in tables)]))
    zeros = encode_expression(np.zeros((len(lost), genes), np.float16))
    return pa.concat_tables([*tables, _block(pa.array(lost), zeros, readable=False)])


def _wanted_of_shard(folder: Folder, row_ids: np.ndarray, shard: Shard, groups: tuple[int, ...]) -> pa.Table:
    """Of the row groups of a shard those profiles whose row ids are among the sorted ``row_ids``."""
    table = folder.attempt(partial(read_row_groups, folder, shard, groups))
    return pa.concat_tables(list(_wanted(table, row_ids)))


def _wanted(table: pa.Table, row_ids: np.ndarray) -> Iterator[pa.Table]:
    # row group by row group: nearly all are wanted whole, and only the others are copied
    for batch in table.to_batches():
        held = batch.column("row_id").to_numpy()
        wanted = row_ids[np.searchsorted(row_ids, held).clip(max=len(row_ids) - 1)] == held
        kept = batch if wanted.all() else batch.filter(pa.array(wanted))
        yield _block(kept.column("row_id"), kept.column("expression"), readable=True)


def _block(row_ids: pa.Array, expression: pa.Array, readable: bool) -> pa.Table:
    return pa.table({"row_id": row_ids, "readable": pa.repeat(readable, len(row_ids)), "expression": expression})
