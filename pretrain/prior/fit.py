"""The linear prior of profiles that fit in memory: plain, and rectified at zero. N profiles, G genes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pretrain.model.linear_prior import LinearPrior, censored
from pretrain.prior.choice import Choice, HeldOut, choose
from pretrain.prior.folds import study_folds
from pretrain.prior.principal import PrincipalDirections, by_gene, fill_missing, principal_directions

# A gene's spread counts as if so many more values had had the mean spread: few profiles say little about a gene.
_PSEUDO_PROFILES = 10
# Without validation profiles rank and noise are chosen on so many folds of train, each predicted by the others.
_TRIED_FOLDS = 2
# Values predicted together, a bound on memory.
_ROWS = 256


@dataclass(frozen=True)
class Trial:
    """Profiles to choose rank and noise on, and the rows of the train profiles to fit on for that (None: all)."""

    fitted_on: np.ndarray | None
    held_out: HeldOut


@dataclass(frozen=True)
class FittedPrior:
    prior: LinearPrior
    choice: Choice


@dataclass(frozen=True)
class CompleteProfiles:
    """Profiles that a rectified prior is fitted on, float32 [N, G], and each gene's ``spread`` [G].

    Zeros are at their expectation below zero and missing values at their expectation, by fits without the profile's
    study.
    """

    values: np.ndarray
    spread: np.ndarray

    @property
    def scale(self) -> np.ndarray:
        """Weights of the genes: the inverse square root of their spread, halfway to that of factor analysis."""
        return self.spread**-0.5


def trials_of(
    expression_NG: np.ndarray,
    studies: np.ndarray,
    validation: HeldOut | None,
    mask_of: Callable[[np.ndarray], np.ndarray],
    at_most: int,
) -> tuple[list[Trial], str]:
    """What chooses rank and noise of fits on train profiles of the ``studies`` [N], and its name.

    ``validation``; without it folds of whole train studies, ``at_most`` profiles in all with the entries hidden that
    ``mask_of`` gives for chosen rows, predicted by fits without their fold.
    """
    if validation is not None:
        return [Trial(None, validation)], "validation"
    fold_N = study_folds(studies.tolist())
    folds = np.unique(fold_N)[:_TRIED_FOLDS]
    trials = []
    for fold in folds:
        own = np.flatnonzero(fold_N == fold)[: max(1, at_most // len(folds))]
        trials.append(Trial(np.flatnonzero(fold_N != fold), HeldOut.hiding(mask_of(own), expression_NG[own])))
    return trials, f"left-out {'studies' if len(np.unique(studies)) > 1 else 'profiles'} of train"


class LinearFits:
    """Linear priors of train profiles of the ``studies`` [N], each fitted once for however many ways of hiding genes.

    ``ranks``: numbers of components to try. Held are the priors of all components, of the largest rank: G x k floats
    each, two for each set of rows that trials fit on.
    """

    def __init__(self, expression_NG: np.ndarray, studies: np.ndarray, ranks: Sequence[int]) -> None:
        self._expression_NG = expression_NG
        self._studies = studies
        self._ranks = ranks
        self._plain: dict[bytes, LinearPrior] = {}
        self._rectified: dict[bytes, tuple[Choice, LinearPrior]] = {}

    def ppca(self, trials: Sequence[Trial]) -> FittedPrior:
        """Probabilistic PCA with rank and noise chosen on the trials; missing values are at their gene's mean."""
        return _with_the_best(self._ppca_of, trials, self._ranks)

    def rectified(self, trials: Sequence[Trial], first: Choice) -> FittedPrior:
        """The rectified prior (:class:`LinearPrior`), its rank and noise chosen on the trials.

        ``first``: what was chosen for :meth:`ppca`, with which left-out studies are predicted.
        """
        return _with_the_best(lambda rows: self._rectified_of(rows, first), trials, self._ranks)

    def _ppca_of(self, rows: np.ndarray | None) -> LinearPrior:
        key = _key(rows)
        if key not in self._plain:
            expression = self._expression_NG if rows is None else self._expression_NG[rows]
            self._plain[key] = _mean_filled_directions(expression, max(self._ranks)).prior(1.0)
        return self._plain[key]

    def _rectified_of(self, rows: np.ndarray | None, first: Choice) -> LinearPrior:
        key = _key(rows)
        made_with, prior = self._rectified.get(key, (None, None))
        if prior is None or made_with is None or (made_with.rank, made_with.noise) != (first.rank, first.noise):
            chosen = slice(None) if rows is None else rows
            complete = complete_profiles(self._expression_NG[chosen], self._studies[chosen], first)
            directions = principal_directions(complete.values, max(self._ranks), complete.scale)
            prior = directions.prior(1.0, spread=complete.spread)
            self._rectified[key] = first, prior
        return prior


