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
        return _pool_observed(embedding_BGW, pooling, observed_BG)
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


def _pool_observed(embedding_BGW: Tensor, pooling: Pooling, observed_BG: Tensor) -> Tensor:
    """Pool over the observed genes. Nothing waits for the device: their number is not asked for on the host."""
    if pooling == "all":
        largest_BW, mean_BW = (_pool_observed(embedding_BGW, each, observed_BG) for each in ("max", "mean"))
        return largest_BW + mean_BW + _pool_observed(embedding_BGW, "median", observed_BG)
    count_B1 = observed_BG.sum(dim=1, keepdim=True)
    if pooling == "mean":
        total_B1W = torch.bmm(observed_BG.to(embedding_BGW.dtype).unsqueeze(1), embedding_BGW)
        return total_B1W.squeeze(1) / count_B1.clamp(min=1)
    pooled_BW = embedding_BGW.new_empty(len(embedding_BGW), embedding_BGW.shape[2])
    for part in samples_together(len(embedding_BGW), embedding_BGW.device):
        hidden_SG1 = ~observed_BG[part].unsqueeze(-1)
        if pooling == "max":
            pooled_BW[part] = embedding_BGW[part].masked_fill(hidden_SG1, -torch.inf).amax(dim=1)
        else:
            # hidden genes come last
            sorted_SGW = embedding_BGW[part].masked_fill(hidden_SG1, torch.inf).sort(dim=1).values
            last_S11 = (count_B1[part].unsqueeze(-1) - 1).clamp(min=0)
            middle_S2W = torch.cat([last_S11 // 2, (last_S11 + 1) // 2], dim=1).expand(-1, -1, sorted_SGW.shape[2])
            pooled_BW[part] = sorted_SGW.gather(1, middle_S2W).mean(dim=1)
    return pooled_BW.masked_fill(count_B1 == 0, 0.0)
