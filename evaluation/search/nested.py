"""Nested cross-validation: settings are chosen inside the training part of each fold, and scored on what it left out.

N rows (profiles, or pairs of a profile and a drug); predictions have one row for each, of any further shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.scores.folds import Folds

# The values of one trial, by name.
Choice = Mapping[str, Any]
# Values to choose from, by name; the first of each is what is used without a search.
Space = Mapping[str, Sequence[Any]]
# (choice, rows to fit on [n], rows to predict [m]) -> predictions [m, ...]
FitPredict = Callable[[Choice, np.ndarray, np.ndarray], np.ndarray]
# (predictions [m, ...], their rows [m]) -> a score, the larger the better; NaN where it is not defined
RowScore = Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class OutOfFold:
    """Predictions [N, ...] of rows by models that have not seen their fold, and the choice made for each fold.

    Rows that no fold tests are NaN.
    """

    predictions: np.ndarray
    choices: Sequence[Choice]


def first_choice(space: Space) -> Choice:
    """What is used without a search."""
    return {name: values[0] for name, values in space.items()}


def nested_predictions(folds: Folds, space: Space, fit_predict: FitPredict) -> OutOfFold:
    """Out-of-fold predictions with the first choice of every setting."""
    choice = first_choice(space)
    predictions: np.ndarray | None = None
    for train, test in folds.parts:
        predicted = np.asarray(fit_predict(choice, train, test))
        if predictions is None:
            predictions = np.full((folds.rows, *predicted.shape[1:]), np.nan)
        predictions[test] = predicted
    assert predictions is not None, "folds without parts"
    return OutOfFold(predictions, [choice] * len(folds.parts))