def _key(rows: np.ndarray | None) -> bytes:
    return b"all" if rows is None else rows.tobytes()


def _with_the_best(
    fitted: Callable[[np.ndarray | None], LinearPrior], trials: Sequence[Trial], ranks: Sequence[int]
) -> FittedPrior:
    """The fit on all rows (None) with the rank and noise that serve best in the trials."""
    whole = fitted(None)
    tried = [(whole if trial.fitted_on is None else fitted(trial.fitted_on), trial.held_out) for trial in trials]
    choice = choose(tried, ranks)
    return FittedPrior(whole.narrowed(choice.rank, choice.noise), choice)


def complete_profiles(expression_NG: np.ndarray, studies: np.ndarray, choice: Choice) -> CompleteProfiles:
    """Complete profiles by what fits without their fold of studies expect of them (:func:`study_folds`)."""
    fold_N = study_folds(studies.tolist())
    expected_NG = np.empty(expression_NG.shape, np.float32)
    for fold in np.unique(fold_N):
        own = fold_N == fold
        prior = _mean_filled_directions(expression_NG[~own], choice.rank).prior(choice.noise)
        expected_NG[own] = predict_profiles(prior, expression_NG[own])
    spread_G = residual_spread(expected_NG, expression_NG)
    for start in range(0, len(expected_NG), _ROWS):
        rows = slice(start, start + _ROWS)
        expected, values, spread = (
            torch.from_numpy(part.astype(np.float32)) for part in (expected_NG[rows], expression_NG[rows], spread_G)
        )
        expected_NG[rows] = completed(expected, values, spread).numpy()
    return CompleteProfiles(expected_NG, spread_G)


def completed(expected: torch.Tensor, values: torch.Tensor, spread: torch.Tensor) -> torch.Tensor:
    """Values as they are where they are above zero; else what is expected, below zero where zero was observed."""
    return torch.where(values.isnan(), expected, torch.where(values == 0, censored(expected, spread), values))


def residual_spread(expected_NG: np.ndarray, expression_NG: np.ndarray) -> np.ndarray:
    """Root mean square of observed minus expected, float64 [G], drawn towards that of all genes together."""
    squared_G, count_G = np.zeros(expression_NG.shape[1]), np.zeros(expression_NG.shape[1])
    for start in range(0, len(expected_NG), _ROWS):
        rows = slice(start, start + _ROWS)
        difference = expression_NG[rows].astype(np.float64) - expected_NG[rows]
        squared_G += np.nansum(difference**2, axis=0)
        count_G += np.isfinite(difference).sum(axis=0)
    return spread_of_sums(squared_G, count_G)


def spread_of_sums(squared_G: np.ndarray, count_G: np.ndarray) -> np.ndarray:
    overall = max(float(squared_G.sum()) / max(1.0, float(count_G.sum())), 1e-12)
    return np.sqrt((squared_G + _PSEUDO_PROFILES * overall) / (count_G + _PSEUDO_PROFILES))


def predict_profiles(prior: LinearPrior, expression_NG: np.ndarray) -> np.ndarray:
    """What the prior expects of profiles, float32 [N, G].

    One system is built for each pattern of measured genes, of which a source has few.
    """
    measured_NG = np.isfinite(expression_NG)
    rows_of: dict[bytes, list[int]] = {}
    for row, pattern in enumerate(np.packbits(measured_NG, axis=1)):
        rows_of.setdefault(pattern.tobytes(), []).append(row)
    expected_NG = np.empty(expression_NG.shape, np.float32)
    for rows in rows_of.values():
        gram_1kk = prior.observed_gram(torch.from_numpy(measured_NG[rows[:1]]))
        for start in range(0, len(rows), _ROWS):
            part = rows[start : start + _ROWS]
            values = torch.from_numpy(expression_NG[part].astype(np.float32))
            expected_NG[part] = prior.condition(values, gram_1kk).numpy()
    return expected_NG


def _mean_filled_directions(expression_NG: np.ndarray, rank: int) -> PrincipalDirections:
    return principal_directions(fill_missing(expression_NG, by_gene(np.nanmean, expression_NG)), rank)
