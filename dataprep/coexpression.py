"""The gene co-expression graph: for each gene its most strongly correlated neighbours (docs/model.md, Gene graph).

Correlations are pairwise complete: those of two genes are taken over the profiles that measure both. With x_i the
values of gene i less its mean (0 where missing) and m_i its measured-indicator, all five sums that a Pearson
correlation needs are matrix products; all but sum(x_i x_j) need one column per *pattern* of missing genes (there is
about one per source) instead of one per profile. Cost: 2 n G^2 operations for n profiles, in blocks of genes, so that
the G x G matrix (1.6 GB at 20,024 genes) never exists.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dataprep.config import GraphSettings
from dataprep.corpus import GRAPH_FILE, Corpus, GeneGraph, open_corpus, read_split
from dataprep.runtime.command_line import UserError
from dataprep.runtime.terminal import write_result

# A variance below this share of the second moment is rounding, not variation.
_ROUNDING = np.float32(1e-5)


def build_gene_graph(settings: GraphSettings) -> dict[str, Any]:
    """Build the graph of a corpus from its train split, write it there, and return its summary.

    Memory: 6 x G bytes per profile used and a few G x ``genes_per_block`` matrices. Raises :class:`UserError` where
    the train split is too small to tell a correlation from chance, and where the corpus has another graph already:
    runs resume and export with the graph of their corpus, so it is replaced only with ``overwrite``.
    """
    corpus = open_corpus(settings.corpus)
    corpus.folder.require_writable(corpus.own_file(GRAPH_FILE))
    _, expression = read_split(corpus, "train", settings.max_samples)
    if len(expression) < settings.min_common_samples:
        raise UserError(
            f"{corpus.folder.uri}: {len(expression)} training profiles are too few for a graph "
            f"(min_common_samples {settings.min_common_samples})"
        )
    graph = correlation_graph(expression, settings, _origin(corpus, settings, len(expression)))
    if not graph.edges:
        raise UserError(f"{corpus.folder.uri}: no two genes correlate with |r| of {settings.min_correlation} or more")
    unchanged = _is_there(corpus, graph, settings.overwrite)
    if not unchanged:
        graph.write(corpus.folder, corpus.own_file(GRAPH_FILE))
    connected = len(np.unique(graph.target))
    write_result(
        f"{graph.edges:,} edges from {len(expression):,} training profiles; {connected:,} of {corpus.genes:,} genes "
        f"have neighbours{'; the corpus has this very graph already' if unchanged else ''}"
    )
    return {
        "corpus": corpus.folder.uri,
        "profiles": len(expression),
        "genes": corpus.genes,
        "edges": graph.edges,
        "genes_with_neighbours": connected,
        "fingerprint": graph.fingerprint,
    }


def _is_there(corpus: Corpus, graph: GeneGraph, overwrite: bool) -> bool:
    """Whether the corpus has this graph already. Raises :class:`UserError` for another one, unless ``overwrite``."""
    if overwrite or not corpus.folder.exists(corpus.own_file(GRAPH_FILE)):
        return False
    try:
        present = corpus.graph()
    except UserError as error:
        raise UserError(f"{error}; --overwrite replaces the graph") from None
    if present.fingerprint != graph.fingerprint:
        raise UserError(
            f"{corpus.folder.uri} has another gene graph, of {present.edges:,} edges where these settings give "
            f"{graph.edges:,}; runs and exports made with it need it. --overwrite replaces it"
        )
    return True


def correlation_graph(expression: np.ndarray, settings: GraphSettings, origin: dict[str, Any]) -> GeneGraph:
    """For each gene (target) its strongest correlates (source), from float16 [n, G] with NaN where not measured.

    An edge has |r| >= ``min_correlation`` over at least ``min_common_samples`` profiles; at most ``max_neighbours``
    per gene. Genes without variation get none. Edges are ordered by target, then by falling weight.
    """
    centred = _Profiles.of(expression)
    parts = []
    for start in range(0, expression.shape[1], settings.genes_per_block):
        block = slice(start, min(start + settings.genes_per_block, expression.shape[1]))
        parts.append(_strongest(centred.absolute_correlation(block, settings.min_common_samples), start, settings))
    source, target, weight = (np.concatenate(column) for column in zip(*parts, strict=True))
    return GeneGraph(source, target, weight, origin.get("vocabulary_sha256", ""), origin)


@dataclass(frozen=True)
class _Profiles:
    """Values less the mean of their gene, ``x`` [N, G], with 0 where missing; and for each of P patterns of missing
    genes: the number of ``profiles`` [P]; ``measured`` (1 or 0), ``sums`` of x and of its ``squares`` [P, G]."""

    x: np.ndarray
    profiles: np.ndarray
    measured: np.ndarray
    sums: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, expression: np.ndarray) -> _Profiles:
        x_NG = expression.astype(np.float32)
        missing_NG = np.isnan(x_NG)
        x_NG[missing_NG] = 0
        measured_G = len(x_NG) - missing_NG.sum(axis=0)
        x_NG -= (x_NG.sum(axis=0, dtype=np.float64) / np.maximum(measured_G, 1)).astype(np.float32)
        x_NG[missing_NG] = 0
        patterns, first, pattern_N = np.unique(
            np.array([np.packbits(row).tobytes() for row in missing_NG]), return_index=True, return_inverse=True
        )
        groups = [pattern_N == pattern for pattern in range(len(patterns))]
        return cls(
            x=x_NG,
            profiles=np.array([group.sum() for group in groups], np.float32),
            measured=(~missing_NG[first]).astype(np.float32),
            sums=np.stack([x_NG[group].sum(axis=0) for group in groups]),
            squares=np.stack([np.square(x_NG[group]).sum(axis=0) for group in groups]),
        )

    def absolute_correlation(self, block: slice, min_common_samples: int) -> np.ndarray:
        """|r| of the genes of a block, B of them, with all others, float32 [B, G]; 0 where there is none."""
        measured_PB = self.measured[:, block]
        common_BG = (measured_PB * self.profiles[:, None]).T @ self.measured
        np.maximum(common_BG, 1, out=common_BG)
        own_sum_BG = self.sums[:, block].T @ self.measured
        other_sum_BG = measured_PB.T @ self.sums
        covariance_BG = self.x[:, block].T @ self.x - own_sum_BG * other_sum_BG / common_BG
        own_BG = _variation(self.squares[:, block].T @ self.measured, own_sum_BG, common_BG)
        other_BG = _variation(measured_PB.T @ self.squares, other_sum_BG, common_BG)
        product_BG = np.sqrt(own_BG * other_BG)
        usable_BG = (product_BG > 0) & (common_BG >= min_common_samples)
        correlation_BG = np.divide(covariance_BG, product_BG, out=np.zeros_like(covariance_BG), where=usable_BG)
        return np.minimum(np.abs(correlation_BG, out=correlation_BG), 1, out=correlation_BG)


def _variation(squares: np.ndarray, total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Sum of squared deviations from the mean; 0 where it is no more than rounding."""
    deviation = squares - np.square(total) / count
    return np.where(deviation > _ROUNDING * squares, deviation, np.float32(0))


