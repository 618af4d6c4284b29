"""Folds that keep groups whole: studies, patients, cohorts, cell lines; and folds of pairs. N rows."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dataprep.runtime.command_line import UserError


@dataclass(frozen=True)
class Folds:
    """Positions of rows to fit on and to test on, of each fold; every row is tested at most once.

    ``groups``: str [N], what was kept whole, also inside the training part; ``described``: for people who read results;
    ``classes``: int [N], what was kept in like shares, if anything.
    """

    rows: int
    parts: Sequence[tuple[np.ndarray, np.ndarray]]
    groups: np.ndarray
    described: str
    classes: np.ndarray | None = None


def group_folds(groups: np.ndarray, wanted: int | None, seed: int, classes: np.ndarray | None = None) -> Folds:
    """``wanted`` folds of whole groups (str [N]), or one for each group where it is None.

    ``classes`` (int [N]) are kept in like shares, as far as whole groups allow. Raises UserError for a single group.
    """
    # scikit-learn takes a second to import, and --help does without it
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    names = np.unique(groups)
    if len(names) < 2:
        raise UserError(f"folds that keep groups whole need two groups; all {len(groups):,} rows are of {names[:1]}")
    count = len(names) if wanted is None else min(wanted, len(names))
    if classes is not None:
        # scikit-learn wants one class at least with a row for each fold
        count = max(2, min(count, int(np.bincount(classes).max())))
    if classes is None or count == len(names):
        splitter = GroupKFold(count, shuffle=True, random_state=seed)
    else:
        splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    empty = np.zeros((len(groups), 1))
    with warnings.catch_warnings():
        # of classes with fewer rows than folds: predictions of all folds are scored together
        warnings.simplefilter("ignore", UserWarning)
        parts = [(train, test) for train, test in splitter.split(empty, classes, groups) if len(test)]
    kind = f"each of {count} groups left out once" if count == len(names) else f"{count} folds of whole groups"
    return Folds(len(groups), parts, np.asarray(groups, dtype=str), kind, classes)


def joined_groups(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """One group for each row, str [N], such that rows which share a value of any column are in one group.

    ``columns``: str [N] by name; an empty value is unknown and shared with no row. With one column, groups are named
    by its values, with several by the first value of a column that is in them.
    """
    rows = len(next(iter(columns.values())))
    first_node, edges = rows, []
    for values in columns.values():
        names, number = np.unique(values, return_inverse=True)
        known = np.flatnonzero(values != "")
        edges.append(np.stack([known, first_node + number[known]]))
        first_node += len(names)
    joined = np.concatenate(edges, axis=1)
    graph = coo_array((np.ones(joined.shape[1]), (joined[0], joined[1])), shape=(first_node, first_node))
    component = connected_components(graph, directed=False)[1][:rows]
    first_row = {int(number): row for row, number in reversed(list(enumerate(component)))}
    return np.array([_group_name(columns, first_row[int(number)]) for number in component], dtype=str)


def _group_name(columns: Mapping[str, np.ndarray], row: int) -> str:
    """By the first value that the row has."""
    for column, values in columns.items():
        if values[row] != "":
            return str(values[row]) if len(columns) == 1 else f"{column} {values[row]}"
    return f"row {row}"


def pair_folds(
    lines: np.ndarray,
    targets: np.ndarray,
    split: Literal["cell_line", "target", "both", "pair"],
    wanted: int,
    seed: int,
) -> Folds:
    """``lines`` and ``targets``: str [N]. ``both`` fits on pairs of which neither line nor target is tested.

    Raises UserError where there are too few lines or targets.
    """
    if split == "both":
        by_line, by_target = group_folds(lines, wanted, seed), group_folds(targets, wanted, seed)
        row = np.arange(len(lines))
        parts = [
            (np.intersect1d(line_train, target_train), test)
            for line_train, line_test in by_line.parts
            for target_train, target_test in by_target.parts
            if len(test := np.intersect1d(line_test, target_test))
        ]
        described = f"{len(by_line.parts)} folds of cell lines crossed with {len(by_target.parts)} of targets"
        return Folds(len(row), parts, by_line.groups, described)
    groups = {"cell_line": lines, "target": targets, "pair": np.arange(len(lines)).astype(str)}[split]
    return group_folds(groups, wanted, seed)


def fold_numbers(folds: Folds) -> np.ndarray:
    """The number of the fold that tests each row, int [N]."""
    numbers = np.full(folds.rows, -1)
    for number, (_, test) in enumerate(folds.parts):
        numbers[test] = number
    assert (numbers >= 0).all(), "a pair that no fold tests"
    return numbers
