"""Classifiers on features of profiles, everything fitted on the rows that they are given. N samples, F features.

Missing values to their column's mean, columns scaled to unit variance, PCA, components scaled, then a random forest
(the published protocol), logistic regression, the nearest samples, or a support vector machine. C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

from evaluation.inference.features import Features
from evaluation.scores.classification_scores import brier
from evaluation.search.nested import Choice, FitPredict, RowScore, Space

Head = Literal["random forest", "logistic regression", "nearest samples", "support vectors"]

# What can be chosen, the fixed setting first: components of PCA, and what the heads take.
_COMPONENTS = (50, 10, 20, 100, 200)
_INVERSE_PENALTIES = (1.0, 0.01, 0.1, 10.0)
_LEAVES = (1, 2, 5)
_NEIGHBOURS = (5, 1, 15, 30)
_CALIBRATION_FOLDS = 3
_SETTING_OF = {
    "random forest": "leaf",
    "logistic regression": "inverse_penalty",
    "nearest samples": "neighbours",
    "support vectors": "inverse_penalty",
}


@dataclass(frozen=True)
class Forest:
    """Trees, their greatest depth (None: any), and the seed of what is drawn for them."""

    trees: int
    depth: int | None
    seed: int


# The published heads: on principal components (2025), and on all features as they are (2026-10).
PUBLISHED_FOREST = Forest(trees=500, depth=16, seed=42)


def head_space(heads: Sequence[Head], components: int, poolings: Sequence[str] = ()) -> Space:
    """What a search may choose; head, components and pooling named first are those of the fixed setting.

    There is nothing to choose of a single pooling, or of features that have none.
    """
    others = [number for number in _COMPONENTS if number != components]
    return {
        **({"pooling": list(poolings)} if len(poolings) > 1 else {}),
        "head": list(heads),
        "components": [components, *others],
        "leaf": list(_LEAVES),
        "inverse_penalty": list(_INVERSE_PENALTIES),
        "neighbours": list(_NEIGHBOURS),
    }


def published_space(components: int | None) -> Space:
    """The published settings, of which there is nothing to choose; without components the features as they are."""
    return {"head": ["random forest"], "components": [components], "leaf": [2]}


def described_choice(choice: Choice) -> str:
    """The head with its own settings, as in "random forest on 50 components of mean, leaf 1"."""
    on = "all features" if choice["components"] is None else f"{choice['components']} components"
    on += f" of {choice['pooling']}" if "pooling" in choice else ""
    own = _SETTING_OF[choice["head"]]
    return f"{choice['head']} on {on}, {own.replace('_', ' ')} {choice[own]:g}"


def class_probabilities(features: Features, class_of: np.ndarray, forest: Forest, space: Space) -> FitPredict:
    """What fits a choice of a space on some rows and gives the probabilities n x C of others; ``class_of``: int [N]."""
    classes = int(class_of.max()) + 1
    most = max((number for number in space["components"] if number is not None), default=None)

    def fit_predict(choice: Choice, train: np.ndarray, test: np.ndarray) -> np.ndarray:
        known, probability = np.unique(class_of[train]), np.zeros((len(test), classes))
        if len(known) < 2:
            probability[:, known] = 1.0
            return probability
        reduced_train, reduced_test = features.reduced(
            choice.get("pooling"), choice["components"], train, test, forest.seed, most
        )
        if choice["head"] == "support vectors":
            rows = _of_enough_samples(class_of[train])
            train, reduced_train = train[rows], reduced_train[rows]
        head = _head(choice, class_of[train], forest).fit(reduced_train, class_of[train])
        if choice["head"] == "random forest":
            # threads add up trees in the order in which they end, and rounding would differ from run to run
            head.set_params(n_jobs=1)
        probability[:, head.classes_] = head.predict_proba(reduced_test)
        # those of float32 features sum to one only within its precision
        return probability / probability.sum(axis=1, keepdims=True)

    return fit_predict


def closeness(class_of: np.ndarray) -> RowScore:
    """What a search makes as large as it can: minus the Brier score of probabilities of some rows."""

    def score(probability: np.ndarray, rows: np.ndarray) -> float:
        return -brier(class_of[rows], probability)

    return score


def _head(choice: Choice, class_of: np.ndarray, forest: Forest) -> ClassifierMixin:
    if choice["head"] == "random forest":
        return RandomForestClassifier(
            forest.trees,
            max_depth=forest.depth,
            min_samples_leaf=choice["leaf"],
            random_state=forest.seed,
            n_jobs=-1,
        )
    if choice["head"] == "logistic regression":
        return LogisticRegression(C=choice["inverse_penalty"], max_iter=2000)
    if choice["head"] == "nearest samples":
        return KNeighborsClassifier(min(choice["neighbours"], len(class_of)), weights="distance")
    # its scores are no probabilities: a sigmoid on left-out training samples makes them so (Platt)
    folds = min(_CALIBRATION_FOLDS, int(np.bincount(class_of)[np.unique(class_of)].min()))
    return CalibratedClassifierCV(SVC(C=choice["inverse_penalty"]), cv=folds, ensemble=False)


def _of_enough_samples(class_of: np.ndarray) -> np.ndarray:
    """Positions of samples whose class has two, without which it cannot be calibrated; all where few have."""
    enough = np.flatnonzero(np.bincount(class_of)[class_of] >= 2)
    return enough if len(np.unique(class_of[enough])) >= 2 else np.arange(len(class_of))