def _strongest(
    correlation_BG: np.ndarray, first_gene: int, settings: GraphSettings
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(source, target, weight) of the strongest edges into each gene of a block."""
    own = np.arange(len(correlation_BG))
    correlation_BG[own, first_gene + own] = 0
    neighbours = min(settings.max_neighbours, correlation_BG.shape[1])
    nearest_BK = np.argpartition(correlation_BG, -neighbours, axis=1)[:, -neighbours:]
    weight_BK = np.take_along_axis(correlation_BG, nearest_BK, axis=1)
    target_BK = np.broadcast_to((first_gene + own)[:, None], nearest_BK.shape)
    strong = weight_BK >= settings.min_correlation
    source, target, weight = nearest_BK[strong], target_BK[strong], weight_BK[strong]
    order = np.lexsort((source, -weight, target))
    return source[order].astype(np.int32), target[order].astype(np.int32), weight[order].astype(np.float32)


def _origin(corpus: Corpus, settings: GraphSettings, profiles: int) -> dict[str, Any]:
    return {
        "vocabulary_sha256": corpus.vocabulary.fingerprint,
        "corpus_sha256": corpus.fingerprint,
        "split": "train",
        "profiles": profiles,
        "min_correlation": settings.min_correlation,
        "max_neighbours": settings.max_neighbours,
        "min_common_samples": settings.min_common_samples,
    }
