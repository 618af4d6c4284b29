"""The two slow inner parts of the encoder, each with more than one implementation of the same mathematics.

``reference`` runs the published modules as they are: performer-pytorch's FAVOR+ attention, and PyG's graph
convolution over an edge index.
"""

from __future__ import annotations

from performer_pytorch import Performer
from torch import nn
from torch_geometric.nn import GCNConv

from pretrain.config import ModelShape


class GraphConvolution(GCNConv):
    """PyG's GCNConv with symmetric normalisation by edge weights and no self-loops, as published."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, dim, add_self_loops=False, cached=True)


def performer_layer(shape: ModelShape, kernel: str) -> nn.Module:
    """One Performer of depth 1. Random features are redrawn by the training loop, never by the module itself:

    each rank would draw its own, and recomputing activations would draw in between.
    """
    return Performer(
        dim=shape.dim,
        depth=1,
        heads=shape.heads,
        dim_head=shape.dim // shape.heads,
        attn_dropout=shape.attention_dropout,
        ff_dropout=shape.feed_forward_dropout,
        auto_check_redraw=False,
        qkv_bias=True,
        attn_out_bias=True,
    )
