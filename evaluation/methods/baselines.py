"""Reconstructions that need no network: gene mean, gene median, and two linear models given the observed genes.

All are fitted on profiles of the train split. N profiles to fit on, G genes; expression is log1p(TPM) with NaN where
a gene is not measured (or masked). The linear models are those of :mod:`pretrain.prior`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dataprep.runtime.terminal import log
from pretrain.model.linear_prior import LinearPrior
from pretrain.prior.fit import FittedPrior, LinearFits, Trial
from pretrain.prior.principal import by_gene


@dataclass(frozen=True)
class GeneConstant:
    """The same value for a gene in every profile. ``values``: float32 [G], never NaN."""

    values: np.ndarray

    def predict(self, expression_BG: np.ndarray) -> np.ndarray:
        """float32 B x G."""
        return np.broadcast_to(self.values, expression_BG.shape)


def gene_means(expression_NG: np.ndarray) -> GeneConstant:
    """Mean of every gene over the profiles that measure it; a gene that none measures gets the mean over genes."""
    return GeneConstant(by_gene(np.nanmean, expression_NG))


def gene_medians(expression_NG: np.ndarray) -> GeneConstant:
    """As :func:`gene_means`, with the median."""
    return GeneConstant(by_gene(np.nanmedian, expression_NG))


@dataclass(frozen=True)
class Linear:
    """A linear prior as a method: expected expression of every gene given the observed ones of its profile."""

    prior: LinearPrior

    def predict(self, expression_BG: np.ndarray) -> np.ndarray:
        """float32 B x G."""
        return self.prior(torch.from_numpy(np.ascontiguousarray(expression_BG))).numpy()


@dataclass(frozen=True)
class LinearBaselines:
    """Probabilistic PCA and the rectified Gaussian, with their rank and noise."""

    ppca: FittedPrior
    rectified: FittedPrior


def chosen_linear_baselines(fits: LinearFits, trials: Sequence[Trial], chosen_on: str) -> LinearBaselines:
    """Both with the rank and noise that the ``trials`` choose; ``chosen_on``: the trials' name."""
    ppca = fits.ppca(trials)
    log(f"probabilistic PCA: {described(ppca)}, chosen on {chosen_on}")
    rectified = fits.rectified(trials, ppca.choice)
    log(f"rectified Gaussian: {described(rectified)}, chosen on {chosen_on}")
    return LinearBaselines(ppca, rectified)


def described(fitted: FittedPrior) -> str:
    """How many components and how much noise, as in "200 components, noise 0.3 of a gene's variance"."""
    return f"{fitted.choice.rank} components, noise {fitted.choice.noise:g} of the mean variance of a gene"
