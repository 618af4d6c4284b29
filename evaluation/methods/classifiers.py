"""Classifiers on features of profiles, cross-validated with everything fitted inside the training folds.

Missing values to their column's mean, columns scaled to unit variance, PCA, components scaled, then a random forest
(the published protocol) or logistic regression. N samples, F features, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from dataprep.runtime.command_line import UserError
from evaluation.inference.labels import LabelledProfiles

Grouping = Literal["auto", "study", "none"]


@dataclass(frozen=True)
class Folds:
    """Train and test positions of each fold, and whether studies stay whole."""

    parts: list[tuple[np.ndarray, np.ndarray]]
    by_study: bool

    @property
    def described(self) -> str:
        kind = "grouped by study" if self.by_study else "stratified; folds share studies, so batch effects can help"
        return f"{len(self.parts)} folds, {kind}"

    @property
    def test_share(self) -> float:
        """Profiles tested over profiles trained on, of all folds together."""
        return sum(len(test) for _, test in self.parts) / sum(len(train) for train, _ in self.parts)


def make_folds(labelled: LabelledProfiles, wanted: int, grouping: Grouping, seed: int) -> Folds:
    """Stratified folds: ``wanted``, as the smallest class allows or, by study, as its studies allow.

    Within one study a batch effect can tell classes apart, so studies stay whole where every class comes from at
    least two. Raises UserError where that is asked for and cannot be.
    """
    studies_of_class = [len(set(labelled.studies[labelled.class_of == c])) for c in range(len(labelled.classes))]
    if grouping == "study" and min(studies_of_class) < 2:
        lone = [labelled.classes[c] for c, studies in enumerate(studies_of_class) if studies < 2]
        raise UserError(
            f"label {labelled.label!r} cannot be split by study: {len(lone)} classes are of one study, e.g. {lone[0]}"
        )
    by_study = grouping != "none" and min(studies_of_class) >= 2
    limit = min(studies_of_class) if by_study else int(np.bincount(labelled.class_of).min())
    kind = StratifiedGroupKFold if by_study else StratifiedKFold
    splitter = kind(min(wanted, limit), shuffle=True, random_state=seed)
    groups = labelled.studies if by_study else None
    parts = list(splitter.split(np.zeros(len(labelled.class_of)), labelled.class_of, groups))
    # a fold may leave no example of a class to learn from, or nothing to test on: it can say nothing
    classes = len(labelled.classes)
    usable = [(a, b) for a, b in parts if len(b) and len(np.unique(labelled.class_of[a])) == classes]
    if not usable:
        raise UserError(
            f"label {labelled.label!r}: no fold by study holds every class; use --classification.grouping none"
        )
    return Folds(usable, by_study)


def cross_validate(
    labelled: LabelledProfiles, values_NF: np.ndarray, folds: Folds, components: int, trees: int, seed: int
) -> dict[str, list[dict[str, float]]]:
    """Scores of every fold by classifier. PCA is fitted once per fold, for both classifiers."""
    scores: dict[str, list[dict[str, float]]] = {name: [] for name in _classifiers(trees, seed)}
    for train, test in folds.parts:
        reduction = _reduction(min(components, len(train) - 1, values_NF.shape[1]), seed)
        reduced_train = reduction.fit_transform(values_NF[train])
        reduced_test = reduction.transform(values_NF[test])
        for name, classifier in _classifiers(trees, seed).items():
            classifier.fit(reduced_train, labelled.class_of[train])
            probability = _all_classes(classifier, reduced_test, len(labelled.classes))
            predicted = probability.argmax(axis=1)
            scores[name].append(classification_scores(labelled.class_of[test], predicted, probability))
    return scores


def classification_scores(truth: np.ndarray, predicted: np.ndarray, probability: np.ndarray) -> dict[str, float]:
    """Scores of one fold.

    ``truth`` and ``predicted``: class numbers [N]; ``probability``: N x C. AUROC and AUPRC only for two classes, of
    which class 1 is the positive one; NaN where the fold holds one class only.
    """
    scores = {
        "weighted_f1": float(f1_score(truth, predicted, average="weighted", zero_division=0)),
        "macro_f1": float(f1_score(truth, predicted, average="macro", zero_division=0)),
        "accuracy": float(accuracy_score(truth, predicted)),
    }
    if probability.shape[1] == 2:
        both = len(np.unique(truth)) == 2
        scores["auroc"] = float(roc_auc_score(truth, probability[:, 1])) if both else float("nan")
        scores["auprc"] = float(average_precision_score(truth, probability[:, 1])) if both else float("nan")
    return scores


def _reduction(components: int, seed: int) -> Pipeline:
    return make_pipeline(
        SimpleImputer(keep_empty_features=True),
        StandardScaler(),
        PCA(components, svd_solver="randomized", random_state=seed),
        StandardScaler(),
    )


def _classifiers(trees: int, seed: int) -> dict[str, ClassifierMixin]:
    return {
        "random forest": RandomForestClassifier(trees, random_state=seed, n_jobs=-1),
        "logistic regression": LogisticRegression(max_iter=2000),
    }


def _all_classes(classifier: ClassifierMixin, values: np.ndarray, classes: int) -> np.ndarray:
    """Probabilities N x C, also for classes the classifier has not seen."""
    probability = np.zeros((len(values), classes))
    probability[:, classifier.classes_] = classifier.predict_proba(values)
    return probability
