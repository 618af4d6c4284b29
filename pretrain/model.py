"""The hybrid encoder: rotary expression embedding, gene identity, sample context, graph convolution, FAVOR+.

Shapes in names: B samples, G genes, D hidden width, E edges. The module tree and its parameter names are those of
the released checkpoints of KangBoming/BulkFormer (2026-05), so that they load by name, strictly.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dataprep.command_line import UserError
from dataprep.gene_graph import GeneGraph
from pretrain.config import ModelShape
from pretrain.device import autocast_to_bf16
from pretrain.kernels import apply_two_layer, graph_convolution, performer_layer

# What released weights expect in the sample-context input where a gene is masked or missing. It exists only here.
CONTEXT_FILL = -10.0
# The three summary features that widen every gene embedding: missing rate, mean expression, share not zero.
SUMMARY_FEATURES = 3


class ModelOutput(NamedTuple):
    """``gene_embedding`` B x G x (D+3), before the head; ``expression`` B x G, log1p(TPM), mean-corrected."""

    gene_embedding: Tensor
    expression: Tensor


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
        return embedded_BGD.masked_fill(hidden_BG.unsqueeze(-1), 0.0)


class GraphAttentionBlock(nn.Module):
    """LayerNorm, residual graph convolution, then K Performer layers (each with its own residuals)."""

    def __init__(self, shape: ModelShape, kernel: str, graph: GeneGraph) -> None:
        super().__init__()
        self.layernorm = nn.LayerNorm(shape.dim)
        self.g = graph_convolution(shape, kernel, graph)
        self.f = nn.ModuleList(performer_layer(shape, kernel) for _ in range(shape.performer_layers))

    def forward(self, hidden_BGD: Tensor, edge_index_2E: Tensor, edge_weight_E: Tensor) -> Tensor:
        hidden_BGD = self.layernorm(hidden_BGD)
        hidden_BGD = hidden_BGD + self.g(hidden_BGD, edge_index_2E, edge_weight_E)
        for layer in self.f:
            hidden_BGD = layer(hidden_BGD)
        return hidden_BGD


def _two_layer(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


class BulkFormer(nn.Module):
    """The model as published, for any size.

    ``precision`` "bf16" runs the forward pass under bfloat16 autocast with fp32 parameters; the expression values,
    the summary features, the mean correction and the loss stay in fp32.
    """

    def __init__(
        self,
        shape: ModelShape,
        graph: GeneGraph,
        kernel: str = "reference",
        precision: str = "fp32",
    ) -> None:
        super().__init__()
        if len(graph.source) and max(int(graph.source.max()), int(graph.target.max())) >= shape.genes:
            raise UserError(f"the gene graph names genes beyond the model's {shape.genes}")
        self.shape = shape
        self.kernel = kernel
        self.precision = precision
        dim = shape.dim
        if shape.gene_identity == "learned":
            self.gene_emb_onehot_layer = nn.Embedding(shape.genes, dim)
            nn.init.xavier_uniform_(self.gene_emb_onehot_layer.weight)
            identity_width = dim
        else:
            # filled with protein embeddings before training; trained like any parameter
            self.gene_emb = nn.Embedding(shape.genes, shape.identity_width)
            identity_width = shape.identity_width
        self.gene_emb_proj = _two_layer(identity_width, 4 * dim, dim)
        self.expr_emb = RotaryExpressionEmbedding(dim)
        self.global_expr_proj = _two_layer(shape.genes, 4 * dim, dim)
        self.x_proj = _two_layer(dim, 4 * dim, dim)
        self.gb_formers = nn.ModuleList(GraphAttentionBlock(shape, kernel, graph) for _ in range(shape.blocks))
        self.layernorm = nn.LayerNorm(dim)
        self.head = nn.Sequential(
            nn.LayerNorm(dim + SUMMARY_FEATURES),
            nn.Linear(dim + SUMMARY_FEATURES, dim),
            nn.ReLU(),
            nn.Linear(dim, 1),
            nn.ReLU(),
        )
        # not persistent: released checkpoints keep the graph in files of its own, and so do our exports
        edges = torch.stack([torch.from_numpy(graph.source).long(), torch.from_numpy(graph.target).long()])
        self.register_buffer("edge_index", edges, persistent=False)
        self.register_buffer("edge_weight", torch.from_numpy(graph.weight).float(), persistent=False)
        self.register_buffer("gene_indices", torch.arange(shape.genes), persistent=False)

    def forward(self, expression_BG: Tensor, missing_rate: Tensor | float | None = None) -> ModelOutput:
        """Embed and reconstruct profiles.

        ``expression_BG``: float B x G, log1p(TPM), NaN where a gene is masked or missing. ``missing_rate``: one number
        or B numbers; by default each profile's share of NaN.
        """
        hidden_BG = torch.isnan(expression_BG)
        expression_BG = expression_BG.float()
        if missing_rate is None:
            missing_rate = hidden_BG.float().mean(dim=1)
        rate_B = torch.as_tensor(missing_rate, dtype=torch.float32, device=expression_BG.device)
        rate_B = rate_B.expand(expression_BG.shape[0])
        with self._autocast(expression_BG.device):
            embedding_BGD = self._encode(expression_BG.masked_fill(hidden_BG, CONTEXT_FILL), hidden_BG)
            gene_embedding = self._append_summary(embedding_BGD, expression_BG, hidden_BG, rate_B)
            predicted_BG = self.head(gene_embedding).squeeze(-1)
        return ModelOutput(gene_embedding, correct_mean(predicted_BG.float(), expression_BG, hidden_BG))

    def _autocast(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=autocast_to_bf16(self.precision, device))

    def _encode(self, filled_BG: Tensor, hidden_BG: Tensor) -> Tensor:
        identity = self.gene_emb_onehot_layer if self.shape.gene_identity == "learned" else self.gene_emb
        # one projection for all samples: identity does not depend on the profile
        identity_GD = apply_two_layer(self.gene_emb_proj, identity(self.gene_indices), self.kernel)
        context_BD = self.global_expr_proj(filled_BG)
        hidden_BGD = self.expr_emb(filled_BG, hidden_BG) + identity_GD + context_BD.unsqueeze(1)
        hidden_BGD = apply_two_layer(self.x_proj, hidden_BGD, self.kernel)
        for block in self.gb_formers:
            hidden_BGD = block(hidden_BGD, self.edge_index, self.edge_weight)
        return self.layernorm(hidden_BGD)

    def _append_summary(
        self, embedding_BGD: Tensor, expression_BG: Tensor, hidden_BG: Tensor, rate_B: Tensor
    ) -> Tensor:
        mean_B = mean_where(expression_BG, ~hidden_BG)
        # hidden genes count as not zero, as their fill value does in the released code
        nonzero_B = ((expression_BG != 0) | hidden_BG).float().mean(dim=1)
        summary_B3 = torch.stack([rate_B, mean_B, nonzero_B], dim=-1)
        genes = embedding_BGD.shape[1]
        summary_BG3 = summary_B3.to(embedding_BGD.dtype).unsqueeze(1).expand(-1, genes, -1)
        return torch.cat([embedding_BGD, summary_BG3], dim=-1)

    @classmethod
    def from_pretrained(cls, uri: str, kernel: str = "reference", precision: str = "fp32") -> BulkFormer:
        """Load a model export (a folder or ``s3://``) in evaluation mode.

        Raises UserError where the export is incomplete or its tensors do not fit its settings by name and shape.
        """
        from pretrain.export import load_model  # export builds on this module

        return load_model(uri, kernel=kernel, precision=precision)


def mean_where(values_BG: Tensor, chosen_BG: Tensor) -> Tensor:
    """Mean over the chosen genes of each profile (B); 0 where none is chosen."""
    total_B = values_BG.masked_fill(~chosen_BG, 0.0).sum(dim=1)
    return total_B / chosen_BG.sum(dim=1).clamp(min=1)


def correct_mean(predicted_BG: Tensor, expression_BG: Tensor, hidden_BG: Tensor) -> Tensor:
    """Subtract (mean prediction - mean expression over observed genes) at the masked and missing genes only."""
    observed_BG = ~hidden_BG
    excess_B = mean_where(predicted_BG, observed_BG) - mean_where(expression_BG, observed_BG)
    return torch.where(hidden_BG, predicted_BG - excess_B.unsqueeze(1), predicted_BG)
