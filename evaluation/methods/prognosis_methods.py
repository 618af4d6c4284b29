"""What prognosis compares: sources of features, each with two heads, and Kaplan-Meier. N profiles, T times."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from evaluation.inference.features import Features
from evaluation.inference.patient_features import Covariates, PatientFeatures
from evaluation.methods.survival import Cox, Forecast, Head, SurvivalForest, kaplan_meier
from evaluation.scores.folds import Folds
from evaluation.scores.survival import Outcome, harrell
from evaluation.search.nested import Asked, Choice, Space, nested_predictions

CLINICAL = "clinical covariates"


@dataclass(frozen=True)
class Method:
    """``features`` given to the ``head`` that a choice from the ``space`` makes; without features, for Kaplan-Meier.

    ``baseline``: needs no pretrained model.
    """

    features: PatientFeatures | None
    head: Callable[[Choice], Head]
    space: Space
    baseline: bool


@dataclass(frozen=True)
class HeadSpaces:
    """Settings of each head to choose from, the first being the fixed one."""

    cox: Space
    forest: Space
    trees: int

    @property
    def most_components(self) -> int:
        """The largest number of principal components that can be chosen."""
        return max(*self.cox["components"], *self.forest["components"])

    def heads(self, seed: int) -> dict[str, tuple[Callable[[Choice], Head], Space]]:
        """How to make each head, by name."""
        return {
            "Cox": (lambda choice: Cox(choice["penalizer"], choice["l1_ratio"]), self.cox),
            "survival forest": (lambda choice: SurvivalForest(self.trees, choice["leaf"], seed), self.forest),
        }


def methods_of(
    embeddings: Mapping[str, np.ndarray],
    raw: Mapping[str, np.ndarray],
    covariates: Covariates,
    spaces: HeadSpaces,
    seed: int,
) -> dict[str, Method]:
    """Methods by name: each of ``embeddings`` and ``raw`` (float32 N x F) alone and with covariates; these alone."""
    sources: dict[str, tuple[PatientFeatures, bool]] = {}
    for profiles, baseline in ((embeddings, False), (raw, True)):
        for name, values in profiles.items():
            features = PatientFeatures(Features.of(values), None, spaces.most_components, seed)
            sources[name] = features, baseline
            if covariates.names:
                sources[f"{name} + {CLINICAL}"] = features.with_covariates(covariates), baseline
    if covariates.names:
        sources[CLINICAL] = PatientFeatures(None, covariates, spaces.most_components, seed), True
    methods = {
        f"{source} -> {head}": Method(features, make, space, baseline)
        for source, (features, baseline) in sources.items()
        for head, (make, space) in spaces.heads(seed).items()
    }
    return methods | {"Kaplan-Meier": Method(None, lambda choice: kaplan_meier, {}, True)}


def asked_forecast(subject: str, method: Method, outcome: Outcome, folds: Folds, times: np.ndarray) -> Asked:
    """For packed forecasts of all rows at ``times`` [T], with the choice that has the largest concordance in studies.

    Everything is fitted inside the training parts.
    """

    def fit_predict(choice: Choice, train: np.ndarray, test: np.ndarray) -> np.ndarray:
        if method.features is None:
            fitted, new = np.empty((len(train), 0)), np.empty((len(test), 0))
        else:
            fitted, new = method.features.split(train, test, choice["components"])
        return method.head(choice)(fitted, outcome.rows(train), new, times).packed()

    def concordance(packed: np.ndarray, rows: np.ndarray) -> float:
        return harrell(outcome.rows(rows), Forecast.unpacked(packed).risk)(np.arange(len(rows)))

    return Asked(subject, folds, method.space, fit_predict, concordance)


def event_probability(
    values_NF: np.ndarray, event: np.ndarray, folds: Folds, components: int, trees: int, seed: int
) -> np.ndarray:
    """Out-of-fold probability [N] of the event, as published: PCA, then a random forest, whatever the follow-up."""

    def fit_predict(choice: Choice, train: np.ndarray, test: np.ndarray) -> np.ndarray:
        steps = make_pipeline(
            SimpleImputer(keep_empty_features=True),
            StandardScaler(),
            PCA(min(components, len(train) - 1, values_NF.shape[1]), svd_solver="randomized", random_state=seed),
            RandomForestClassifier(trees, random_state=seed, n_jobs=-1),
        )
        steps.fit(values_NF[train], event[train])
        # threads add up trees in the order in which they end, and rounding would differ from run to run
        steps[-1].set_params(n_jobs=1)
        return steps.predict_proba(values_NF[test])[:, 1]

    return nested_predictions(folds, {}, fit_predict).predictions
