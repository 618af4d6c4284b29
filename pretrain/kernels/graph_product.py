"""The graph convolution's neighbour sum as one sparse product, with the normalised adjacency made once.

Shapes in names: B samples, G genes, D width, E edges.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dataprep.corpus import GeneGraph
from pretrain.kernels.operator import operator


class SparseRows(NamedTuple):
    """A sparse G x G matrix by rows: ``offsets`` G, ``columns`` E, ``values`` E."""

    offsets: Tensor
    columns: Tensor
    values: Tensor


def normalized_adjacency(graph: GeneGraph, genes: int) -> scipy.sparse.csr_array:
    """``D^-1/2 A D^-1/2`` with ``A[target, source] = weight``; parallel edges add up, as in message passing.

    The degree of a gene is the sum of the weights of edges that end in it (Kipf and Welling 2017, as PyG has it
    without self-loops); a gene without edges has an empty row.
    """
    weight = graph.weight.astype(np.float64)
    degree = np.bincount(graph.target, weights=weight, minlength=genes)
    with np.errstate(divide="ignore"):
        scale = np.where(degree > 0, degree**-0.5, 0.0)
    values = scale[graph.source] * weight * scale[graph.target]
    matrix = scipy.sparse.csr_array((values, (graph.target, graph.source)), shape=(genes, genes))
    matrix.sum_duplicates()
    return matrix


class Adjacency(nn.Module):
    """The normalised adjacency and its transpose, as buffers that follow the model but are in no state dict."""

    def __init__(self, graph: GeneGraph, genes: int) -> None:
        super().__init__()
        matrix = normalized_adjacency(graph, genes)
        for name, by_rows in (("forward", matrix), ("backward", matrix.T.tocsr())):
            self._register(f"{name}_offsets", by_rows.indptr[:-1].astype(np.int64))
            self._register(f"{name}_columns", by_rows.indices.astype(np.int64))
            self._register(f"{name}_values", by_rows.data.astype(np.float32))

    def _register(self, name: str, values: np.ndarray) -> None:
        self.register_buffer(name, torch.from_numpy(values), persistent=False)

    def rows(self, name: str) -> SparseRows:
        return SparseRows(*(getattr(self, f"{name}_{part}") for part in SparseRows._fields))

    def forward(self, hidden_BGD: Tensor) -> Tensor:
        """Weighted sum over each gene's neighbours. 2 E D FLOPs and about 4 E D bytes read per sample.

        The backward pass is the same product with the transpose, and needs nothing of the forward pass.
        """
        return torch.ops.bulkformer.graph_product(hidden_BGD, *self.rows("forward"), *self.rows("backward"))


@operator("graph_product")
def _graph_product(
    hidden: Tensor,
    offsets: Tensor,
    columns: Tensor,
    values: Tensor,
    transposed_offsets: Tensor,
    transposed_columns: Tensor,
    transposed_values: Tensor,
) -> Tensor:
    """One product over batch x width; embedding_bag is torch's fastest CSR x dense product on a CPU.

    The transpose takes no part here: it is what autograd needs of the call.
    """
    samples, genes, width = hidden.shape
    folded_GF = hidden.transpose(0, 1).reshape(genes, samples * width)
    weights = values.to(hidden.dtype)
    summed_GF = F.embedding_bag(columns, folded_GF, offsets, mode="sum", per_sample_weights=weights)
    # a copy, even of one sample, since the caller adds to the result in place
    return torch.empty_like(hidden, memory_format=torch.contiguous_format).copy_(
        summed_GF.view(genes, samples, width).transpose(0, 1)
    )


@_graph_product.register_fake
def _(hidden: Tensor, *_adjacency: Tensor) -> Tensor:
    return hidden.new_empty(hidden.shape)


def _setup(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:])


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    forward, backward = ctx.saved_tensors[:3], ctx.saved_tensors[3:]
    return torch.ops.bulkformer.graph_product(gradient, *backward, *forward), *(None,) * 6


_graph_product.register_autograd(_backward, setup_context=_setup)
