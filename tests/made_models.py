"""Small models, graphs and profiles for tests of the model and its kernels."""

import numpy as np
import torch
from torch import Tensor, nn

from dataprep.corpus import GeneGraph
from pretrain.model.bulkformer import BulkFormer
from pretrain.model.loss import masked_squared_error, mean_squared_error
from pretrain.shape import ModelShape

GENES = 23
# Largest error of a bf16 forward pass against fp32, relative to the largest entry, and that of all gradients, in norm,
# at these tiny shapes: a few of the 2^-8 steps of bf16 add up over the layers (docs/performance.md).
BF16_OUTPUT_BOUND, BF16_GRADIENT_BOUND = 0.01, 0.04


def random_graph(genes: int = GENES, edges: int = 60, seed: int = 0) -> GeneGraph:
    """The last gene has no edge."""
    generator = np.random.default_rng(seed)
    return GeneGraph(
        source=generator.integers(0, genes - 1, edges).astype(np.int32),
        target=generator.integers(0, genes - 1, edges).astype(np.int32),
        weight=generator.uniform(0.4, 1, edges).astype(np.float32),
    )


def small_shape(**changes) -> ModelShape:
    numbers = {"genes": GENES, "dim": 16, "performer_layers": 2, "heads": 2, "blocks": 1}
    return ModelShape(**(numbers | changes))


def models_of_both_kernels(shape: ModelShape, **options) -> tuple[BulkFormer, BulkFormer]:
    torch.manual_seed(0)
    reference = BulkFormer(shape, random_graph(shape.genes))
    fused = BulkFormer(shape, random_graph(shape.genes), kernel="fused", **options)
    fused.load_state_dict(reference.state_dict(), strict=True)
    return reference, fused


def profiles(samples: int, hidden: str, genes: int = GENES) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    mask = {"some": torch.rand(samples, genes) < 0.3, "all": torch.ones(samples, genes) > 0}
    return torch.rand(samples, genes) * 8, mask.get(hidden, torch.zeros(samples, genes) > 0)


def gradients_of(model: nn.Module, expression: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    output = model(expression.masked_fill(mask, torch.nan))
    loss = mean_squared_error(*masked_squared_error(output.expression, expression, mask))
    # summary and pooled outputs take part too, so that every parameter has a gradient without any mask
    (loss + output.gene_embedding.square().mean() + output.expression.square().mean()).backward()
    return output.expression.detach(), {
        name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None
    }


def attention_inputs(samples: int, genes: int, heads: int, width: int, dtype=torch.float64) -> list[Tensor]:
    """Queries, keys and values."""
    torch.manual_seed(2)
    shape = (samples, genes, heads, width)
    return [(2 * torch.randn(shape, dtype=dtype)).requires_grad_() for _ in range(3)]


def random_norm(width: int) -> nn.LayerNorm:
    norm = nn.LayerNorm(width).double()
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    return norm
