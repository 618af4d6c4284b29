"""The least that a model can begin with: what each gene is on average."""

from __future__ import annotations

import numpy as np
import torch

from dataprep.corpus import Corpus, read_split
from pretrain.model.linear_prior import LinearPrior
from pretrain.prior.principal import by_gene

# Means of so many profiles are as good as those of all, and every worker can read them: 40 kB each.
_PROFILES = 2_048


def gene_mean_prior(corpus: Corpus) -> LinearPrior:
    """The mean of every gene over the first profiles of the train split, which is shuffled, whatever is observed.

    It is a linear prior whose one component no gene loads on.
    """
    _, expression_NG = read_split(corpus, "train", _PROFILES)
    means_G = torch.from_numpy(by_gene(np.nanmean, expression_NG))
    return LinearPrior.of(means_G, torch.zeros(corpus.genes, 1), torch.ones(corpus.genes))
