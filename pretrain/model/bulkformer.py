"""The hybrid encoder: rotary expression embedding, gene identity, sample context, graph convolution, FAVOR+.

Shapes in names: B samples, G genes, D hidden width, E edges. The module tree and its parameter names are those of
the released checkpoints of KangBoming/BulkFormer (2026-05), so that they load by name, strictly.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dataprep.corpus import GeneGraph
from dataprep.runtime.command_line import UserError
from pretrain.config import Pooling, Recompute
from pretrain.kernels.device import autocast_to_bf16, product_dtype
from pretrain.kernels.torch_internals import change_count
from pretrain.model.export_file import WEIGHTS_FILE, ModelExport, load_strictly, open_export
from pretrain.model.layers import KernelOptions, expression_head, graph_convolution, performer_layer, two_linear
from pretrain.model.pooling import pool_genes
from pretrain.shape import ModelShape

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
        return embedded_BGD.masked_fill_(hidden_BG.unsqueeze(-1), 0.0)


class GraphAttentionBlock(nn.Module):
    """LayerNorm, residual graph convolution, then K Performer layers (each with its own residuals)."""

    def __init__(self, shape: ModelShape, graph: GeneGraph, options: KernelOptions) -> None:
        super().__init__()
        self.layernorm = nn.LayerNorm(shape.dim)
        self.g = graph_convolution(shape, graph, options)
        self.f = nn.ModuleList(performer_layer(shape, options) for _ in range(shape.performer_layers))
        self.recompute = options.recompute == "layers"

    def forward(self, hidden_BGD: Tensor, edge_index_2E: Tensor, edge_weight_E: Tensor) -> Tensor:
        hidden_BGD = self.g(hidden_BGD, self.layernorm, edge_index_2E, edge_weight_E)
        for layer in self.f:
            if self.recompute and torch.is_grad_enabled():
                hidden_BGD = checkpoint(layer, hidden_BGD, use_reentrant=False)
            else:
                hidden_BGD = layer(hidden_BGD)
        return hidden_BGD


class BulkFormer(nn.Module):
    """The model as published, for any size.

    ``kernel`` "fused" computes the same numbers faster and in less memory (:mod:`pretrain.model.layers`); ``compile``
    compiles its elementwise parts. ``recompute`` is what the backward pass computes again instead of keeping it
    (:data:`pretrain.config.Recompute`; "hidden" acts with the fused kernel only). ``precision`` "bf16" runs the forward
    pass under bfloat16 autocast with fp32 parameters, on devices that multiply bfloat16
    (:func:`pretrain.kernels.device.multiplies_bf16`); the expression values, the summary features, the mean
    correction and the loss stay in fp32.
    """

    def __init__(
        self,
        shape: ModelShape,
        graph: GeneGraph,
        kernel: str = "reference",
        precision: str = "fp32",
        compile: bool = False,
        recompute: Recompute = "nothing",
    ) -> None:
        super().__init__()
        if len(graph.source) and max(int(graph.source.max()), int(graph.target.max())) >= shape.genes:
            raise UserError(f"the gene graph names genes beyond the model's {shape.genes}")
        self.shape = shape
        self.precision = precision
        self._identity_cache: tuple[object, Tensor] | None = None
        options = KernelOptions(kernel == "fused", compile, recompute)
        dim = shape.dim
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
        self.head = expression_head(dim + SUMMARY_FEATURES, dim, options)
        # not persistent: released checkpoints keep the graph in separate files, and so do our exports
        edges = torch.stack(
            [torch.tensor(graph.source, dtype=torch.int64), torch.tensor(graph.target, dtype=torch.int64)]
        )
        self.register_buffer("edge_index", edges, persistent=False)
        self.register_buffer("edge_weight", torch.tensor(graph.weight, dtype=torch.float32), persistent=False)
        self.register_buffer("gene_indices", torch.arange(shape.genes), persistent=False)

    def forward(self, expression_BG: Tensor, missing_rate: Tensor | float | None = None) -> ModelOutput:
        """Embed and reconstruct profiles.

        ``expression_BG``: float B x G, log1p(TPM), NaN where a gene is masked or missing. ``missing_rate``: one number
        or B numbers; by default each profile's share of NaN.
        """
        inputs = _ModelInput.of(expression_BG, missing_rate)
        with self._autocast(expression_BG.device):
            embedding_BGD = self._encode(inputs)
            summary_BG3 = inputs.summary().to(embedding_BGD.dtype).unsqueeze(1)
            summary_BG3 = summary_BG3.expand(-1, embedding_BGD.shape[1], -1)
            gene_embedding = torch.cat([embedding_BGD, summary_BG3], dim=-1)
            predicted_BG = self.head(gene_embedding).squeeze(-1)
        return ModelOutput(gene_embedding, correct_mean(predicted_BG.float(), inputs.expression, inputs.hidden))

    def pooled_embedding(
        self,
        expression_BG: Tensor,
        missing_rate: Tensor | float | None = None,
        pooling: Pooling = "mean",
        gene_indices: Tensor | None = None,
    ) -> Tensor:
        """Embeddings of samples: those of the genes ``gene_indices`` (default: all) pooled on the device, B x (D+3).

        The numbers of pooling ``forward(...).gene_embedding``, without the head and without widening every gene's
        embedding by three numbers that are the same for all.
        """
        inputs = _ModelInput.of(expression_BG, missing_rate)
        with self._autocast(expression_BG.device):
            embedding_BGD = self._encode(inputs).float()
        if gene_indices is not None:
            embedding_BGD = embedding_BGD[:, gene_indices]
        # mean, max and median of a constant are the constant; "all" adds the three
        summary_B3 = inputs.summary() * (3 if pooling == "all" else 1)
        return torch.cat([pool_genes(embedding_BGD, pooling), summary_B3], dim=-1)

    def train(self, mode: bool = True) -> BulkFormer:
        self._identity_cache = None
        return super().train(mode)

    def _autocast(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=autocast_to_bf16(self.precision, device))

    def _encode(self, inputs: _ModelInput) -> Tensor:
        filled_BG = inputs.expression.masked_fill(inputs.hidden, CONTEXT_FILL)
        context_BD = self.global_expr_proj(filled_BG)
        # in place: the rotary embedding is not trained, so autograd does not need its value
        hidden_BGD = self.expr_emb(filled_BG, inputs.hidden)
        hidden_BGD = hidden_BGD.add_(self._identity()).add_(context_BD.unsqueeze(1))
        hidden_BGD = self.x_proj(hidden_BGD)
        for block in self.gb_formers:
            hidden_BGD = block(hidden_BGD, self.edge_index, self.edge_weight)
        return self.layernorm(hidden_BGD)

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

    @classmethod
    def from_pretrained(cls, uri: str, kernel: str = "reference", precision: str = "fp32") -> BulkFormer:
        """Load a model export (a folder or ``s3://``) in evaluation mode.

        Raises UserError where the export is incomplete or its tensors do not fit its settings by name and shape.
        """
        return cls.from_export(open_export(uri), kernel, precision)

    @classmethod
    def from_export(
        cls, export: ModelExport, kernel: str = "reference", precision: str = "fp32", compile: bool = False
    ) -> BulkFormer:
        """The model of an opened export in evaluation mode, on the CPU. Raises UserError unless the tensors fit."""
        # read before anything is built: a stranger's settings may name sizes without end
        tensors = export.tensors()
        model = cls(export.shape, export.graph, kernel, precision, compile)
        load_strictly(model, tensors, f"{export.folder.uri}/{WEIGHTS_FILE}")
        return model.eval()


class _ModelInput(NamedTuple):
    """A batch as the model sees it: ``expression`` B x G, fp32, NaN at ``hidden`` genes; ``missing_rate`` B."""

    expression: Tensor
    hidden: Tensor
    missing_rate: Tensor

    @classmethod
    def of(cls, expression_BG: Tensor, missing_rate: Tensor | float | None) -> _ModelInput:
        hidden_BG = torch.isnan(expression_BG)
        if missing_rate is None:
            missing_rate = hidden_BG.float().mean(dim=1)
        rate_B = torch.as_tensor(missing_rate, dtype=torch.float32, device=expression_BG.device)
        return cls(expression_BG.float(), hidden_BG, rate_B.expand(expression_BG.shape[0]))

    def summary(self) -> Tensor:
        """Missing rate as given, mean over observed genes, share not zero: the three features every gene gets."""
        mean_B = mean_where(self.expression, ~self.hidden)
        # hidden genes count as not zero, as their fill value does in the released code
        nonzero_B = ((self.expression != 0) | self.hidden).float().mean(dim=1)
        return torch.stack([self.missing_rate, mean_B, nonzero_B], dim=-1)


def mean_where(values_BG: Tensor, chosen_BG: Tensor) -> Tensor:
    """Mean over the chosen genes of each profile (B); 0 where none is chosen."""
    total_B = values_BG.masked_fill(~chosen_BG, 0.0).sum(dim=1)
    return total_B / chosen_BG.sum(dim=1).clamp(min=1)


def correct_mean(predicted_BG: Tensor, expression_BG: Tensor, hidden_BG: Tensor) -> Tensor:
    """Subtract (mean prediction - mean expression over observed genes) at the masked and missing genes only."""
    observed_BG = ~hidden_BG
    excess_B = mean_where(predicted_BG, observed_BG) - mean_where(expression_BG, observed_BG)
    return torch.where(hidden_BG, predicted_BG - excess_B.unsqueeze(1), predicted_BG)
