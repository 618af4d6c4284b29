"""Heads for right-censored outcomes: Cox regression, a random survival forest, and Kaplan-Meier. N rows, F features.

Both regressions look for what orders patients of one study: baseline hazards are those of the studies. Survival curves
are calibrated on all studies of the training part, since those of an unseen study are not known.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from lifelines import KaplanMeierFitter
from scipy.sparse import csr_array
from sklearn.ensemble import RandomForestRegressor

from evaluation.methods.lifelines_internals import cox_coefficients
from evaluation.scores.survival import Outcome

# A column that varies less is constant but for rounding.
_LEAST_SPREAD = 1e-9


@dataclass(frozen=True)
class Forecast:
    """Of m patients: ``risk`` [m], the larger the worse, less that of the training part so that folds are alike;
    ``high`` [m]: over the median risk of the training part; ``survival`` [m, T]: at the times asked for."""

    risk: np.ndarray
    high: np.ndarray
    survival: np.ndarray

    def packed(self) -> np.ndarray:
        """m x (2 + T): one row for each that was predicted."""
        return np.column_stack([self.risk, self.high, self.survival])

    @classmethod
    def unpacked(cls, packed: np.ndarray) -> Forecast:
        return cls(packed[:, 0], packed[:, 1] > 0, packed[:, 2:])


# (features to fit on n x F, what happened to them, features to predict for m x F, times [T]) -> a forecast
Head = Callable[[np.ndarray, Outcome, np.ndarray, np.ndarray], Forecast]


@dataclass(frozen=True)
class Cox:
    """Cox regression stratified by study, with a ridge (``l1_ratio`` 0) or elastic-net penalty."""

    penalizer: float
    l1_ratio: float = 0.0

    def __call__(self, fit_NF: np.ndarray, outcome: Outcome, new_MF: np.ndarray, times: np.ndarray) -> Forecast:
        """Survival curves are Breslow's: exp(-H0(t) exp(risk)), with H0 of all studies together."""
        varying = fit_NF.std(axis=0) > _LEAST_SPREAD
        slopes = np.zeros(fit_NF.shape[1])
        if varying.any():
            with warnings.catch_warnings():
                # covariates that hardly vary, or that tell a small study's deaths: the penalty is there for them
                warnings.simplefilter("ignore")
                slopes[varying] = cox_coefficients(
                    fit_NF[:, varying], outcome.time, outcome.event, outcome.strata, self.penalizer, self.l1_ratio
                )
        fitted = (fit_NF - fit_NF.mean(axis=0)) @ slopes
        risk = (new_MF - fit_NF.mean(axis=0)) @ slopes
        hazard = _breslow(outcome, fitted, times)
        return Forecast(risk, risk > np.median(fitted), np.exp(-hazard[None] * np.exp(risk)[:, None]))


@dataclass(frozen=True)
class SurvivalForest:
    """A random survival forest with log-rank score splits, of scikit-learn's trees.

    Trees are regression trees of log-rank scores, ``event - cumulative hazard at its time`` within each study (the
    scores of Hothorn and Lausen 2003, Computational Statistics & Data Analysis 43:121; one of the splitting rules of
    Ishwaran et al. 2008, Annals of Applied Statistics 2:841, there computed anew in each node). Their mean in the
    leaves is the risk; the survival curve is the Nelson-Aalen estimate over the training rows that share leaves with a
    profile, each with the share of trees in which it does (forest weights, Meinshausen 2006, JMLR 7:983).
    """

    trees: int
    leaf: int
    seed: int

    def __call__(self, fit_NF: np.ndarray, outcome: Outcome, new_MF: np.ndarray, times: np.ndarray) -> Forecast:
        scores = log_rank_scores(outcome)
        forest = RandomForestRegressor(
            self.trees,
            min_samples_leaf=self.leaf,
            max_features="sqrt",
            oob_score=len(fit_NF) > 1,
            random_state=self.seed,
            n_jobs=-1,
        )
        forest.fit(fit_NF, scores)
        # threads add up trees in the order in which they end, and rounding would differ from run to run
        forest.set_params(n_jobs=1)
        out_of_bag = forest.oob_prediction_
        risk = forest.predict(new_MF) - out_of_bag.mean()
        weights_MN = _forest_weights(forest.apply(new_MF), forest.apply(fit_NF))
        high = risk > np.median(out_of_bag) - out_of_bag.mean()
        return Forecast(risk, high, np.exp(-_weighted_hazard(weights_MN, outcome, times)))


