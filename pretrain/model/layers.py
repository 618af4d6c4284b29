"""The slow inner parts of the encoder, each with two implementations of the same mathematics under the same names.

``reference`` runs the published modules as they are: performer-pytorch's FAVOR+ attention and feed-forward, and PyG's
graph convolution over an edge index. ``fused`` computes the same numbers in chunks that stay in cache, keeps less for
the backward pass, and touches memory less often. The modules of ``pretrain.kernels`` hold its parts;
``pretrain.kernels.device`` has every choice that depends on the device.

Weights that a fused part needs are looked up in the forward pass: DeepSpeed ZeRO-3 gathers parameters then, and when
their own module is called.

Shapes in names: B samples, G genes, D width, E edges, H heads, K = D / H.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from performer_pytorch import Performer
from performer_pytorch.performer_pytorch import FeedForward, SelfAttention
from torch import Tensor, nn
from torch_geometric.nn import GCNConv

from dataprep.corpus import GeneGraph
from pretrain.config import Recompute
from pretrain.kernels.device import sum_dtype
from pretrain.kernels.dropout import add_dropped, draw_seed
from pretrain.kernels.favor import favor_attention
from pretrain.kernels.graph_product import Adjacency
from pretrain.kernels.normed_linear import normed_and_linear, normed_linear
from pretrain.kernels.two_layer import two_layer
from pretrain.model.pyg_internals import remove_generated_source
from pretrain.shape import ModelShape


class KernelOptions(NamedTuple):
    """How the inner parts are computed; none of it changes a tensor's name or, beyond rounding, a number."""

    fused: bool = False
    compile: bool = False
    recompute: Recompute = "nothing"


