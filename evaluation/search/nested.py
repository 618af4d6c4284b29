"""Nested cross-validation: settings are chosen inside the training part of each fold, and scored on what it left out.

The seam between tasks and whatever searches. A task describes one method and asks for its out-of-fold predictions::

    outcome = context.search.predictions("tissue: embedding -> forest", folds, space, fit_predict, score)

``subject`` names the method, differently from every other in the evaluation; ``space`` has the values to choose from,
the first of each being the fixed setting; ``fit_predict`` fits on some rows and predicts others; ``score`` says how
good predictions of some rows are. With a search, ``fit_predict`` and ``score`` run in other processes: they are
functions of arrays that they hold (and do not write to), never of the task or its context, and draw random numbers from
seeds of their own, so that the same choice gives the same predictions.

N rows (profiles, or pairs of a profile and a drug); predictions have one row for each, of any further shape.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.scores.folds import Folds

# The values of one trial, by name.
Choice = Mapping[str, Any]
# Values to choose from (numbers, words, booleans), by name; the first of each is what is used without a search.
Space = Mapping[str, Sequence[Any]]
# (choice, rows to fit on [n], rows to predict [m]) -> predictions [m, ...]
FitPredict = Callable[[Choice, np.ndarray, np.ndarray], np.ndarray]
# (predictions [m, ...], their rows [m]) -> a score, the larger the better; NaN where it is not defined
RowScore = Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class Asked:
    """One method to be searched, as :meth:`Search.predictions` is given it."""

    subject: str
    folds: Folds
    space: Space
    fit_predict: FitPredict
    score: RowScore


@dataclass(frozen=True)
class OutOfFold:
    """Predictions [N, ...] of rows by models that have not seen their fold, and the choice made for each fold.

    Rows that no fold tests are NaN. ``described``: how the choices were made, for people who read results.
    """

    predictions: np.ndarray
    choices: Sequence[Choice]
    described: str = "fixed settings"


class Search(ABC):
    """What chooses settings for the methods of an evaluation."""

    def narrowed(self, space: Space) -> Space:
        """What of a space may be chosen."""
        return space

    @abstractmethod
    def predictions(
        self, subject: str, folds: Folds, space: Space, fit_predict: FitPredict, score: RowScore
    ) -> OutOfFold:
        """Out-of-fold predictions of one method, its settings chosen for each fold in the fold's training rows."""

    def predictions_of_all(self, asked: Sequence[Asked]) -> list[OutOfFold]:
        """As :meth:`predictions` for each of several methods, which are searched side by side where that is cheaper."""
        return [self.predictions(one.subject, one.folds, one.space, one.fit_predict, one.score) for one in asked]


class FixedSettings(Search):
    """No search: the first value of every setting."""

    def narrowed(self, space: Space) -> Space:
        """Of every setting the first value."""
        return {name: values[:1] for name, values in space.items()}

    def predictions(
        self, subject: str, folds: Folds, space: Space, fit_predict: FitPredict, score: RowScore
    ) -> OutOfFold:
        return nested_predictions(folds, space, fit_predict)


def first_choice(space: Space) -> Choice:
    """What is used without a search."""
    return {name: values[0] for name, values in space.items()}


def nested_predictions(folds: Folds, space: Space, fit_predict: FitPredict) -> OutOfFold:
    """Out-of-fold predictions with the first choice of every setting."""
    choice = first_choice(space)
    predicted = [fit_predict(choice, train, test) for train, test in folds.parts]
    return OutOfFold(out_of_fold(folds, predicted), [choice] * len(folds.parts))


def out_of_fold(folds: Folds, predicted: Sequence[np.ndarray]) -> np.ndarray:
    """Predictions [N, ...] from those of each fold's test rows."""
    assert predicted, "folds without parts"
    predictions = np.full((folds.rows, *np.shape(predicted[0])[1:]), np.nan)
    for (_, test), values in zip(folds.parts, predicted, strict=True):
        predictions[test] = values
    return predictions
