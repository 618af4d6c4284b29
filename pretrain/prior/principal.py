"""Principal directions of profiles that fit in memory. N profiles, G genes, k directions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch

from pretrain.model.linear_prior import LinearPrior

# Genes worked on at a time, so that float64 copies of the profiles stay small.
_GENE_BLOCK = 2048
# A variance below this share of the largest is rounding; profiles are stored in half precision.
_LEAST_VARIANCE = 1e-10


@dataclass(frozen=True)
class PrincipalDirections:
    """Where profiles vary most, after each gene was multiplied by its ``scale``.

    ``mean`` and ``scale`` [G]; ``directions`` [G, k]: orthonormal; ``variances`` [k]: along them, descending;
    ``total_variance``: over all directions.
    """

    mean: np.ndarray
    scale: np.ndarray
    directions: np.ndarray
    variances: np.ndarray
    total_variance: float

    @property
    def rank(self) -> int:
        return len(self.variances)

    def prior(self, noise: float, spread: np.ndarray | None = None) -> LinearPrior:
        """The Gaussian with these variances along these directions and noise in all.

        ``noise``: its variance as a share of the mean variance of a scaled gene. It is not the maximum-likelihood
        estimate, the variance that is left outside the directions: that is of profiles that were fitted to, and the
        directions of another study differ. Shrinking a sample covariance to a multiple of the identity: Ledoit and
        Wolf 2004, J. Multivar. Anal. 88:365. Loadings are U Lambda^(1/2), so those of fewer components are the
        first of these.
        """
        genes = len(self.mean)
        # without any variance there would be no noise, and no inverse
        noise_sd = np.sqrt(noise * max(self.total_variance / genes, 1e-12))
        loading_Gk = self.directions * (np.sqrt(self.variances) / noise_sd)
        numbers = (self.mean, loading_Gk, noise_sd / self.scale, *(() if spread is None else (spread,)))
        return LinearPrior.of(*(torch.from_numpy(np.asarray(part, np.float32)) for part in numbers))


def principal_directions(complete_NG: np.ndarray, rank: int, scale_G: np.ndarray | None = None) -> PrincipalDirections:
    """The first ``rank`` directions (at most N - 1) of profiles without missing values.

    Exact, from the N x N matrix of inner products: N^2 G operations, right for N below G.
    """
    profiles, genes = complete_NG.shape
    rank = max(1, min(rank, profiles - 1))
    scale_G = np.ones(genes) if scale_G is None else scale_G
    mean_G = complete_NG.mean(axis=0, dtype=np.float64)

    def centred(block: slice) -> np.ndarray:
        return ((complete_NG[:, block] - mean_G[block]) * scale_G[block]).astype(np.float32)

    gram_NN = np.zeros((profiles, profiles))
    for block in gene_blocks(genes):
        part = centred(block)
        gram_NN += part @ part.T
    eigenvalues, vectors = scipy.linalg.eigh(gram_NN, subset_by_index=[profiles - rank, profiles - 1])
    # a direction without variance has no meaning, and dividing by it none either
    kept = eigenvalues > _LEAST_VARIANCE * float(eigenvalues[-1])
    if not kept[-1]:
        # profiles that are all the same: one direction, of no length
        return PrincipalDirections(mean_G, scale_G, np.zeros((genes, 1)), np.zeros(1), 0.0)
    eigenvalues, vectors = eigenvalues[kept][::-1], vectors[:, kept][:, ::-1]
    weights = (vectors / np.sqrt(eigenvalues)).astype(np.float32)
    direction_Gk = np.concatenate([centred(block).T @ weights for block in gene_blocks(genes)])
    return PrincipalDirections(
        mean_G, scale_G, direction_Gk, eigenvalues / profiles, float(np.trace(gram_NN)) / profiles
    )


def fill_missing(expression_NG: np.ndarray, value_G: np.ndarray) -> np.ndarray:
    """float32 N x G with each NaN replaced by its gene's value."""
    return np.where(np.isnan(expression_NG), value_G, expression_NG).astype(np.float32)


def by_gene(statistic: Callable[..., np.ndarray], expression_NG: np.ndarray) -> np.ndarray:
    """A statistic of every gene over the profiles that measure it, float32 [G].

    A gene that none measures gets the mean over genes.
    """
    value_G = np.full(expression_NG.shape[1], np.nan)
    measured_G = np.isfinite(expression_NG).any(axis=0)
    for block in gene_blocks(len(value_G)):
        chosen = np.flatnonzero(measured_G[block]) + block.start
        if len(chosen):
            value_G[chosen] = statistic(expression_NG[:, chosen].astype(np.float64), axis=0)
    overall = float(np.nanmean(value_G)) if measured_G.any() else 0.0
    return np.where(measured_G, value_G, overall).astype(np.float32)


def gene_blocks(genes: int) -> list[slice]:
    return [slice(start, start + _GENE_BLOCK) for start in range(0, genes, _GENE_BLOCK)]
