"""What Ray Data's tasks do: read windows of profiles from the store.

Imports neither torch nor Ray: each process that reads would spend seconds on them before its first byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import numpy as np
import pyarrow as pa

from dataprep.corpus import (
    BYTES_PER_VALUE,
    DamagedShardError,
    decode_expression,
    encode_expression,
    read_row_groups,
    row_group_tables,
)
from dataprep.runtime.storage import Folder
from pretrain.data.plan import Window

# Reading waits for the store more than it computes; a whole CPU would starve small machines of workers.
READ_TASK_CPUS = 0.25


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
    """Columns epoch, row_id, readable and expression of a window's profiles, in their order of use.

    Only the window's row groups are fetched; a store that becomes unavailable in the middle is waited for. Raises
    DamagedShardError naming the shard where one is missing or damaged.
    """
    expression = folder.attempt(lambda: _expression_of(folder, window))
    return _block(window, np.ones(len(window.row_ids), bool), encode_expression(expression))


def _expression_of(folder: Folder, window: Window) -> np.ndarray:
    """float16 [N, G] of a window's N profiles, each copied once, to its place."""
    sorter = np.argsort(window.row_ids)
    expression, missing = None, len(sorter)
    for shard, groups in window.reads:
        for table in row_group_tables(folder, shard, groups):
            held = table.column("row_id").to_numpy()
            genes = table.column("expression").type.byte_width // BYTES_PER_VALUE
            place = sorter[np.searchsorted(window.row_ids, held, sorter=sorter).clip(max=len(sorter) - 1)]
            wanted = window.row_ids[place] == held
            values = decode_expression(table.column("expression"), genes)
            if expression is None:
                expression = np.empty((len(sorter), genes), np.float16)
            expression[place[wanted]] = values if wanted.all() else values[wanted]
            missing -= int(wanted.sum())
    assert expression is not None, "a window without row groups"
    assert missing == 0, "row groups lack profiles of their window"
    return expression


def salvage_window(folder: Folder, window: Window, genes: int) -> pa.Table:
    """The same where row groups are damaged: their profiles are there, not ``readable``, with zeros."""
    place = {row_id: position for position, row_id in enumerate(window.row_ids.tolist())}
    readable = np.zeros(len(window.row_ids), bool)
    expression = np.zeros((len(window.row_ids), genes), np.float16)
    for shard, groups in window.reads:
        for group in groups:
            with suppress(DamagedShardError):
                table = folder.attempt(partial(read_row_groups, folder, shard, (group,)))
                values = decode_expression(table.column("expression"), genes)
                for row_id, profile in zip(table.column("row_id").to_pylist(), values, strict=True):
                    if row_id in place:
                        readable[place[row_id]], expression[place[row_id]] = True, profile
    return _block(window, readable, encode_expression(expression))


def _block(window: Window, readable: np.ndarray, expression: pa.Array | pa.ChunkedArray) -> pa.Table:
    epochs = np.full(len(readable), window.epoch)
    columns = {"epoch": epochs, "row_id": window.row_ids, "readable": readable, "expression": expression}
    return pa.table(columns)
