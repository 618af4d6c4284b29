"""From embeddings of genes to one of the profile. B profiles, G genes, D' = D + 3 numbers per gene."""

from __future__ import annotations

from torch import Tensor


def pooled(embedding_BGD: Tensor, pooling: str) -> Tensor:
    """Pool over genes, B x D': ``mean``, ``max``, ``median``, or ``all``, the sum of the three (REFERENCE)."""
    if pooling == "mean":
        return embedding_BGD.mean(dim=1)
    if pooling == "max":
        return embedding_BGD.amax(dim=1)
    if pooling == "median":
        return median_over_genes(embedding_BGD)
    assert pooling == "all", pooling
    return embedding_BGD.amax(dim=1) + embedding_BGD.mean(dim=1) + median_over_genes(embedding_BGD)


def median_over_genes(embedding_BGD: Tensor) -> Tensor:
    """The exact median, B x D': for an even number of genes the mean of the middle two, where torch takes the lower.

    By selection, not sorting: linear in G.
    """
    genes = embedding_BGD.shape[1]
    by_feature = embedding_BGD.transpose(1, 2).contiguous()
    lower = by_feature.kthvalue((genes + 1) // 2, dim=-1).values
    if genes % 2:
        return lower
    upper = by_feature.kthvalue(genes // 2 + 1, dim=-1).values
    return (lower + upper) / 2
