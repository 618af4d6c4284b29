"""The slow inner parts of the encoder, each with two implementations of the same mathematics under the same names.

``reference`` runs the published modules as they are: performer-pytorch's FAVOR+ attention and feed-forward, and PyG's
graph convolution over an edge index. ``fused`` computes the same numbers in chunks that stay in cache, keeps less for
the backward pass, and touches memory less often; ``pretrain.favor``, ``pretrain.two_layer``, ``pretrain.graph_product``
and ``pretrain.dropout`` hold its parts, ``pretrain.device`` every choice that depends on the device.

Projections and norms run through their own modules, and weights that a fused part needs are looked up in the forward
pass: DeepSpeed ZeRO-3 gathers parameters at just these two occasions.

Shapes in names: B samples, G genes, D width, E edges, H heads, K = D / H.
"""

from __future__ import annotations

import torch
from performer_pytorch import Performer
from performer_pytorch.performer_pytorch import FeedForward, SelfAttention
from torch import Tensor, nn
from torch_geometric.nn import GCNConv

from dataprep.gene_graph import GeneGraph
from pretrain.config import ModelShape
from pretrain.dropout import draw_seed, drop
from pretrain.favor import favor_attention
from pretrain.graph_product import Adjacency
from pretrain.two_layer import two_layer


class GraphConvolution(GCNConv):
    """PyG's GCNConv with symmetric normalisation by edge weights and no self-loops, as published."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, dim, add_self_loops=False, cached=True)


class FusedGraphConvolution(GraphConvolution):
    """The same convolution as one sparse product over the whole batch, with an adjacency normalised beforehand."""

    def __init__(self, dim: int, adjacency: Adjacency) -> None:
        super().__init__(dim)
        self.adjacency = adjacency

    def forward(self, hidden_BGD: Tensor, edge_index_2E: Tensor, edge_weight_E: Tensor) -> Tensor:
        """2 D (D + E/G) FLOPs per gene. The edges are already in the adjacency."""
        return self.adjacency(self.lin(hidden_BGD).float()) + self.bias


class FusedPerformer(Performer):
    """A Performer of depth 1 with chunked attention and feed-forward.

    Forward FLOPs per gene: 8 D^2 in the projections, 8 D M in attention (M random features per head), 16 D^2 in the
    feed-forward; backward twice that and 4 D M. Kept for the backward pass per gene: 12 D numbers, of them 4 D for the
    feed-forward's hidden layer; the published code keeps 25 D + 6 H M.
    """

    def forward(self, hidden_BGD: Tensor) -> Tensor:
        attention, feed_forward = self.net.layers[0]
        hidden_BGD = hidden_BGD + self._attend(attention.fn, attention.norm(hidden_BGD))
        return self._feed_forward(feed_forward.fn.fn, feed_forward.norm(hidden_BGD), hidden_BGD)

    def _attend(self, attention: SelfAttention, normed_BGD: Tensor) -> Tensor:
        projections = (attention.to_q, attention.to_k, attention.to_v)
        query, key, value = (project(normed_BGD).unflatten(-1, (attention.heads, -1)) for project in projections)
        answer_BGHK = favor_attention(query, key, value, attention.fast_attention.projection_matrix)
        branch_BGD = attention.to_out(answer_BGHK.flatten(2))
        rate = attention.dropout.p
        return drop(branch_BGD, draw_seed(branch_BGD.device), rate) if self.training and rate else branch_BGD

    def _feed_forward(self, feed_forward: FeedForward, normed_BGD: Tensor, residual_BGD: Tensor) -> Tensor:
        rate = feed_forward.dropout.p if self.training else 0.0
        seed = draw_seed(normed_BGD.device) if rate else None
        return two_layer(normed_BGD, feed_forward.w1, feed_forward.w2, "gelu", residual_BGD, rate, seed)


def graph_convolution(shape: ModelShape, kernel: str, graph: GeneGraph) -> GraphConvolution:
    if kernel == "fused":
        return FusedGraphConvolution(shape.dim, Adjacency(graph, shape.genes))
    return GraphConvolution(shape.dim)


def performer_layer(shape: ModelShape, kernel: str) -> Performer:
    """One Performer of depth 1. Random features are redrawn by the training loop, never by the module itself:

    each rank would draw its own, and recomputing activations would draw in between.
    """
    implementation = FusedPerformer if kernel == "fused" else Performer
    # performer-pytorch draws its features on the CPU and cannot do so for a default device that holds no data (meta)
    with torch.device("cpu"):
        layer = implementation(
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
    return layer.to(torch.get_default_device())


def apply_two_layer(layers: nn.Sequential, inputs: Tensor, kernel: str) -> Tensor:
    """Linear, ReLU, Linear on the last dimension."""
    return two_layer(inputs, layers[0], layers[2], "relu") if kernel == "fused" else layers(inputs)
