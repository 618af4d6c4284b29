"""Out-of-fold predictions for pairs of a cell line and a target, method by method. N pairs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dataprep.runtime.terminal import log
from evaluation.scores.folds import Folds
from evaluation.search.nested import FitPredict, Space, nested_predictions


def out_of_fold(methods: Mapping[str, tuple[FitPredict, Space]], folds: Folds) -> dict[str, np.ndarray]:
    """Predictions of every pair, float64 [N], by methods that have not seen its fold."""
    found = {}
    for number, (name, (fit_predict, space)) in enumerate(methods.items()):
        log(f"{name}: fitting {len(folds.parts)} folds, method {number + 1} of {len(methods)}")
        found[name] = nested_predictions(folds, space, fit_predict).predictions
    return found
