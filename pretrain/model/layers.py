"""The slow inner parts of the encoder, each with two implementations of the same mathematics under the same names.

``reference`` runs the published modules as they are: performer-pytorch's FAVOR+ attention and feed-forward, and PyG's
graph convolution over an edge index. ``fused`` computes the same numbers in chunks that stay in cache, keeps less for
the backward pass, and touches memory less often. The modules of ``pretrain.kernels`` hold its parts;
``pretrain.kernels.device`` has every choice that depends on the device.

Weights that a fused part needs are looked up in the forward pass: DeepSpeed ZeRO-3 gathers parameters then, and when
their own module is called.

Shapes in names: B samples, G genes, D width, W width of a bottleneck, E edges, H heads, K = D / H.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple, cast

import torch
from performer_pytorch import Performer
from performer_pytorch.performer_pytorch import FeedForward, PreLayerNorm, SelfAttention
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch_geometric.nn import GCNConv

from dataprep.corpus import GeneGraph
from pretrain.config import Recompute
from pretrain.kernels.device import sum_dtype
from pretrain.kernels.dropout import add_dropped, draw_seed
from pretrain.kernels.favor import favor_attention
from pretrain.kernels.graph_product import Adjacency
from pretrain.kernels.normed_linear import normed_and_linear, normed_linear
from pretrain.kernels.pyg_internals import remove_generated_source
from pretrain.kernels.two_layer import two_layer
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


class PlainLayer(nn.ModuleList):
    """A layer of a Performer as performer-pytorch has it: attention and feed-forward, each with its norm in front.

    A module that can be called, so that recomputation has one to call, for which ZeRO-3 gathers parameters again.
    """

    def forward(self, hidden_BGD: Tensor) -> Tensor:
        attention, feed_forward = self
        hidden_BGD = hidden_BGD + attention(hidden_BGD)
        return hidden_BGD + feed_forward(hidden_BGD)


class FusedLayer(nn.ModuleList):
    """The same layer with chunked attention and feed-forward.

    Forward FLOPs per gene: 8 D^2 in the projections, 8 D M in attention (M random features per head), 16 D^2 in the
    feed-forward; backward twice that and 4 D M. Kept for the backward pass per gene: 10 D numbers, of them 4 D for the
    feed-forward's hidden layer; the published code keeps 25 D + 6 H M.
    """

    def __init__(self, parts: nn.ModuleList, options: KernelOptions) -> None:
        super().__init__(parts)
        self.options = options

    def forward(self, hidden_BGD: Tensor) -> Tensor:
        attention, feed_forward = cast("tuple[PreLayerNorm, PreLayerNorm]", tuple(self))
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


class LayeredPerformer(Performer):
    """A Performer whose layers are called one by one, so that each can be kept or computed again."""

    def __init__(self, options: KernelOptions, **numbers: Any) -> None:
        super().__init__(**numbers)
        layer = partial(FusedLayer, options=options) if options.fused else PlainLayer
        self.net.layers = nn.ModuleList(layer(parts) for parts in self.net.layers)
        self.recompute = options.recompute == "layers"

    def forward(self, hidden_BGD: Tensor) -> Tensor:
        for layer in self.net.layers:
            if self.recompute and torch.is_grad_enabled():
                hidden_BGD = checkpoint(layer, hidden_BGD, use_reentrant=False)
            else:
                hidden_BGD = layer(hidden_BGD)
        return hidden_BGD


class GraphBottleneck(nn.Module):
    """``h + s dropout(W_out gelu(GCN(W_in norm(h))))``, without biases, ``s`` trained for each channel."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.residual_scale = nn.Parameter(torch.full((shape.dim,), 0.01))
        self.norm = nn.LayerNorm(shape.dim)
        self.input_projection = nn.Linear(shape.dim, shape.graph_dim, bias=False)
        self.convolution = GCNConv(shape.graph_dim, shape.graph_dim, add_self_loops=False, cached=True, bias=False)
        remove_generated_source(self.convolution)
        self.output_projection = nn.Linear(shape.graph_dim, shape.dim, bias=False)
        self.dropout = nn.Dropout(shape.feed_forward_dropout)

    def forward(self, hidden_BGD: Tensor, edge_index_2E: Tensor, edge_weight_E: Tensor) -> Tensor:
        messages_BGW = self.convolution(self.input_projection(self.norm(hidden_BGD)), edge_index_2E, edge_weight_E)
        branch_BGD = self.dropout(self.output_projection(F.gelu(messages_BGW)))
        return hidden_BGD + self.residual_scale * branch_BGD


class FusedGraphBottleneck(GraphBottleneck):
    """The same block, in which nothing as wide as the hidden states but its input is kept for the backward pass."""

    def __init__(self, shape: ModelShape, adjacency: Adjacency, options: KernelOptions) -> None:
        super().__init__(shape)
        self.adjacency = adjacency
        self.options = options

    def forward(self, hidden_BGD: Tensor, edge_index_2E: Tensor, edge_weight_E: Tensor) -> Tensor:
        """4 D W + 2 W E/G FLOPs per gene; kept: the input, and 2 W numbers. Edges are already in the adjacency.

        What is linear in a row is one product: the two layers in front of the sum over neighbours, which is in fp32,
        and the layer behind it with its scale.
        """
        inwards_WD = self.convolution.lin.weight @ self.input_projection.weight
        messages_BGW = normed_linear(hidden_BGD, self.norm, inwards_WD, None, self.options.compile)
        summed_BGW = self.adjacency(messages_BGW.to(sum_dtype(messages_BGW)))
        outwards_DW = self.residual_scale.unsqueeze(1) * self.output_projection.weight
        branch_BGD = F.linear(F.gelu(summed_BGW), outwards_DW)
        if not (self.training and self.dropout.p):
            return hidden_BGD + branch_BGD
        return add_dropped(hidden_BGD, branch_BGD, self.dropout.p, self.options.compile)


