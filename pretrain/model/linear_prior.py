"""A linear Gaussian model of profiles, conditioned exactly on the genes that are observed.

y = W z + mu + e with z ~ N(0, I) and e ~ N(0, diag(noise_sd^2)): probabilistic PCA (Tipping and Bishop 1999,
J. R. Stat. Soc. B 61:611) with a noise level for each gene. B profiles, G genes, k components; y is log1p(TPM).
"""

from __future__ import annotations

import math

import numpy as np
import scipy.linalg
import torch
from torch import Tensor, nn

from pretrain.shape import prior_coordinates

# Expectations of zeros below the floor, each from the prediction of the one before.
_CENSORING_PASSES = 2
# What a zero can stand for at the lowest: a gene far below detection says no more than one just below it.
_LOWEST_CENSORED = -3.0
# Blocks of columns of a symmetric product, and columns from which on it is made of blocks.
_BLOCKS = 6
_LEAST_COLUMNS_IN_BLOCKS = 256


class LinearPrior(nn.Module):
    """Expected expression of every gene given those of its profile that are observed.

    Buffers: ``mean`` [G]; ``noise_sd`` [G]; ``loadings`` [G, k]: W with each gene's row divided by its ``noise_sd``;
    ``gram`` [k, k]: their inner products; and with ``rectified``, ``spread`` [G]: the standard deviation of what
    is observed around the prediction, in studies that took no part in the fit.

    ``rectified``: expression is max(y, 0). An observed zero is taken as censored: y at its expectation below zero
    (:func:`mean_below_zero`), in two passes, and a prediction is the mean of the rectified Gaussian
    (:func:`rectified_mean`).
    """

    mean: Tensor
    noise_sd: Tensor
    loadings: Tensor
    gram: Tensor
    spread: Tensor
    turn: Tensor

    def __init__(self, genes: int, rank: int, rectified: bool = False) -> None:
        super().__init__()
        self.rectified = rectified
        self.register_buffer("mean", torch.zeros(genes))
        self.register_buffer("noise_sd", torch.ones(genes))
        self.register_buffer("loadings", torch.zeros(genes, rank))
        self.register_buffer("gram", torch.zeros(rank, rank))
        if rectified:
            self.register_buffer("spread", torch.ones(genes))
        count = prior_coordinates(rank)
        turn_mm = scipy.linalg.hadamard(count, dtype=np.float32) / math.sqrt(count) if count else np.empty((0, 0))
        self.register_buffer("turn", torch.from_numpy(turn_mm).float(), persistent=False)

    @classmethod
    def of(cls, mean: Tensor, loadings: Tensor, noise_sd: Tensor, spread: Tensor | None = None) -> LinearPrior:
        """The prior of given numbers, ``loadings`` divided by ``noise_sd``; with a spread it is rectified."""
        genes, rank = loadings.shape
        prior = cls(genes, rank, spread is not None).to(loadings.dtype)
        numbers = {"mean": mean, "loadings": loadings, "noise_sd": noise_sd, "gram": loadings.T @ loadings}
        if spread is not None:
            numbers["spread"] = spread
        prior.load_state_dict(numbers)
        return prior

    @property
    def rank(self) -> int:
        return self.loadings.shape[1]

    def narrowed(self, rank: int, noise: float) -> LinearPrior:
        """The prior of the first ``rank`` components, with ``noise`` times the noise variance."""
        scale = math.sqrt(noise)
        spread = self.spread if self.rectified else None
        return LinearPrior.of(self.mean, self.loadings[:, :rank] / scale, self.noise_sd * scale, spread)

    def forward(self, expression_BG: Tensor) -> Tensor:
        """B x G in the buffers' dtype; ``expression_BG``: NaN where not observed. Without any observed gene: means."""
        return self.condition(expression_BG, self.observed_gram(~expression_BG.isnan()))

    def observed_gram(self, observed_BG: Tensor) -> Tensor:
        """B x k x k: inner products of the loadings over the observed genes of each profile, V_O^T V_O.

        From whichever is fewer, the observed genes or the hidden ones taken off ``gram``: at most G k^2 operations a
        profile, and 0.3 G k^2 where 15 % are hidden.
        """
        few_hidden_B = 2 * observed_BG.sum(dim=1) > observed_BG.shape[1]
        chosen_BG = observed_BG ^ few_hidden_B.unsqueeze(1)
        # one wait for the device: where the chosen genes are, how many each profile has, and which they are
        genes = chosen_BG.nonzero()[:, 1]
        counts_B, hidden_B = torch.stack([chosen_BG.sum(dim=1), few_hidden_B.long()]).tolist()
        gram_Bkk = self.gram.new_empty(len(observed_BG), self.rank, self.rank)
        for product_kk, own, hidden in zip(gram_Bkk, genes.split(counts_B), hidden_B, strict=True):
            symmetric_product(self.loadings[own], product_kk)
            if hidden:
                torch.sub(self.gram, product_kk, out=product_kk)
        return gram_Bkk

    def condition(self, expression_BG: Tensor, gram_Bkk: Tensor, noise: float = 1.0) -> Tensor:
        """As :meth:`forward`, with the inner products given; those of one pattern of observed genes hold for all.

        ``noise`` multiplies the noise variance, as :meth:`narrowed` would.
        """
        return self.expected(self.latent(expression_BG, gram_Bkk, noise))

    def latent(self, expression_BG: Tensor, gram_Bkk: Tensor, noise: float = 1.0) -> Tensor:
        """E[z | what is observed], B x k; arguments as those of :meth:`condition`.

        With V = W / noise_sd, E[z | y_O] = (noise I + V_O^T V_O)^-1 V_O^T ((y_O - mu_O) / noise_sd_O), which equals the
        Gaussian conditional expectation by the matrix inversion lemma and takes one system of k unknowns.
        """
        factor_Bkk = _cholesky(gram_Bkk, noise)
        expression_BG = expression_BG.to(self.mean.dtype)
        given_BG = self._standardised(expression_BG).nan_to_num(0.0)
        latent_Bk = self._solved(factor_Bkk, given_BG)
        for _ in range(_CENSORING_PASSES if self.rectified else 0):
            below_BG = self._standardised(censored(self._predicted(latent_Bk), self.spread))
            latent_Bk = self._solved(factor_Bkk, torch.where(expression_BG == 0, below_BG, given_BG))
        return latent_Bk

    def expected(self, latent_Bk: Tensor) -> Tensor:
        """Expression of every gene, B x G, at a latent vector."""
        predicted_BG = self._predicted(latent_Bk)
        return rectified_mean(predicted_BG, self.spread) if self.rectified else predicted_BG

    def coordinates(self, latent_Bk: Tensor) -> Tensor:
        """Where the expected profile lies along the loadings, B x m, m = :func:`pretrain.shape.prior_coordinates`.

        Distances are those of expected profiles, genes in units of their noise, as far as the first m directions hold
        them: the columns of the loadings of a fitted prior are orthogonal, and those of more variance come first. They
        are turned by a Hadamard matrix, all of whose entries are 1 or -1: every coordinate then has a part of each
        direction and about the same variance, so that a method that scales features to unit variance keeps the
        distances. Along the directions themselves it would make the last, mostly noise, count as much as the first.
        """
        along_Bk = latent_Bk * self.gram.diagonal().sqrt()
        return along_Bk[:, : len(self.turn)] @ self.turn

    def _standardised(self, expression_BG: Tensor) -> Tensor:
        return (expression_BG - self.mean) / self.noise_sd

    def _solved(self, factor_Bkk: Tensor, given_BG: Tensor) -> Tensor:
        projected_Bk = given_BG @ self.loadings
        if len(factor_Bkk) == 1:
            return torch.cholesky_solve(projected_Bk.T, factor_Bkk[0]).T
        return torch.cholesky_solve(projected_Bk.unsqueeze(-1), factor_Bkk).squeeze(-1)

    def _predicted(self, latent_Bk: Tensor) -> Tensor:
        return torch.addcmul(self.mean, latent_Bk @ self.loadings.T, self.noise_sd)


