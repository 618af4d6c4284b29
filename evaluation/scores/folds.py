"""Folds that keep groups whole: studies, patients, cohorts, cell lines. N rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dataprep.runtime.command_line import UserError


@dataclass(frozen=True)
class Folds:
    """Positions of rows to fit on and to test on, of each fold; every row is tested at most once.

    ``groups``: str [N], what was kept whole, also inside the training part; ``described``: for people who read results.
    """

    rows: int
    parts: Sequence[tuple[np.ndarray, np.ndarray]]
    groups: np.ndarray
    described: str


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
    if classes is None or count == len(names):
        splitter = GroupKFold(count, shuffle=True, random_state=seed)
    else:
        splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    empty = np.zeros((len(groups), 1))
    parts = [(train, test) for train, test in splitter.split(empty, classes, groups) if len(test)]
    kind = f"each of {count} groups left out once" if count == len(names) else f"{count} folds of whole groups"
    return Folds(len(groups), parts, np.asarray(groups, dtype=str), kind)
