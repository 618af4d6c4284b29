"""Folds of pairs of a cell line and a target: new lines, new targets, both, or new pairs of known ones. N pairs."""

from __future__ import annotations

from typing import Literal

import numpy as np

from evaluation.scores.folds import Folds, group_folds


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
