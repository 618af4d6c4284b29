"""Correlations of the genes of two blocks.

Correlations are pairwise complete: those of two genes are taken over the profiles that measure both. With x_i the
values of gene i less its mean (0 where missing) and m_i its measured-indicator, all five sums that a Pearson
correlation needs are matrix products; all but sum(x_i x_j) need one column per *pattern* of missing genes (there is
about one per source) instead of one per profile. Profiles may have weights, which enter each of the sums.

N profiles, P patterns, L and R genes of a left and a right block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from dataprep.coexpression.edges import Edges

# A variance below this share of the second moment is rounding, not variation.
_ROUNDING = np.float32(1e-5)
# Correlations are made of products so many at a time, in a core's cache.
_VALUES_AT_ONCE = 2**16


@dataclass(frozen=True)
class GeneBlock:
    """B genes, from column ``first`` on.

    ``x`` float32 [N, B]: values less the mean of their gene, times the root of their profile's weight, 0 where missing.
    For each pattern of missing genes, float32: how many ``profiles`` [P] have it, and their ``weights`` [P];
    ``measured`` (1 or 0), ``sums`` of values less the mean, and of their ``squares``, both weighted [P, B].
    """

    first: int
    x: np.ndarray
    profiles: np.ndarray
    weights: np.ndarray
    measured: np.ndarray
    sums: np.ndarray
    squares: np.ndarray

    @property
    def genes(self) -> int:
        """B."""
        return self.x.shape[1]


@dataclass(frozen=True)
class Limits:
    """Which correlations are edges: of at least ``min_correlation``, over at least ``min_common_samples`` profiles, and
    among the ``max_neighbours`` largest of a gene."""

    min_correlation: float
    max_neighbours: int
    min_common_samples: int


def gene_blocks(expression: np.ndarray, most_genes: int, weight_N: np.ndarray) -> Iterator[GeneBlock]:
    """Blocks of about equal size, of at most so many genes, of float16 [N, G] with NaN where not measured.

    ``weight_N`` float32 [N]: what a profile counts. One block is made when it is asked for.
    """
    numbers = _patterns(expression)
    first_N = np.unique(numbers, return_index=True)[1]
    of_pattern = [numbers == number for number in range(len(first_N))]
    genes = expression.shape[1]
    count = -(-genes // most_genes)
    bounds = [genes * number // count for number in range(count + 1)]
    for start, stop in pairwise(bounds):
        yield _block(start, expression[:, start:stop], of_pattern, first_N, weight_N)


def strong_edges(left: GeneBlock, right: GeneBlock, limits: Limits) -> Edges:
    """The strongest edges between two blocks, into the genes of both; within a block where both are the same.

    Of a gene's edges these are all that can be among its strongest, and perhaps a few more.
    """
    product_LR = left.x.T @ right.x
    strip = max(1, _VALUES_AT_ONCE // right.genes)
    parts = []
    for start in range(0, left.genes, strip):
        rows = slice(start, min(start + strip, left.genes))
        correlation = _to_correlation(product_LR[rows], left, rows, right, limits.min_common_samples)
        if left.first == right.first:
            correlation[np.arange(len(correlation)), np.arange(rows.start, rows.stop)] = 0
        parts.append(_strongest(correlation, left.first + start, right.first, limits))
    if left.first != right.first:
        strip = max(1, _VALUES_AT_ONCE // left.genes)
        for start in range(0, right.genes, strip):
            turned = np.ascontiguousarray(product_LR[:, start : start + strip].T)
            parts.append(_strongest(turned, right.first + start, left.first, limits))
    return Edges.joined(parts)


def _patterns(expression: np.ndarray) -> np.ndarray:
    """The number of each profile's pattern of missing genes, int [N]."""
    packed = np.array([np.packbits(np.isnan(profile)).tobytes() for profile in expression])
    return np.unique(packed, return_inverse=True)[1]


