"""The first family: rotary expression embedding, gene identity, sample context, graph convolution, FAVOR+.

Shapes in names: B samples, G genes, D hidden width, E edges. The module tree and its parameter names are those of
the released checkpoints of KangBoming/BulkFormer (2026-05), so that they load by name, strictly.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dataprep.corpus import GeneGraph
from pretrain.kernels.device import product_dtype
from pretrain.kernels.torch_internals import change_count
from pretrain.model.bulkformer import BulkFormer, ModelInput
from pretrain.model.layers import KernelOptions, expression_head, graph_convolution, performer, two_linear
from pretrain.shape import ModelShape

# What released weights expect in the sample-context input where a gene is masked or missing. It exists only here.
CONTEXT_FILL = -10.0


class RotaryExpressionEmbedding(nn.Module):
    """``[sin(x f_i), cos(x f_i)]`` with ``f_i = 100^(-2i/D)``; zeros where a gene is masked or missing. Not trained."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        exponents = torch.arange(0, dim, 2, dtype=torch.float32) / dim
        # a parameter, not a buffer: the released parameter counts include it
        self.inv_freq = nn.Parameter(1.0 / (100.0**exponents), requires_grad=False)

    def forward(self, expression_BG: Tensor, hidden_BG: Tensor) -> Tensor:
        angle_BGF = expression_BG.unsqueeze(-1) * self.inv_freq
        embedded_BGD = torch.cat([angle_BGF.sin(), angle_BGF.cos()], dim=-1)
        return embedded_BGD.masked_fill_(hidden_BG.unsqueeze(-1), 0.0)


class GraphAttentionBlock(nn.Module):
    """LayerNorm, residual graph convolution, then K Performers of one layer (each with its own residuals)."""

    def __init__(self, shape: ModelShape, graph: GeneGraph, options: KernelOptions) -> None:
        super().__init__()
        self.layernorm = nn.LayerNorm(shape.dim)
        self.g = graph_convolution(shape, graph, options)
        self.f = nn.ModuleList(performer(shape, 1, options) for _ in range(shape.performer_layers))

    def forward(self, hidden_BGD: Tensor, edge_index_2E: Tensor, edge_weight_E: Tensor) -> Tensor:
        hidden_BGD = self.g(hidden_BGD, self.layernorm, edge_index_2E, edge_weight_E)
        for layer in self.f:
            hidden_BGD = layer(hidden_BGD)
        return hidden_BGD


