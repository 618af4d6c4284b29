"""From the embeddings of genes to the embedding of a sample. B samples (S worked on together), G genes, W width."""

from __future__ import annotations

import torch
from torch import Tensor

from pretrain.config import Pooling
from pretrain.kernels.device import samples_together


def pool_genes(embedding_BGW: Tensor, pooling: Pooling, observed_BG: Tensor | None = None) -> Tensor:
    """Pool over the genes: B x W, on the device of the embeddings. ``all`` is max + mean + median, as published.

    Where ``observed`` is given, over the genes that it marks; zeros for a sample that has none of them.
    """
    if observed_BG is not None:
        pooled = [
            pool_genes(sample_GW[observed_G].unsqueeze(0), pooling)
            if observed_G.any()
            else sample_GW.new_zeros(1, sample_GW.shape[1])
            for sample_GW, observed_G in zip(embedding_BGW, observed_BG, strict=True)
        ]
        return torch.cat(pooled)
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

    By selection, not by sorting: linear in the number of genes. The copy that puts a feature's values side by side is
    that of the samples that the device works on together.
    """
    samples, genes, width = embedding_BGW.shape
    median_BW = embedding_BGW.new_empty(samples, width)
    for part in samples_together(samples, embedding_BGW.device):
        values_SWG = embedding_BGW[part].transpose(1, 2).contiguous()
        lower_SW = values_SWG.kthvalue((genes + 1) // 2, dim=2).values
        upper_SW = lower_SW if genes % 2 else values_SWG.kthvalue(genes // 2 + 1, dim=2).values
        median_BW[part] = (lower_SW + upper_SW) / 2
    return median_BW
