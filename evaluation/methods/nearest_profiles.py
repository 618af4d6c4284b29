"""Two more simple reconstructions: the mean of the nearest train profiles, and ridge regression from masked profiles.

N train profiles, G genes, B profiles to predict; expression is log1p(TPM), NaN where hidden or not measured. Their one
setting each is chosen on the trials of :mod:`pretrain.prior.fit`, as rank and noise of the linear models are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dataprep.runtime.terminal import log
from pretrain.prior.fit import Trial
from pretrain.prior.principal import by_gene

NEIGHBOURS = (1, 3, 5, 10, 20, 50)
# Penalties, as shares of the mean eigenvalue of the train profiles' products.
PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
# Train profiles widened to float32 together, a bound on memory.
_ROWS = 256

Predictor = Callable[[np.ndarray], np.ndarray]
# float32 B x G, NaN where hidden, and values of the one setting -> a prediction B x G for each of them
Predictions = Callable[[np.ndarray, Sequence[float]], Iterator[np.ndarray]]
# Which entries [n, G] of the train profiles at some rows are hidden where something is learned from hiding them.
MaskOf = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class NearestProfiles:
    """Train profiles, float16 [N, G], and each gene's mean [G]."""

    expression: np.ndarray
    means: np.ndarray

    @classmethod
    def fit(cls, expression_NG: np.ndarray) -> NearestProfiles:
        return cls(expression_NG, by_gene(np.nanmean, expression_NG))

    def predictions(self, expression_BG: np.ndarray, neighbours: Sequence[float]) -> Iterator[np.ndarray]:
        """For each number of neighbours the mean of the nearest, float32 B x G; distances are computed once.

        They are mean squared differences over genes that both measure. A gene that none of the nearest measures is at
        its mean.
        """
        order = self._distances(expression_BG).argsort(axis=1)
        for number in neighbours:
            predicted = np.empty(expression_BG.shape, np.float32)
            for row, nearest in zip(predicted, order[:, : int(number)], strict=True):
                values = self.expression[nearest].astype(np.float32)
                count = np.isfinite(values).sum(axis=0)
                row[:] = np.where(count > 0, np.nansum(values, axis=0) / np.maximum(count, 1), self.means)
            yield predicted

    def _distances(self, expression_BG: np.ndarray) -> np.ndarray:
        seen = np.isfinite(expression_BG).astype(np.float32)
        values = np.nan_to_num(expression_BG.astype(np.float32))
        squares = values**2
        parts = []
        for start in range(0, len(self.expression), _ROWS):
            rows = self.expression[start : start + _ROWS].astype(np.float32)
            measured = np.isfinite(rows).astype(np.float32)
            rows = np.nan_to_num(rows)
            total = squares @ measured.T + seen @ (rows**2).T - 2 * values @ rows.T
            parts.append(total / np.maximum(seen @ measured.T, 1))
        return np.concatenate(parts, axis=1)


@dataclass(frozen=True)
class MaskedRidge:
    """Ridge regression of every gene on all genes of masked profiles, hidden ones at their mean, in its dual form.

    ``inputs`` and ``outputs``: float32 [N, G], centred; ``eigenvalues`` [N] and ``vectors`` [N, N] of inputs times
    their transpose.
    """

    inputs: np.ndarray
    outputs: np.ndarray
    means: np.ndarray
    eigenvalues: np.ndarray
    vectors: np.ndarray

    @classmethod
    def fit(cls, expression_NG: np.ndarray, hidden_NG: np.ndarray) -> MaskedRidge:
        means = by_gene(np.nanmean, expression_NG)
        outputs = np.nan_to_num(expression_NG.astype(np.float32) - means)
        inputs = np.where(hidden_NG, np.float32(0), outputs)
        eigenvalues, vectors = np.linalg.eigh((inputs @ inputs.T).astype(np.float64))
        return cls(inputs, outputs, means, np.maximum(eigenvalues, 0.0), vectors)

    def predictions(self, expression_BG: np.ndarray, penalties: Sequence[float]) -> Iterator[np.ndarray]:
        """For each penalty, a share of the mean eigenvalue: float32 B x G."""
        seen = np.nan_to_num(expression_BG.astype(np.float32) - self.means)
        products = (seen @ self.inputs.T) @ self.vectors
        for penalty in penalties:
            weights = (products / (self.eigenvalues + penalty * self.eigenvalues.mean())) @ self.vectors.T
            yield self.means + weights.astype(np.float32) @ self.outputs


def fit_nearest(expression_NG: np.ndarray, trials: Sequence[Trial]) -> tuple[Predictor, int]:
    """Nearest train profiles, and the number of neighbours that serves best in the trials."""

    def fitted(rows: np.ndarray | slice) -> Predictions:
        return NearestProfiles.fit(expression_NG[rows]).predictions

    predict, neighbours = _with_the_best(fitted, trials, NEIGHBOURS)
    log(f"nearest profiles: {neighbours}")
    return predict, int(neighbours)


def fit_ridge(expression_NG: np.ndarray, trials: Sequence[Trial], mask_of: MaskOf) -> tuple[Predictor, float]:
    """Ridge regression from profiles masked by ``mask_of``, and the penalty that serves best in the trials."""

    def fitted(rows: np.ndarray | slice) -> Predictions:
        return MaskedRidge.fit(expression_NG[rows], mask_of(np.arange(len(expression_NG))[rows])).predictions

    predict, penalty = _with_the_best(fitted, trials, PENALTIES)
    log(f"ridge regression: penalty {penalty:g} of the mean eigenvalue")
    return predict, penalty


def _with_the_best(
    fitted: Callable[[np.ndarray | slice], Predictions], trials: Sequence[Trial], values: Sequence[float]
) -> tuple[Predictor, float]:
    """The fit on all rows with the value of its setting that has the smallest squared error over all trials."""
    whole = fitted(slice(None))
    errors = np.zeros(len(values))
    for trial in trials:
        predictions = whole if trial.fitted_on is None else fitted(trial.fitted_on)
        visible, truth = trial.held_out.visible, trial.held_out.truth
        counted = np.isnan(visible) & np.isfinite(truth)
        for number, predicted in enumerate(predictions(visible, values)):
            errors[number] += float(((predicted - truth)[counted].astype(np.float64) ** 2).sum())
    best = values[int(errors.argmin())]
    return lambda expression_BG: next(whole(expression_BG, [best])), best
