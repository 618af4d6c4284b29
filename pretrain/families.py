"""The published families of models, and all in which they differ outside their own formulas. Free of torch.

A family is a row here and a module with its encoder, a subclass of :class:`pretrain.model.bulkformer.BulkFormer`.
Data, masks, loss, training, checkpoints, exports and evaluation are the same for all; where they depend on the family,
they ask this table, or the encoder for what a pass costs. What tensors say of a model's sizes is in
:mod:`pretrain.model.tensor_shapes`, the published files in :mod:`pretrain.artifacts`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dataprep.corpus import TpmOver

FamilyName = Literal["original", "latest"]


@dataclass(frozen=True)
class Family:
    """What one needs to know of a family without its formulas.

    - ``encoder``: its class, as MODULE:CLASS.
    - ``summary_features``: numbers of a sample that widen the embedding of each of its genes.
    - ``pools_observed``: whether a sample's embedding is a pool over its observed genes alone.
    - ``tpm_over``: genes over which the published weights expect the sum in TPM's denominator.
    - ``features_per_head``: random features by default; None for int(d ln d) of heads of width d.
    - ``redraws_features``: whether training draws them anew from time to time; otherwise they belong to the weights.
    - ``graph_bottleneck``: the hidden width over that of the graph convolution; None where there is no bottleneck.
    """

    encoder: str
    summary_features: int
    pools_observed: bool
    tpm_over: TpmOver
    features_per_head: int | None
    redraws_features: bool
    graph_bottleneck: int | None


# In words.
TPM_OVER: dict[TpmOver, str] = {
    "source": "every gene of the source",
    "vocabulary": "the genes of the vocabulary alone",
}

FAMILIES: dict[FamilyName, Family] = {
    # 37M to 147M, released until 2026-05
    "original": Family(
        encoder="pretrain.model.original:OriginalBulkFormer",
        summary_features=3,
        pools_observed=False,
        tpm_over="source",
        features_per_head=None,
        redraws_features=True,
        graph_bottleneck=None,
    ),
    # bulkformer-latest, released 2026-10
    "latest": Family(
        encoder="pretrain.model.latest:LatestBulkFormer",
        summary_features=0,
        pools_observed=True,
        tpm_over="vocabulary",
        features_per_head=256,
        redraws_features=False,
        graph_bottleneck=4,
    ),
}
