"""What all families of models have in common: how they are made and loaded, their inputs and outputs.

``BulkFormer(shape, ...)`` is a model of the family that the shape names: a subclass, by the table of
:mod:`pretrain.families`. Shapes in names: B samples, G genes, D hidden width, F summary features of a sample, E edges.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dataprep.corpus import GeneGraph
from dataprep.runtime.command_line import UserError
from pretrain.config import Pooling, Recompute
from pretrain.families import FAMILIES, FamilyName
from pretrain.kernels.device import autocast_to_bf16
from pretrain.model.export_file import WEIGHTS_FILE, ModelExport, load_strictly, open_export
from pretrain.model.layers import KernelOptions
from pretrain.model.linear_prior import LinearPrior
from pretrain.model.pooling import pool_genes
from pretrain.shape import ModelShape


class ModelOutput(NamedTuple):
    """``gene_embedding`` B x G x (D+F), before the head; ``expression`` B x G, log1p(TPM)."""

    gene_embedding: Tensor
    expression: Tensor


class ModelInput(NamedTuple):
    """A batch as the model sees it: ``expression`` B x G, fp32, NaN at ``hidden`` genes; ``missing_rate`` B.

    ``expected`` B x G and ``latent`` B x k: what the linear prior expects of every gene, and the latent vector that it
    follows from, for a model that has one.
    """

    expression: Tensor
    hidden: Tensor
    missing_rate: Tensor
    expected: Tensor | None = None
    latent: Tensor | None = None

    @classmethod
    def of(cls, expression_BG: Tensor, missing_rate: Tensor | float | None) -> ModelInput:
        hidden_BG = torch.isnan(expression_BG)
        if missing_rate is None:
            missing_rate = hidden_BG.float().mean(dim=1)
        rate_B = torch.as_tensor(missing_rate, dtype=torch.float32, device=expression_BG.device)
        return cls(expression_BG.float(), hidden_BG, rate_B.expand(expression_BG.shape[0]))

    @property
    def unknown(self) -> Tensor:
        """Where there is no value to embed, B x G: the hidden genes; none where a prior says what to expect."""
        return self.hidden if self.expected is None else torch.zeros_like(self.hidden)

    def filled(self, value: float) -> Tensor:
        """Expression with hidden genes at what the prior expects of them, or without a prior at ``value``."""
        if self.expected is None:
            return self.expression.masked_fill(self.hidden, value)
        return torch.where(self.hidden, self.expected, self.expression)


class BulkFormer(nn.Module):
    """A model as published, for any size.

    ``kernel`` "fused" computes the same numbers faster and in less memory (:mod:`pretrain.model.layers`); ``compile``
    compiles its elementwise parts. ``recompute`` is what the backward pass computes again instead of keeping it
    (:data:`pretrain.config.Recompute`; "hidden" acts with the fused kernel only). ``precision`` "bf16" runs the forward
    pass under bfloat16 autocast with fp32 parameters, on devices that multiply bfloat16
    (:func:`pretrain.kernels.device.multiplies_bf16`); the expression values, what is computed of a whole sample, and
    the loss stay in fp32.
    """

    def __new__(cls, shape: ModelShape | None = None, *_arguments: Any, **_options: Any) -> BulkFormer:
        # without a shape where a model is copied or unpickled, which begins with its own class
        return super().__new__(encoder_class(shape.family) if cls is BulkFormer and shape is not None else cls)

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
        # not persistent: released checkpoints keep the graph in separate files, and so do our exports
        edges = torch.stack(
            [torch.tensor(graph.source, dtype=torch.int64), torch.tensor(graph.target, dtype=torch.int64)]
        )
        self.register_buffer("edge_index", edges, persistent=False)
        self.register_buffer("edge_weight", torch.tensor(graph.weight, dtype=torch.float32), persistent=False)
        if shape.prior_rank:
            self.prior = LinearPrior(shape.genes, shape.prior_rank, shape.prior_rectified)
            # what tells a gene that was filled in from one that was observed
            self.filled_in = nn.Parameter(torch.zeros(shape.dim))
        self.build(graph, KernelOptions(kernel == "fused", compile, recompute))

    # ---- what a family has of its own --------------------------------------------------------------------------------

    def build(self, graph: GeneGraph, options: KernelOptions) -> None:
        """Make the modules that have tensors, under their released names."""
        raise NotImplementedError

    def encode(self, inputs: ModelInput) -> Tensor:
        """Embed every gene, B x G x D, inside autocast; without summary features."""
        raise NotImplementedError

    def summary(self, inputs: ModelInput) -> Tensor:
        """The numbers of each sample that widen the embeddings of its genes: B x F, fp32."""
        return inputs.expression.new_zeros(len(inputs.expression), 0)

    def predict(self, gene_embedding: Tensor, inputs: ModelInput) -> Tensor:
        """Expression, B x G, of embeddings B x G x (D+F), inside autocast; with a prior, what is added to its own.

        A head that corrects a prior is free of sign and begins with zeros, so that a model begins as its prior.
        """
        raise NotImplementedError

    @staticmethod
    def forward_flops(shape: ModelShape, edges: int, batch: int) -> float:
        """FLOPs of one forward pass over ``batch`` profiles: a multiplication and an addition count one each."""
        raise NotImplementedError

    @staticmethod
    def count_parameters(shape: ModelShape) -> int:
        """Trained parameters, up to biases and norms."""
        raise NotImplementedError

    # ---- what they share ---------------------------------------------------------------------------------------------

    def forward(self, expression_BG: Tensor, missing_rate: Tensor | float | None = None) -> ModelOutput:
        """Embed and reconstruct profiles.

        ``expression_BG``: float B x G, log1p(TPM), NaN where a gene is masked or missing. ``missing_rate``: one number
        or B numbers, for families that have it among their summary features; by default each profile's share of NaN.
        """
        inputs = self._inputs(expression_BG, missing_rate)
        with self._autocast(expression_BG.device):
            gene_embedding = self.encode(inputs)
            if self.shape.traits.summary_features:
                summary_BGF = self.summary(inputs).to(gene_embedding.dtype).unsqueeze(1)
                summary_BGF = summary_BGF.expand(-1, gene_embedding.shape[1], -1)
                gene_embedding = torch.cat([gene_embedding, summary_BGF], dim=-1)
            predicted_BG = self.predict(gene_embedding, inputs)
        if inputs.expected is not None:
            predicted_BG = inputs.expected + predicted_BG
        return ModelOutput(gene_embedding, predicted_BG)

    def pooled_embedding(
        self,
        expression_BG: Tensor,
        missing_rate: Tensor | float | None = None,
        pooling: Pooling = "mean",
        gene_indices: Tensor | None = None,
    ) -> Tensor:
        """Embeddings of samples: those of the genes ``gene_indices`` (default: all) pooled on the device, B x (D+F).

        The numbers of pooling ``forward(...).gene_embedding``, without the head and without widening every gene's
        embedding by numbers that are the same for all. Families that pool over observed genes leave out the others.

        A model with a linear prior puts the coordinates of what it expects beside them, whatever the pooling,
        B x (D+F+m) (:meth:`pretrain.model.linear_prior.LinearPrior.coordinates`): its network learns corrections, and
        what it corrects is known to the prior alone.
        """
        return self.pooled_embeddings(expression_BG, missing_rate, (pooling,), gene_indices)[pooling]

    def pooled_embeddings(
        self,
        expression_BG: Tensor,
        missing_rate: Tensor | float | None,
        poolings: Sequence[Pooling],
        gene_indices: Tensor | None = None,
    ) -> dict[Pooling, Tensor]:
        """As :meth:`pooled_embedding`, in several poolings from one pass."""
        inputs = self._inputs(expression_BG, missing_rate)
        with self._autocast(expression_BG.device):
            embedding_BGD = self.encode(inputs).float()
        chosen_BG = inputs.expression
        if gene_indices is not None:
            embedding_BGD, chosen_BG = embedding_BGD[:, gene_indices], chosen_BG[:, gene_indices]
        observed_BG = ~chosen_BG.isnan() if self.shape.traits.pools_observed else None
        summary_BF = self.summary(inputs)
        coordinates = [] if inputs.latent is None else [self.prior.coordinates(inputs.latent)]
        pooled: dict[Pooling, Tensor] = {}
        for pooling in poolings:
            # mean, max and median of a constant are the constant; "all" adds the three
            of_constants_BF = summary_BF * (3 if pooling == "all" else 1)
            parts = [pool_genes(embedding_BGD, pooling, observed_BG), of_constants_BF, *coordinates]
            pooled[pooling] = torch.cat(parts, dim=-1)
        return pooled

    def mark_filled_in(self, embedded_BGD: Tensor, inputs: ModelInput) -> Tensor:
        """Embedded expression, in which the genes that a prior has filled in are told from those observed."""
        if inputs.expected is None:
            return embedded_BGD
        return embedded_BGD + inputs.hidden.unsqueeze(-1) * self.filled_in

    def _inputs(self, expression_BG: Tensor, missing_rate: Tensor | float | None) -> ModelInput:
        """The model's input, with what the prior expects: in fp32 whatever the precision, and not trained."""
        inputs = ModelInput.of(expression_BG, missing_rate)
        if not self.shape.prior_rank:
            return inputs
        with torch.no_grad():
            latent_Bk = self.prior.latent(inputs.expression, self.prior.observed_gram(~inputs.hidden))
            return inputs._replace(expected=self.prior.expected(latent_Bk), latent=latent_Bk)

    def _autocast(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=autocast_to_bf16(self.precision, device))

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

    @classmethod
    def untrained(
        cls, export: ModelExport, seed: int, kernel: str = "reference", precision: str = "fp32", compile: bool = False
    ) -> BulkFormer:
        """A model of an export's shape with random weights, and with its prior, if it has one: what a run begins with.

        Identities of genes are random, also where a run would begin with protein embeddings.
        """
        trained = cls.from_export(export)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = cls(export.shape, export.graph, kernel, precision, compile)
        if export.shape.prior_rank:
            model.prior.load_state_dict(trained.prior.state_dict())
        return model.eval()


@cache
def encoder_class(family: FamilyName) -> type[BulkFormer]:
    """The class of a family's models, whose module is imported when it is needed: it imports this one."""
    module, _, name = FAMILIES[family].encoder.partition(":")
    encoder = getattr(importlib.import_module(module), name)
    assert issubclass(encoder, BulkFormer)
    return encoder