def _block(
    first: int, expression: np.ndarray, of_pattern: list[np.ndarray], first_N: np.ndarray, weight_N: np.ndarray
) -> GeneBlock:
    x_NB, weight_N1 = expression.astype(np.float32), weight_N[:, None]
    missing_NB = np.isnan(x_NB)
    lacks_values = bool(missing_NB.any())
    if lacks_values:
        x_NB[missing_NB] = 0
    measured_B = weight_N.astype(np.float64) @ ~missing_NB
    weighted_NB = x_NB * weight_N1
    total_B = weighted_NB.sum(axis=0, dtype=np.float64)
    x_NB -= np.divide(total_B, measured_B, out=np.zeros(len(total_B)), where=measured_B > 0).astype(np.float32)
    if lacks_values:
        x_NB[missing_NB] = 0
    np.multiply(x_NB, weight_N1, out=weighted_NB)
    sums = _sums(weighted_NB, of_pattern)
    weighted_NB *= x_NB
    squares = _sums(weighted_NB, of_pattern)
    x_NB *= np.sqrt(weight_N1)
    return GeneBlock(
        first=first,
        x=x_NB,
        profiles=np.array([group.sum() for group in of_pattern], np.float32),
        weights=np.array([weight_N[group].sum(dtype=np.float64) for group in of_pattern], np.float32),
        measured=(~missing_NB[first_N]).astype(np.float32),
        sums=sums,
        squares=squares,
    )


def _sums(values_NB: np.ndarray, of_pattern: list[np.ndarray]) -> np.ndarray:
    """Over the profiles of each pattern: [P, B]."""
    return np.stack([(values_NB if group.all() else values_NB[group]).sum(axis=0) for group in of_pattern])


def _to_correlation(
    product: np.ndarray, left: GeneBlock, rows: slice, right: GeneBlock, min_common_samples: int
) -> np.ndarray:
    """|r| in place of sum(x_i x_j) of some rows of the left block with the right one; 0 where there is none."""
    measured_PL, sums_PL, squares_PL = left.measured[:, rows], left.sums[:, rows], left.squares[:, rows]
    common: np.ndarray
    if len(left.profiles) == 1 and left.measured.all() and right.measured.all():
        # all profiles measure all genes: what follows is done gene by gene where it can be
        weight, common = left.weights, left.profiles
        left_sum, left_squares, right_sum, right_squares = sums_PL.T, squares_PL.T, right.sums, right.squares
    else:
        weight = (measured_PL * left.weights[:, None]).T @ right.measured
        common = (measured_PL * left.profiles[:, None]).T @ right.measured
        # genes without a common profile are not usable below
        weight[common == 0] = 1
        left_sum, left_squares = sums_PL.T @ right.measured, squares_PL.T @ right.measured
        right_sum, right_squares = measured_PL.T @ right.sums, measured_PL.T @ right.squares
    shift = left_sum * right_sum
    shift /= weight
    product -= shift
    deviations = np.multiply(
        _variation(left_squares, left_sum, weight), _variation(right_squares, right_sum, weight), out=shift
    )
    np.sqrt(deviations, out=deviations)
    # nothing divided by infinity is no correlation
    deviations[~((deviations > 0) & (common >= min_common_samples))] = np.inf
    np.abs(product, out=product)
    product /= deviations
    return np.minimum(product, 1, out=product)


def _variation(squares: np.ndarray, total: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Sum of squared deviations from the mean; 0 where it is no more than rounding."""
    deviation = squares - np.square(total) / weight
    return np.where(deviation > _ROUNDING * squares, deviation, np.float32(0))


def _strongest(correlation: np.ndarray, first_row: int, first_column: int, limits: Limits) -> Edges:
    """The strongest edges into the genes of the rows, and perhaps a few more."""
    neighbours = min(limits.max_neighbours, correlation.shape[1])
    least = np.maximum(_floor(correlation, neighbours), np.float32(limits.min_correlation))
    found = np.flatnonzero(correlation >= least)
    row, column = np.divmod(found, correlation.shape[1])
    edges = Edges.of(first_column + column, first_row + row, correlation[row, column])
    return edges if len(edges) <= neighbours * len(correlation) else edges.strongest(neighbours)


def _floor(correlation: np.ndarray, neighbours: int) -> np.ndarray:
    """What so many values of a row reach, or a few more: [L, 1].

    As many of the largest values of parts of the row do: these are found in a tenth of the time that all values take.
    """
    rows, columns = correlation.shape
    parts = 3 * neighbours
    most = correlation
    if columns >= 2 * parts:
        most = correlation[:, : columns - columns % parts].reshape(rows, -1, parts).max(axis=1)
    return np.partition(most, -neighbours, axis=1)[:, -neighbours, None]
