"""A linear Gaussian model of profiles, conditioned exactly on the genes that are observed.

y = W z + mu + e with z ~ N(0, I) and e ~ N(0, diag(noise_sd^2)): probabilistic PCA (Tipping and Bishop 1999,
J. R. Stat. Soc. B 61:611) with a noise level for each gene. B profiles, G genes, k components; y is log1p(TPM).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

# Expectations of zeros below the floor, each from the prediction of the one before.
_CENSORING_PASSES = 2
# What a zero can stand for at the lowest: a gene far below detection says no more than one just below it.
_LOWEST_CENSORED = -3.0


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

    def __init__(self, genes: int, rank: int, rectified: bool = False) -> None:
        super().__init__()
        self.rectified = rectified
        self.register_buffer("mean", torch.zeros(genes))
        self.register_buffer("noise_sd", torch.ones(genes))
        self.register_buffer("loadings", torch.zeros(genes, rank))
        self.register_buffer("gram", torch.zeros(rank, rank))
        if rectified:
            self.register_buffer("spread", torch.ones(genes))

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
        # one wait for the device: where the chosen genes are, and how many each profile has
        genes = chosen_BG.nonzero()[:, 1]
        rows = [self.loadings[own] for own in genes.split(chosen_BG.sum(dim=1).tolist())]
        part_Bkk = torch.stack([own.T @ own for own in rows])
        return torch.where(few_hidden_B[:, None, None], self.gram - part_Bkk, part_Bkk)

    def condition(self, expression_BG: Tensor, gram_Bkk: Tensor, noise: float = 1.0) -> Tensor:
        """As :meth:`forward`, with the inner products given; those of one pattern of observed genes hold for all.

        ``noise`` multiplies the noise variance, as :meth:`narrowed` would.

        With V = W / noise_sd, E[z | y_O] = (noise I + V_O^T V_O)^-1 V_O^T ((y_O - mu_O) / noise_sd_O), which equals the
        Gaussian conditional expectation by the matrix inversion lemma and takes one system of k unknowns.
        """
        factor_Bkk = _cholesky(gram_Bkk, noise)
        expression_BG = expression_BG.to(self.mean.dtype)
        given_BG = self._standardised(expression_BG).nan_to_num(0.0)
        latent_Bk = self._latent(factor_Bkk, given_BG)
        if not self.rectified:
            return self._predicted(latent_Bk)
        for _ in range(_CENSORING_PASSES):
            below_BG = self._standardised(censored(self._predicted(latent_Bk), self.spread))
            latent_Bk = self._latent(factor_Bkk, torch.where(expression_BG == 0, below_BG, given_BG))
        return rectified_mean(self._predicted(latent_Bk), self.spread)

    def _standardised(self, expression_BG: Tensor) -> Tensor:
        return (expression_BG - self.mean) / self.noise_sd

    def _latent(self, factor_Bkk: Tensor, given_BG: Tensor) -> Tensor:
        projected_Bk = given_BG @ self.loadings
        if len(factor_Bkk) == 1:
            return torch.cholesky_solve(projected_Bk.T, factor_Bkk[0]).T
        return torch.cholesky_solve(projected_Bk.unsqueeze(-1), factor_Bkk).squeeze(-1)

    def _predicted(self, latent_Bk: Tensor) -> Tensor:
        return torch.addcmul(self.mean, latent_Bk @ self.loadings.T, self.noise_sd)


def _cholesky(gram_Bkk: Tensor, noise: float) -> Tensor:
    """Factors of noise I + gram; rounding of large inner products must not make them indefinite."""
    diagonal_Bk = gram_Bkk.diagonal(dim1=-2, dim2=-1)
    rounding_B1 = 10 * torch.finfo(gram_Bkk.dtype).eps * diagonal_Bk.abs().amax(dim=-1, keepdim=True)
    return torch.linalg.cholesky(gram_Bkk + torch.diag_embed((noise + rounding_B1).expand_as(diagonal_Bk)))


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
