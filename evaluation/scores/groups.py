"""Which rows belong together: those that share a patient, a study, or whatever columns say. N rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def linked_groups(columns: Sequence[Sequence[str]]) -> np.ndarray:
    """The group of each row (str [N]): rows that share a value of any column, directly or through others.

    Each column has a text for every row, empty where the row has none. A group is named by its first row's first
    value; a row without any is a group of its own. So a patient in two studies links them, if both are columns.
    """
    # scipy takes a moment to import, and --help does without it
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows = len(columns[0])
    ends: list[tuple[np.ndarray, np.ndarray]] = []
    nodes = rows
    for texts in columns:
        values = np.asarray(texts, dtype=str)
        given = np.flatnonzero(values != "")
        names, number = np.unique(values[given], return_inverse=True)
        ends.append((given, nodes + number))
        nodes += len(names)
    row, node = (np.concatenate(side) for side in zip(*ends, strict=True))
    _, component = connected_components(coo_array((np.ones(len(row)), (row, node)), shape=(nodes, nodes)), False)
    _, first, group = np.unique(component[:rows], return_index=True, return_inverse=True)
    labels = [next((column[start] for column in columns if column[start]), f"row {start}") for start in first]
    # two columns may have the same word for different things
    repeated = len(set(labels)) < len(labels)
    return np.array(
        [f"{label} (row {start})" if repeated else label for label, start in zip(labels, first, strict=True)]
    )[group]
