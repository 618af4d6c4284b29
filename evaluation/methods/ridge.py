"""Ridge regressions in closed form, one for each target, with one penalty for all that leave-one-out chooses.

n profiles to fit on, m to predict, K features, T targets (drugs, genes) of which not every profile has a value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

# Of features that add up to a variance of 1 for a profile.
PENALTIES = tuple(float(penalty) for penalty in np.logspace(-3, 3, 13))
_FEWEST_VALUES = 3


@dataclass(frozen=True)
class _Spectrum:
    """The singular value decomposition of centred features, and the centred values of some targets in its terms."""

    features_mean: np.ndarray
    left: np.ndarray
    singular: np.ndarray
    right: np.ndarray
    values_mean: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, features_nK: np.ndarray, values_nT: np.ndarray) -> _Spectrum:
        mean, values_mean = features_nK.mean(axis=0), values_nT.mean(axis=0)
        left, singular, right = np.linalg.svd(features_nK - mean, full_matrices=False)
        return cls(mean, left, singular, right, values_mean, values_nT - values_mean)

    def left_out_error(self, penalty: float) -> float:
        """Sum of squared errors of each profile by the fit to the others (the PRESS of ridge regression)."""
        shrink = self.singular**2 / (self.singular**2 + penalty)
        fitted = self.left @ (shrink[:, None] * (self.left.T @ self.values))
        leverage = (self.left**2 @ shrink) + 1 / len(self.values)
        return float((((self.values - fitted) / np.maximum(1 - leverage, 1e-6)[:, None]) ** 2).sum())

    def predict(self, features_mK: np.ndarray, penalty: float) -> np.ndarray:
        gain = self.singular / (self.singular**2 + penalty)
        coefficients = self.right.T @ (gain[:, None] * (self.left.T @ self.values))
        return self.values_mean + (features_mK - self.features_mean) @ coefficients


def ridge_per_target(
    features_nK: np.ndarray, values_nT: np.ndarray, features_mK: np.ndarray, penalties: Sequence[float] = PENALTIES
) -> np.ndarray:
    """Predictions, float64 [m, T]; targets that the same profiles were measured for share one decomposition.

    ``values_nT`` is NaN where not measured. A target with fewer than three values gets their mean, one without any
    the mean of all.
    """
    parts = list(_by_pattern(values_nT))
    spectra = [_Spectrum.of(features_nK[rows], values_nT[np.ix_(rows, targets)]) for rows, targets in parts]
    predicted = np.tile(means_of_targets(values_nT), (len(features_mK), 1))
    if spectra:
        penalty = best_penalty(spectra, penalties)
        for (_, targets), spectrum in zip(parts, spectra, strict=True):
            predicted[:, targets] = spectrum.predict(features_mK, penalty)
    return predicted


def ridge_with_own_features(
    features_of: Callable[[int], np.ndarray],
    values_LT: np.ndarray,
    choose_on: int,
    penalties: Sequence[float] = PENALTIES,
) -> np.ndarray:
    """Predictions for all L profiles, float64 [L, T], where each target has features of its own.

    ``features_of`` a target: [L, K]; those of the profiles with a value are made to add up to a variance of 1.
    The penalty is chosen on the first ``choose_on`` targets.
    """
    fitted = [target for target in range(values_LT.shape[1]) if _enough(values_LT[:, target])]

    def spectrum(target: int) -> tuple[np.ndarray, _Spectrum]:
        rows = np.isfinite(values_LT[:, target])
        features = scaled_by(rows, features_of(target))
        return features, _Spectrum.of(features[rows], values_LT[rows, target][:, None])

    predicted = np.tile(means_of_targets(values_LT), (len(values_LT), 1))
    if fitted:
        penalty = best_penalty((spectrum(target)[1] for target in fitted[:choose_on]), penalties)
        for target in fitted:
            features, of_target = spectrum(target)
            predicted[:, target] = of_target.predict(features, penalty)[:, 0]
    return predicted


def scaled_by(rows: np.ndarray, features_LK: np.ndarray) -> np.ndarray:
    """Features centred and scaled by those of ``rows`` (bool [L]): each to a variance of 1 / K. Missing is the mean."""
    known = np.asarray(features_LK, np.float64)
    measured = np.isfinite(known)
    own = measured & rows[:, None]
    count = np.maximum(own.sum(axis=0), 1)
    mean = np.where(own, known, 0).sum(axis=0) / count
    centred = np.where(measured, known - mean, 0.0)
    deviation = np.sqrt((np.where(own, centred, 0) ** 2).sum(axis=0) / count)
    varies = deviation > 1e-9 * np.maximum(1, np.abs(mean))
    return np.where(varies, centred / np.where(varies, deviation, 1), 0.0) / np.sqrt(known.shape[1])


def means_of_targets(values_nT: np.ndarray) -> np.ndarray:
    """Mean of each target, float64 [T]; of one without values, the mean of all."""
    measured = np.isfinite(values_nT)
    counts = measured.sum(axis=0)
    sums = np.where(measured, values_nT, 0).sum(axis=0)
    everything = sums.sum() / max(1, counts.sum())
    return np.divide(sums, counts, out=np.full(len(counts), everything), where=counts > 0)


def means_to_add_to(values_nT: np.ndarray, unseen_targets: bool) -> np.ndarray:
    """What a head of all targets predicts the rest of, float64 [T]: their means, or one mean where targets are new."""
    if unseen_targets:
        return np.full(values_nT.shape[1], np.nanmean(values_nT))
    return means_of_targets(values_nT)


def best_penalty(spectra: Iterable[_Spectrum], penalties: Sequence[float]) -> float:
    """The penalty with the smallest error of left-out profiles, over all targets."""
    errors = np.zeros(len(penalties))
    for spectrum in spectra:
        errors += [spectrum.left_out_error(penalty) for penalty in penalties]
    return penalties[int(errors.argmin())]


def _enough(values: np.ndarray) -> bool:
    return int(np.isfinite(values).sum()) >= _FEWEST_VALUES


def _by_pattern(values_nT: np.ndarray) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """Rows and targets of each pattern of missing values, without targets that have too few."""
    patterns, pattern_of = np.unique(np.isfinite(values_nT), axis=1, return_inverse=True)
    for number, measured in enumerate(patterns.T):
        if measured.sum() >= _FEWEST_VALUES:
            yield np.flatnonzero(measured), np.flatnonzero(pattern_of.ravel() == number)
