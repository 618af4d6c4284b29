"""The second family, ``bulkformer-latest``: scaled expression, a bottleneck around the graph, one deep Performer.

Shapes in names: B samples, G genes, D hidden width, W width of the bottleneck, E edges. The module tree and its
parameter names are those of the released ``model.pt`` (2026-10), so that it loads by name, strictly.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dataprep.corpus import GeneGraph
from pretrain.model.bulkformer import BulkFormer, ModelInput
from pretrain.model.layers import KernelOptions, free_head, graph_bottleneck, performer
from pretrain.shape import ModelShape

# The share of genes that is visible where the expression of each counts once; fewer visible genes count for more, up
# to a limit.
USUAL_VISIBLE, LEAST_VISIBLE, LARGEST_FACTOR = 0.9, 0.05, 2.0
IDENTITY_EPSILON = 1e-8


class LatestBulkFormer(BulkFormer):
    """No sample context, no summary features, no mean correction; random features belong to the weights."""

    frequencies: Tensor

    def build(self, graph: GeneGraph, options: KernelOptions) -> None:
        shape, dim = self.shape, self.shape.dim
        # a vector of one, and a scalar in state dicts as in the release: DeepSpeed cannot broadcast scalars
        self.expression_scale = nn.Parameter(torch.ones(1))
        self.register_state_dict_post_hook(_scale_as_released)
        self.register_load_state_dict_pre_hook(_scale_as_trained)
        self.gene_embedding = nn.Embedding(shape.genes, dim)
        nn.init.normal_(self.gene_embedding.weight, std=dim**-0.5)
        self.input_norm = nn.LayerNorm(dim)
        self.graph_block = graph_bottleneck(shape, graph, options)
        self.pre_performer_norm = nn.LayerNorm(dim)
        self.performer = performer(shape, shape.performer_layers, options)
        self.output_norm = nn.LayerNorm(dim)
        self.expression_head = free_head(dim, shape.feed_forward_dropout, options, corrects=bool(shape.prior_rank))
        frequencies = 100.0 ** (-torch.arange(0, dim, 2, dtype=torch.float32) / dim)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def encode(self, inputs: ModelInput) -> Tensor:
        hidden_BGD = self.input_norm(self._identity() + self._expression(inputs))
        hidden_BGD = self.graph_block(hidden_BGD, self.edge_index, self.edge_weight)
        return self.output_norm(self.performer(self.pre_performer_norm(hidden_BGD)))

    def predict(self, gene_embedding: Tensor, inputs: ModelInput) -> Tensor:
        return self.expression_head(gene_embedding).squeeze(-1).float()

    def _identity(self) -> Tensor:
        """The rows of the gene table, G x D, each divided by its root mean square."""
        table_GD = self.gene_embedding.weight
        return table_GD * torch.rsqrt(table_GD.square().mean(dim=-1, keepdim=True) + IDENTITY_EPSILON)

    def _expression(self, inputs: ModelInput) -> Tensor:
        """``sqrt(2) [sin(x f_i), cos(x f_i)]`` with ``f_i = 100^(-2i/D)``, scaled; zeros at hidden genes."""
        angle_BGF = inputs.filled(0.0).unsqueeze(-1) * self.frequencies
        waves_BGD = torch.cat([angle_BGF.sin(), angle_BGF.cos()], dim=-1)
        waves_BGD = waves_BGD.masked_fill_(inputs.unknown.unsqueeze(-1), 0.0)
        factor_B = visible_factor(inputs.unknown)
        waves_BGD = waves_BGD.mul_(math.sqrt(2) * factor_B[:, None, None]) * self.expression_scale
        return self.mark_filled_in(waves_BGD, inputs)

    @staticmethod
    def forward_flops(shape: ModelShape, edges: int, batch: int) -> float:
        """With D = width, W = width of the bottleneck, K = layers, M = features per head, per gene of a profile:

        - graph block 4 D W + 2 W^2 + 2 W edges / G;
        - per layer: projections 8 D^2, attention 8 D M, feed-forward 16 D^2;
        - head 2 D^2 + 2 D.
        """
        dim, width = shape.dim, shape.graph_dim
        layer = 24 * dim**2 + 8 * dim * shape.random_features
        gene = 4 * dim * width + 2 * width**2 + shape.performer_layers * layer + 2 * dim**2 + 2 * dim
        return float(batch * (shape.genes * gene + 2 * width * edges))

    @staticmethod
    def count_parameters(shape: ModelShape) -> int:
        dim, width = shape.dim, shape.graph_dim
        return shape.genes * dim + 2 * dim * width + width**2 + (12 * shape.performer_layers + 1) * dim**2


def _scale_as_released(_model: nn.Module, state: dict[str, Tensor], prefix: str, _metadata: object) -> None:
    state[f"{prefix}expression_scale"] = state[f"{prefix}expression_scale"].reshape(())


def _scale_as_trained(_model: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    if (name := f"{prefix}expression_scale") in state:
        state[name] = state[name].reshape(1)


def visible_factor(hidden_BG: Tensor) -> Tensor:
    """What the expression of each sample's genes is multiplied by: more where fewer of them are visible (B)."""
    visible_B = (~hidden_BG).float().mean(dim=1)
    return (USUAL_VISIBLE / visible_B.clamp(min=LEAST_VISIBLE)).clamp(max=LARGEST_FACTOR)
