"""Folds of whole studies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

FOLDS = 5


def study_folds(studies: Sequence[str], folds: int = FOLDS) -> np.ndarray:
    """The fold of each profile, int64 [N]: studies stay whole, and folds have about as many profiles each.

    At most one fold for each study. Of profiles that are all of one study, every fold gets some: nothing is left out
    otherwise. The folds depend on the studies' names and sizes alone.
    """
    sizes = Counter(studies)
    if len(sizes) < 2:
        return np.arange(len(studies)) % min(folds, max(1, len(studies)))
    filled = [0] * min(folds, len(sizes))
    fold_of: dict[str, int] = {}
    for study in sorted(sizes, key=lambda study: (-sizes[study], study)):
        fold_of[study] = filled.index(min(filled))
        filled[fold_of[study]] += sizes[study]
    return np.array([fold_of[study] for study in studies], np.int64)