def symmetric_product(matrix_NK: Tensor, product_KK: Tensor) -> None:
    """M^T M into ``product_KK``, in 7/12 of its operations: what is below the diagonal is copied from above it."""
    columns = matrix_NK.shape[1]
    width = columns if columns < _LEAST_COLUMNS_IN_BLOCKS else -(-columns // _BLOCKS)
    for start in range(0, columns, width):
        own, others = slice(start, start + width), slice(start + width, columns)
        product_KK[own, start:] = matrix_NK[:, own].T @ matrix_NK[:, start:]
        product_KK[others, own] = product_KK[own, others].T


def _cholesky(gram_Bkk: Tensor, noise: float) -> Tensor:
    """Factors of noise I + gram; rounding of large inner products must not make them indefinite."""
    shifted_Bkk = gram_Bkk.clone()
    diagonal_Bk = shifted_Bkk.diagonal(dim1=-2, dim2=-1)
    diagonal_Bk += noise + 10 * torch.finfo(gram_Bkk.dtype).eps * diagonal_Bk.abs().amax(dim=-1, keepdim=True)
    return torch.linalg.cholesky(shifted_Bkk)


def censored(mean: Tensor, sd: Tensor) -> Tensor:
    """What an observed zero stands for where N(mean, sd^2) was expected."""
    return mean_below_zero(mean, sd).clamp(min=_LOWEST_CENSORED)


def mean_below_zero(mean: Tensor, sd: Tensor) -> Tensor:
    """E[y | y < 0] of y ~ N(mean, sd^2): m - s phi(a) / Phi(a) with a = -m / s, the mean of a truncated Gaussian."""
    ratio = -mean / sd
    return mean - sd * torch.exp(_log_density(ratio) - torch.special.log_ndtr(ratio))


def rectified_mean(mean: Tensor, sd: Tensor) -> Tensor:
    """E[max(y, 0)] of y ~ N(mean, sd^2): m Phi(m / s) + s phi(m / s)."""
    ratio = mean / sd
    return mean * torch.special.ndtr(ratio) + sd * torch.exp(_log_density(ratio))


def _log_density(value: Tensor) -> Tensor:
    return -0.5 * value.square() - 0.5 * math.log(2 * math.pi)