class OriginalBulkFormer(BulkFormer):
    """The models 37M to 147M. Summary features, mean correction and predictions stay in fp32."""

    def build(self, graph: GeneGraph, options: KernelOptions) -> None:
        shape, dim = self.shape, self.shape.dim
        self._identity_cache: tuple[object, Tensor] | None = None
        if shape.gene_identity == "learned":
            self.gene_emb_onehot_layer = nn.Embedding(shape.genes, dim)
            nn.init.xavier_uniform_(self.gene_emb_onehot_layer.weight)
            identity_width = dim
        else:
            # filled with protein embeddings before training; trained like any parameter
            self.gene_emb = nn.Embedding(shape.genes, shape.identity_width)
            identity_width = shape.identity_width
        self.gene_emb_proj = two_linear(identity_width, 4 * dim, dim, options)
        self.expr_emb = RotaryExpressionEmbedding(dim)
        self.global_expr_proj = two_linear(shape.genes, 4 * dim, dim, options)
        self.x_proj = two_linear(dim, 4 * dim, dim, options)
        self.gb_formers = nn.ModuleList(GraphAttentionBlock(shape, graph, options) for _ in range(shape.blocks))
        self.layernorm = nn.LayerNorm(dim)
        self.head = expression_head(shape.embedding_width, dim, options, corrects=bool(shape.prior_rank))
        self.register_buffer("gene_indices", torch.arange(shape.genes), persistent=False)

    def train(self, mode: bool = True) -> OriginalBulkFormer:
        self._identity_cache = None
        super().train(mode)
        return self

    def encode(self, inputs: ModelInput) -> Tensor:
        filled_BG = inputs.filled(CONTEXT_FILL)
        context_BD = self.global_expr_proj(filled_BG)
        # in place: the rotary embedding is not trained, so autograd does not need its value
        hidden_BGD = self.mark_filled_in(self.expr_emb(filled_BG, inputs.unknown), inputs)
        hidden_BGD = hidden_BGD.add_(self._identity()).add_(context_BD.unsqueeze(1))
        hidden_BGD = self.x_proj(hidden_BGD)
        for block in self.gb_formers:
            hidden_BGD = block(hidden_BGD, self.edge_index, self.edge_weight)
        return self.layernorm(hidden_BGD)

    def summary(self, inputs: ModelInput) -> Tensor:
        """Missing rate as given, mean over observed genes, share not zero: the three features every gene gets."""
        mean_B = mean_where(inputs.expression, ~inputs.hidden)
        # hidden genes count as not zero, as their fill value does in the released code
        nonzero_B = ((inputs.expression != 0) | inputs.hidden).float().mean(dim=1)
        return torch.stack([inputs.missing_rate, mean_B, nonzero_B], dim=-1)

    def predict(self, gene_embedding: Tensor, inputs: ModelInput) -> Tensor:
        predicted_BG = self.head(gene_embedding).squeeze(-1)
        if inputs.expected is not None:
            # a correction, not a level: what the prior expects has its level from the observed genes
            return predicted_BG.float()
        return correct_mean(predicted_BG.float(), inputs.expression, inputs.hidden)

    def _identity(self) -> Tensor:
        """Projected gene identity, G x D: once per pass, not per sample; in inference once until weights change."""
        table = self.gene_emb_onehot_layer if self.shape.gene_identity == "learned" else self.gene_emb
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self.gene_emb_proj(table(self.gene_indices))
        weights = [*table.parameters(), *self.gene_emb_proj.parameters()]
        # weights move when they are loaded anew, and count what an optimizer does to them
        state = [(weight.data_ptr(), change_count(weight)) for weight in weights], product_dtype(weights[0])
        if self._identity_cache is None or self._identity_cache[0] != state:
            self._identity_cache = state, self.gene_emb_proj(table(self.gene_indices))
        return self._identity_cache[1]

    @staticmethod
    def forward_flops(shape: ModelShape, edges: int, batch: int) -> float:
        """With D = width, K = layers, M = features per head, per gene:

        - gene identity 8 (I + D) D, I = width of the table, once per pass and not per profile;
        - per profile: sample context 8 D, input projection 16 D^2, head 2 (D + 3) D + 2 D;
        - per block: graph convolution 2 D^2 + 2 D edges / G;
        - per layer: projections 8 D^2, attention 8 D M, feed-forward 16 D^2.
        """
        dim, genes = shape.dim, shape.genes
        table = dim if shape.gene_identity == "learned" else shape.identity_width
        identity = 8 * (table + dim) * dim * genes
        around = 8 * dim + 16 * dim**2 + 2 * (dim + 3) * dim + 2 * dim
        layer = 24 * dim**2 + 8 * dim * shape.random_features
        block = 2 * dim**2 + shape.performer_layers * layer
        context = 8 * dim**2
        profile = genes * (around + shape.blocks * block) + shape.blocks * 2 * dim * edges + context
        return float(identity + batch * profile)

    @staticmethod
    def count_parameters(shape: ModelShape) -> int:
        dim = shape.dim
        table = dim if shape.gene_identity == "learned" else shape.identity_width
        tables = shape.genes * table + 4 * (table + dim) * dim + 4 * dim * (shape.genes + dim)
        return tables + 9 * dim**2 + shape.blocks * (dim**2 + shape.performer_layers * 12 * dim**2)


def mean_where(values_BG: Tensor, chosen_BG: Tensor) -> Tensor:
    """Mean over the chosen genes of each profile (B); 0 where none is chosen."""
    total_B = values_BG.masked_fill(~chosen_BG, 0.0).sum(dim=1)
    return total_B / chosen_BG.sum(dim=1).clamp(min=1)


def correct_mean(predicted_BG: Tensor, expression_BG: Tensor, hidden_BG: Tensor) -> Tensor:
    """Subtract (mean prediction - mean expression over observed genes) at the masked and missing genes only."""
    observed_BG = ~hidden_BG
    excess_B = mean_where(predicted_BG, observed_BG) - mean_where(expression_BG, observed_BG)
    return torch.where(hidden_BG, predicted_BG - excess_B.unsqueeze(1), predicted_BG)