def graph_convolution(shape: ModelShape, graph: GeneGraph, options: KernelOptions) -> GraphConvolution:
    if options.fused:
        return FusedGraphConvolution(shape.dim, Adjacency(graph, shape.genes), options)
    return GraphConvolution(shape.dim)


def graph_bottleneck(shape: ModelShape, graph: GeneGraph, options: KernelOptions) -> GraphBottleneck:
    if options.fused:
        return FusedGraphBottleneck(shape, Adjacency(graph, shape.genes), options)
    return GraphBottleneck(shape)


def performer(shape: ModelShape, depth: int, options: KernelOptions) -> LayeredPerformer:
    """A Performer of ``depth`` layers. Random features are redrawn by the training loop, never by the module itself:

    each rank would draw its own, and recomputing activations would draw in between.
    """
    # performer-pytorch draws its features on the CPU and cannot do so for a default device that holds no data (meta)
    with torch.device("cpu"):
        made = LayeredPerformer(
            options,
            dim=shape.dim,
            depth=depth,
            heads=shape.heads,
            dim_head=shape.dim // shape.heads,
            nb_features=shape.random_features,
            attn_dropout=shape.attention_dropout,
            ff_dropout=shape.feed_forward_dropout,
            auto_check_redraw=False,
            qkv_bias=True,
            attn_out_bias=True,
        )
    return made.to(torch.get_default_device())


class FusedTwoLinear(nn.Sequential):
    """Linear, ReLU, Linear in chunks: see :mod:`pretrain.kernels.two_layer`."""

    def __init__(self, *layers: nn.Module, recompute: bool) -> None:
        super().__init__(*layers)
        self.recompute = recompute

    def forward(self, inputs: Tensor) -> Tensor:
        return two_layer(inputs, self[0], self[2], "relu", recompute=self.recompute)


class FusedHead(nn.Sequential):
    """LayerNorm, Linear, ReLU, Linear to one number, and ReLU but for corrections: all but the last in chunks."""

    def __init__(self, *layers: nn.Module, recompute: bool) -> None:
        super().__init__(*layers)
        self.recompute = recompute

    def forward(self, inputs: Tensor) -> Tensor:
        norm = self[0]
        assert isinstance(norm, nn.LayerNorm)
        outputs = two_layer(inputs, self[1], self[3], "relu", norm, recompute=self.recompute)
        return outputs.relu() if len(self) == 5 else outputs


class FusedFreeHead(nn.Sequential):
    """Linear, GELU, dropout, Linear to one number, in chunks."""

    def __init__(self, *layers: nn.Module, options: KernelOptions) -> None:
        super().__init__(*layers)
        self.options = options

    def forward(self, inputs: Tensor) -> Tensor:
        dropout = self[2]
        assert isinstance(dropout, nn.Dropout)
        rate = dropout.p if self.training else 0.0
        seed = draw_seed(inputs.device) if rate else None
        compile, recompute = self.options.compile, self.options.recompute == "hidden"
        return two_layer(inputs, self[0], self[3], "gelu", None, False, rate, seed, compile, recompute)


def free_head(dim: int, dropout: float, options: KernelOptions, corrects: bool = False) -> nn.Sequential:
    """From the embedding of a gene to its expression, of any sign; or, where it ``corrects`` a prior, to what is added.

    A correction begins at zero.
    """
    last = nn.Linear(dim, 1)
    if corrects:
        _start_at_zero(last)
    layers = nn.Linear(dim, dim), nn.GELU(), nn.Dropout(dropout), last
    return FusedFreeHead(*layers, options=options) if options.fused else nn.Sequential(*layers)


def expression_head(width: int, hidden: int, options: KernelOptions, corrects: bool = False) -> nn.Sequential:
    """From the embedding of a gene to its expression; or, where it ``corrects`` a prior, to what is added.

    A correction begins at zero, and has any sign: the last ReLU is left out.
    """
    # A gene whose first outputs are negative would get no gradient through the last ReLU, and the mean
    # correction leaves this bias none either, so it starts well inside the range of log1p(TPM).
    last = nn.Linear(hidden, 1)
    nn.init.constant_(last.bias, 3.0)
    if corrects:
        _start_at_zero(last)
    layers = nn.LayerNorm(width), nn.Linear(width, hidden), nn.ReLU(), last, *(() if corrects else (nn.ReLU(),))
    return FusedHead(*layers, recompute=options.recompute == "hidden") if options.fused else nn.Sequential(*layers)


def _start_at_zero(layer: nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


def two_linear(inputs: int, hidden: int, outputs: int, options: KernelOptions) -> nn.Sequential:
    """Linear, ReLU, Linear on the last dimension."""
    layers = nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs)
    return FusedTwoLinear(*layers, recompute=options.recompute == "hidden") if options.fused else nn.Sequential(*layers)