class GraphConvolution(GCNConv):
    """PyG's GCNConv with symmetric normalisation by edge weights and no self-loops, as published.

    Called with the norm in front of it, it gives ``n + convolution(n)`` of ``n = norm(x)``, B x G x D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim, dim, add_self_loops=False, cached=True)
        remove_generated_source(self)

    def forward(self, hidden_BGD: Tensor, norm: nn.LayerNorm, edge_index_2E: Tensor, edge_weight_E: Tensor) -> Tensor:
        normed_BGD = norm(hidden_BGD)
        # in place: nothing else uses the convolution's result, which is fp32 also under autocast
        return super().forward(normed_BGD, edge_index_2E, edge_weight_E).add_(normed_BGD)


class FusedGraphConvolution(GraphConvolution):
    """The same convolution as one sparse product over the whole batch, with an adjacency normalised beforehand."""

    def __init__(self, dim: int, adjacency: Adjacency, options: KernelOptions) -> None:
        super().__init__(dim)
        self.adjacency = adjacency
        self.options = options

    def forward(self, hidden_BGD: Tensor, norm: nn.LayerNorm, edge_index_2E: Tensor, edge_weight_E: Tensor) -> Tensor:
        """2 D (D + E/G) FLOPs per gene; kept for the backward pass: the input. The edges are already in the adjacency.

        Sums in fp32 under bf16.
        """
        normed_BGD, messages_BGD = normed_and_linear(hidden_BGD, norm, self.lin.weight, self.options.compile)
        return self.adjacency(messages_BGD.to(sum_dtype(messages_BGD))).add_(self.bias).add_(normed_BGD)


class FusedPerformer(Performer):
    """A Performer of depth 1 with chunked attention and feed-forward.

    Forward FLOPs per gene: 8 D^2 in the projections, 8 D M in attention (M random features per head), 16 D^2 in the
    feed-forward; backward twice that and 4 D M. Kept for the backward pass per gene: 10 D numbers, of them 4 D for the
    feed-forward's hidden layer; the published code keeps 25 D + 6 H M.
    """

    def __init__(self, *arguments: Any, options: KernelOptions, **numbers: Any) -> None:
        super().__init__(*arguments, **numbers)
        self.options = options

    def forward(self, hidden_BGD: Tensor) -> Tensor:
        attention, feed_forward = self.net.layers[0]
        hidden_BGD = self._attend(attention.fn, attention.norm, hidden_BGD)
        return self._feed_forward(feed_forward.fn.fn, feed_forward.norm, hidden_BGD)

    def _attend(self, attention: SelfAttention, norm: nn.LayerNorm, hidden_BGD: Tensor) -> Tensor:
        # one product with the weights of all three: the input is read once, and its gradient written once
        layers = (attention.to_q, attention.to_k, attention.to_v)
        weight = torch.cat([layer.weight for layer in layers])
        bias = torch.cat([layer.bias for layer in layers])
        projected = normed_linear(hidden_BGD, norm, weight, bias, self.options.compile)
        query_key_value = projected.unflatten(-1, (3, attention.heads, -1))
        projection_MK = attention.fast_attention.projection_matrix
        answer_BGHK = favor_attention(query_key_value, projection_MK, self.options.compile)
        branch_BGD = attention.to_out(answer_BGHK.flatten(2))
        rate = attention.dropout.p
        if not (self.training and rate):
            return hidden_BGD + branch_BGD
        return add_dropped(hidden_BGD, branch_BGD, rate, self.options.compile)

    def _feed_forward(self, layers: FeedForward, norm: nn.LayerNorm, hidden_BGD: Tensor) -> Tensor:
        rate = layers.dropout.p if self.training else 0.0
        seed = draw_seed(hidden_BGD.device) if rate else None
        compile, recompute = self.options.compile, self.options.recompute == "hidden"
        return two_layer(hidden_BGD, layers.w1, layers.w2, "gelu", norm, True, rate, seed, compile, recompute)


def graph_convolution(shape: ModelShape, graph: GeneGraph, options: KernelOptions) -> GraphConvolution:
    if options.fused:
        return FusedGraphConvolution(shape.dim, Adjacency(graph, shape.genes), options)
    return GraphConvolution(shape.dim)


def performer_layer(shape: ModelShape, options: KernelOptions) -> Performer:
    """One Performer of depth 1. Random features are redrawn by the training loop, never by the module itself:

    each rank would draw its own, and recomputing activations would draw in between.
    """
    implementation = partial(FusedPerformer, options=options) if options.fused else Performer
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


class FusedTwoLinear(nn.Sequential):
    """Linear, ReLU, Linear in chunks: see :mod:`pretrain.kernels.two_layer`."""

    def __init__(self, *layers: nn.Module, recompute: bool) -> None:
        super().__init__(*layers)
        self.recompute = recompute

    def forward(self, inputs: Tensor) -> Tensor:
        return two_layer(inputs, self[0], self[2], "relu", recompute=self.recompute)


class FusedHead(nn.Sequential):
    """LayerNorm, Linear, ReLU, Linear to one number, ReLU: all but the last in chunks."""

    def __init__(self, *layers: nn.Module, recompute: bool) -> None:
        super().__init__(*layers)
        self.recompute = recompute

    def forward(self, inputs: Tensor) -> Tensor:
        norm = self[0]
        assert isinstance(norm, nn.LayerNorm)
        return two_layer(inputs, self[1], self[3], "relu", norm, recompute=self.recompute).relu()


def expression_head(width: int, hidden: int, options: KernelOptions) -> nn.Sequential:
    """From the embedding of a gene to its expression."""
    # A gene whose first outputs are negative would get no gradient through the last ReLU, and the mean
    # correction leaves this bias none either, so it starts well inside the range of log1p(TPM).
    last = nn.Linear(hidden, 1)
    nn.init.constant_(last.bias, 3.0)
    layers = nn.LayerNorm(width), nn.Linear(width, hidden), nn.ReLU(), last, nn.ReLU()
    return FusedHead(*layers, recompute=options.recompute == "hidden") if options.fused else nn.Sequential(*layers)


def two_linear(inputs: int, hidden: int, outputs: int, options: KernelOptions) -> nn.Sequential:
    """Linear, ReLU, Linear on the last dimension."""
    layers = nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs)
    return FusedTwoLinear(*layers, recompute=options.recompute == "hidden") if options.fused else nn.Sequential(*layers)
