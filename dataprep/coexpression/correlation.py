"""The co-expression graph: for each gene its most strongly correlated neighbours (docs/model.md, Gene graph).

Pairs of blocks of genes are Ray tasks, each of which gives the strongest edges between its two; the strongest of these
are the graph's. Cost: n G^2 operations for n profiles. The G x G matrix (1.6 GB at 20,024 genes) never exists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import ray

from dataprep.coexpression.blocks import GeneBlock, Limits, gene_blocks, strong_edges
from dataprep.coexpression.edges import Edges
from dataprep.config import GraphSettings
from dataprep.runtime.ray_session import connected, results_of

PairEdges = Callable[[GeneBlock, GeneBlock, Limits], Edges]


class Run(Protocol):
    """Applies a function to all pairs of blocks, of each block with itself, too; yields results in any order."""

    def __call__(self, function: PairEdges, blocks: Iterable[GeneBlock], limits: Limits) -> Iterator[Edges]: ...


def on_ray(function: PairEdges, blocks: Iterable[GeneBlock], limits: Limits) -> Iterator[Edges]:
    """Pairs as Ray tasks of one CPU; blocks are in Ray's object store, and a task holds two of them. Those of the first
    blocks run while later blocks are made."""

    def pairs() -> Iterator[tuple[Any, Any, Limits]]:
        kept: list[Any] = []
        for block in blocks:
            kept.append(ray.put(block))
            yield from ((kept[-1], other, limits) for other in kept)

    with connected():
        yield from results_of(function, pairs(), "the graph")


def correlation_edges(
    expression: np.ndarray, settings: GraphSettings, studies: Sequence[str] | None = None, run: Run = on_ray
) -> Edges:
    """For each gene (target) its strongest correlates (source), from float16 [n, G] with NaN where not measured.

    An edge has |r| >= ``min_correlation`` over at least ``min_common_samples`` profiles; at most ``max_neighbours``
    per gene, of equal ones those from the first genes. Genes without variation get none. Edges are ordered by target,
    then by falling weight. With the profiles' ``studies`` each study weighs the same.
    """
    limits = Limits(settings.min_correlation, settings.max_neighbours, settings.min_common_samples)
    weight_N = np.ones(len(expression), np.float32) if studies is None else balanced_weights(studies)
    blocks = gene_blocks(expression, settings.genes_per_block, weight_N)
    return Edges.joined(run(strong_edges, blocks, limits)).strongest(settings.max_neighbours)


def balanced_weights(studies: Sequence[str]) -> np.ndarray:
    """What each profile counts where all studies count the same, float32 [n]; 1 on average."""
    _, study_N, profiles = np.unique(np.array(studies, str), return_inverse=True, return_counts=True)
    return (len(study_N) / (len(profiles) * profiles[study_N])).astype(np.float32)
