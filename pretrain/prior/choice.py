"""Rank and noise of a prior, chosen by the error on profiles of studies that took no part in its fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pretrain.model.linear_prior import LinearPrior

# Noise variances to try, as shares of the mean variance of a gene.
NOISES = (0.003, 0.01, 0.03, 0.1, 0.3, 0.6, 1.2, 2.4)
_BATCH = 16


@dataclass(frozen=True)
class HeldOut:
    """Profiles to try a prior on: ``visible`` and ``truth``, float32 [N, G], NaN where hidden or not measured."""

    visible: np.ndarray
    truth: np.ndarray

    @classmethod
    def hiding(cls, hidden_NG: np.ndarray, expression_NG: np.ndarray) -> HeldOut:
        """Profiles with some entries hidden."""
        truth = expression_NG.astype(np.float32)
        return cls(np.where(hidden_NG, np.float32(np.nan), truth), truth)


@dataclass(frozen=True)
class Choice:
    """``noise``: a share of the mean variance of a gene; ``mse``: on hidden entries of the held-out profiles."""

    rank: int
    noise: float
    mse: float


def choose(trials: Sequence[tuple[LinearPrior, HeldOut]], ranks: Sequence[int]) -> Choice:
    """The rank and noise with the smallest squared error over all trials together.

    A trial is a prior of all its components, with noise 1, and profiles it has not seen. Ranks above that of the
    smallest prior are cut to it. The first of equals is taken: the smaller rank.
    """
    largest = min(whole.rank for whole, _ in trials)
    tried = sorted({min(rank, largest) for rank in ranks})
    errors, entries = np.zeros((len(tried), len(NOISES))), 0
    for whole, held_out in trials:
        priors = [whole.narrowed(rank, 1.0) for rank in tried]
        for start in range(0, len(held_out.truth), _BATCH):
            rows = slice(start, start + _BATCH)
            visible, truth = torch.from_numpy(held_out.visible[rows]), torch.from_numpy(held_out.truth[rows])
            counted = visible.isnan() & ~truth.isnan()
            gram_Bkk = whole.observed_gram(~visible.isnan())
            for i, prior in enumerate(priors):
                for j, noise in enumerate(NOISES):
                    predicted = prior.condition(visible, gram_Bkk[:, : prior.rank, : prior.rank], noise)
                    errors[i, j] += float((predicted - truth)[counted].double().square().sum())
            entries += int(counted.sum())
    i, j = divmod(int(errors.argmin()), len(NOISES))
    return Choice(tried[i], NOISES[j], float(errors[i, j]) / max(1, entries))