def kaplan_meier(fit_NF: np.ndarray, outcome: Outcome, new_MF: np.ndarray, times: np.ndarray) -> Forecast:
    """The same curve for everybody: what can be said without looking at a patient."""
    curve = KaplanMeierFitter().fit(outcome.time, outcome.event).predict(times).to_numpy()
    nobody = np.zeros(len(new_MF))
    return Forecast(nobody, nobody > 0, np.tile(curve, (len(new_MF), 1)))


def log_rank_scores(outcome: Outcome) -> np.ndarray:
    """Event minus the Nelson-Aalen cumulative hazard of the row's study at its time [N]; they add up to 0 in a study.

    They are the martingale residuals of a Cox model without covariates, stratified by study.
    """
    scores = np.zeros(len(outcome.time))
    for rows in outcome.members():
        study = outcome.rows(rows)
        everybody = np.ones((1, len(rows)))
        scores[rows] = study.event - _weighted_hazard(everybody, study, study.time)[0]
    return scores


def _breslow(outcome: Outcome, risk: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Cumulative baseline hazard [T] (Breslow 1972): deaths over the summed exp(risk) of those at risk."""
    weights = np.exp(risk)[None]
    return _hazard(outcome, np.ones_like(weights), weights, times)[0]


def _weighted_hazard(weights_MN: np.ndarray, outcome: Outcome, times: np.ndarray) -> np.ndarray:
    """Nelson-Aalen cumulative hazards M x T of training rows that count as often as ``weights_MN`` says."""
    return _hazard(outcome, weights_MN, weights_MN, times)


def _hazard(outcome: Outcome, deaths_MN: np.ndarray, risk_MN: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Sums over death times u <= t of weighted deaths at u over the weights of those at risk at u."""
    moments, moment_of = np.unique(outcome.time[outcome.event], return_inverse=True)
    happens = np.zeros((int(outcome.event.sum()), len(moments)))
    happens[np.arange(len(moment_of)), moment_of] = 1
    deaths = deaths_MN[:, outcome.event] @ happens
    at_risk = risk_MN @ (outcome.time[:, None] >= moments[None])
    steps = np.divide(deaths, at_risk, out=np.zeros_like(deaths), where=at_risk > 0)
    return steps @ (moments[:, None] <= times[None])


def _forest_weights(new_leaves: np.ndarray, fit_leaves: np.ndarray) -> np.ndarray:
    """M x N, rows adding up to 1, from the leaves (rows x trees) of both."""
    trees = new_leaves.shape[1]
    # every leaf of every tree is a column
    first = np.concatenate([[0], np.cumsum(fit_leaves.max(axis=0) + 1)])
    new, fitted = (_leaf_table(leaves + first[:-1], int(first[-1])) for leaves in (new_leaves, fit_leaves))
    size = fitted.sum(axis=0)
    shares = fitted.multiply(1 / np.maximum(size, 1)[None]).tocsr()
    weights: np.ndarray = (new @ shares.T).toarray()
    return weights / trees


def _leaf_table(columns: np.ndarray, width: int) -> csr_array:
    """Rows x ``width``: 1 at each of a row's ``columns`` (rows x trees), of which each tree has its own."""
    rows, trees = columns.shape
    ends = np.arange(rows + 1) * trees
    return csr_array((np.ones(rows * trees), columns.ravel(), ends), shape=(rows, width))
