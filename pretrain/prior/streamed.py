"""Principal directions of a corpus that does not fit in memory: block power iteration over parts of it, through Ray.

Halko, Martinsson and Tropp 2011, SIAM Rev. 53:217 (algorithms 4.4 and 5.3). Every pass reads each profile once and
multiplies the scatter matrix S = X^T X of centred profiles, which never exists, by l = k + 10 columns: 4 G l operations
a profile. Missing values count as their gene's mean. Memory: a few G x l matrices and one row group for each task.
N profiles, G genes, k directions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import ray
import scipy.linalg

from dataprep.corpus import Corpus, iterate_rows
from dataprep.runtime.ray_session import connected, results_of
from pretrain.prior.principal import PrincipalDirections

# Columns beyond the wanted rank, so that the last directions are as good as the first.
_OVERSAMPLED = 10
# Products with the scatter matrix. The last says how much variance the directions hold.
PASSES = 4
_SEED = 0
# Profiles of a task: as many as make its result, a G x l matrix, small beside what it reads.
_PROFILES_OF_TASK = 2048

# Sums over one part of a corpus
PartSum = Callable[..., tuple[np.ndarray, ...]]


class Run(Protocol):
    """Applies a function to all parts, ``function(part, *shared)``, and yields the results in any order."""

    def __call__(self, function: PartSum, parts: Sequence[Any], *shared: Any) -> Iterator[tuple[np.ndarray, ...]]: ...


def corpus_parts(corpus: Corpus, split: str) -> list[tuple[Corpus, np.ndarray]]:
    """A corpus and row ids for each task; whole row groups, but for the last of a shard."""
    rows = corpus.manifest.rows_per_row_group
    size = max(1, _PROFILES_OF_TASK // rows) * rows
    return [
        (corpus, np.arange(start, min(start + size, shard.first_row_id + shard.rows)))
        for shard in corpus.shards(split)
        for start in range(shard.first_row_id, shard.first_row_id + shard.rows, size)
    ]


def on_ray(function: PartSum, parts: Sequence[Any], *shared: Any) -> Iterator[tuple[np.ndarray, ...]]:
    """Run a pass as Ray tasks; ``shared`` crosses to each machine once."""
    with connected():
        kept = [ray.put(value) for value in shared]
        yield from results_of(function, ((part, *kept) for part in parts), "the fit")


def streamed_directions(parts: Sequence[Any], genes: int, rank: int, run: Run = on_ray) -> PrincipalDirections:
    """The first ``rank`` directions of all profiles of the parts (at most N - 1).

    As :func:`pretrain.prior.principal.principal_directions` of profiles with missing values at their gene's mean,
    but for directions of nearly the same variance, among which power iteration cannot tell in a few passes. Does not
    depend on how profiles are divided into parts beyond rounding.
    """
    count_G, sum_G, profiles = _total(run(part_sums, parts))
    mean_G = _means(sum_G, count_G)
    rank = max(1, min(rank, int(profiles[0]) - 1, genes))
    start = np.random.default_rng(_SEED).standard_normal((genes, min(rank + _OVERSAMPLED, genes)))
    basis_Gl = scipy.linalg.qr(start, mode="economic")[0].astype(np.float32)
    for number in range(PASSES):
        product_Gl, squares = _total(run(scatter_product, parts, mean_G.astype(np.float32), basis_Gl))
        if number < PASSES - 1:
            basis_Gl = scipy.linalg.qr(product_Gl, mode="economic")[0].astype(np.float32)
    small_ll = basis_Gl.T.astype(np.float64) @ product_Gl
    variances, vectors = scipy.linalg.eigh((small_ll + small_ll.T) / 2)
    variances, vectors = variances[::-1][:rank], vectors[:, ::-1][:, :rank]
    return PrincipalDirections(
        mean=mean_G,
        scale=np.ones(genes),
        directions=basis_Gl @ vectors.astype(np.float32),
        variances=np.maximum(variances, 0.0) / profiles[0],
        total_variance=float(squares[0] / profiles[0]),
    )


def part_sums(part: tuple[Corpus, np.ndarray]) -> tuple[np.ndarray, ...]:
    """How many profiles measure each gene [G], the sum of its values [G], and the number of profiles [1]."""
    genes = part[0].genes
    count_G, sum_G, profiles = np.zeros(genes), np.zeros(genes), np.zeros(1)
    for _, expression in iterate_rows(*part):
        count_G += np.isfinite(expression).sum(axis=0)
        sum_G += np.nansum(expression, axis=0, dtype=np.float64)
        profiles += len(expression)
    return count_G, sum_G, profiles


def scatter_product(
    part: tuple[Corpus, np.ndarray], mean_G: np.ndarray, basis_Gl: np.ndarray
) -> tuple[np.ndarray, ...]:
    """X^T X Q of a part's centred profiles with a basis Q, G x l, and the sum of the squares of X [1]."""
    product_Gl, squares = np.zeros(basis_Gl.shape, np.float32), np.zeros(1)
    for _, expression in iterate_rows(*part):
        centred = np.nan_to_num(expression.astype(np.float32) - mean_G, nan=0.0)
        product_Gl += centred.T @ (centred @ basis_Gl)
        squares += np.square(centred, dtype=np.float64).sum()
    return product_Gl, squares


def _total(results: Iterable[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
    totals: tuple[np.ndarray, ...] = ()
    for result in results:
        if not totals:
            totals = tuple(value.astype(np.float64) for value in result)
            continue
        for total, value in zip(totals, result, strict=True):
            total += value
    return totals


def _means(sum_G: np.ndarray, count_G: np.ndarray) -> np.ndarray:
    """Mean of each gene over the profiles that measure it; of a gene that none measures, the mean over genes."""
    measured_G = count_G > 0
    mean_G = np.divide(sum_G, count_G, out=np.zeros_like(sum_G), where=measured_G)
    return np.where(measured_G, mean_G, mean_G[measured_G].mean() if measured_G.any() else 0.0)
