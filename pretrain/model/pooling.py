"""From the embeddings of genes to the embedding of a sample. B samples, G genes, W width."""

from __future__ import annotations

import torch
from torch import Tensor

from pretrain.config import Pooling


def pool_genes(embedding_BGW: Tensor, pooling: Pooling) -> Tensor:
    """Pool over the genes: B x W, on the device of the embeddings. ``all`` is max + mean + median, as published."""
    if pooling == "mean":
        return embedding_BGW.mean(dim=1)
    if pooling == "max":
        return embedding_BGW.amax(dim=1)
    if pooling == "median":
        return median_of_genes(embedding_BGW)
    assert pooling == "all", pooling
    return embedding_BGW.amax(dim=1) + embedding_BGW.mean(dim=1) + median_of_genes(embedding_BGW)


def median_of_genes(embedding_BGW: Tensor) -> Tensor:
    """The exact median, with the mean of the middle two where their number is even (torch's own takes the lower).

    By selection, not by sorting: linear in the number of genes. One sample at a time, so that the copy that puts a
    feature's values side by side is that of one sample.
    """
    genes = embedding_BGW.shape[1]
    middle = []
    for embedding_GW in embedding_BGW:
        values_WG = embedding_GW.T.contiguous()
        lower_W = values_WG.kthvalue((genes + 1) // 2, dim=1).values
        middle.append(lower_W if genes % 2 else (lower_W + values_WG.kthvalue(genes // 2 + 1, dim=1).values) / 2)
    return torch.stack(middle)
