"""What a step costs in multiplications, and an estimate of its time on GPUs, of which none was measured.

FLOPs count a multiplication and an addition each, in matrix and sparse products alone; activations recomputed in the
backward pass are not counted, so that faster always means a larger share of the peak.
"""

from __future__ import annotations

from dataclasses import dataclass

from pretrain.model.bulkformer import encoder_class
from pretrain.shape import ModelShape

# Trained on in the published run: profiles, epochs, and hours of one A800.
PUBLISHED_PROFILES, PUBLISHED_EPOCHS, PUBLISHED_A800_HOURS = 522_769, 29, 350


def forward_flops(shape: ModelShape, edges: int, batch: int) -> float:
    """FLOPs of one forward pass over ``batch`` profiles; the encoder of the shape's family says what they are."""
    return encoder_class(shape.family).forward_flops(shape, edges, batch)


def training_flops(shape: ModelShape, edges: int, batch: int) -> float:
    """FLOPs of a training step: a backward pass has two products for each one of the forward pass."""
    return 3 * forward_flops(shape, edges, batch)


@dataclass(frozen=True)
class Accelerator:
    """Data-sheet figures: dense bf16 TFLOP/s, memory bandwidth in TB/s, memory in GB."""

    name: str
    tflops: float
    bandwidth: float
    memory: float


ACCELERATORS = (
    Accelerator("A100 80GB SXM", 312, 2.04, 80),
    Accelerator("A800 80GB SXM", 312, 2.04, 80),
    Accelerator("H100 80GB SXM", 989, 3.35, 80),
)

# Assumptions of the estimate, printed with it.
PRODUCT_EFFICIENCY = 0.5
BANDWIDTH_EFFICIENCY = 0.8
BYTES_PER_GENE_WIDTH_LAYER = 2 * 60
BYTES_PER_FEATURE = 4 * 16


@dataclass(frozen=True)
class Estimate:
    """Estimated, never measured: profiles/s of one GPU and GPU-hours of the published training run."""

    accelerator: Accelerator
    profiles_per_second: float
    published_run_hours: float
    memory_bytes: float


def estimate(shape: ModelShape, edges: int, batch: int, accelerator: Accelerator) -> Estimate:
    """Roofline: the longer of products and memory traffic, each at the assumed share of the data sheet."""
    products = training_flops(shape, edges, batch) / (accelerator.tflops * 1e12 * PRODUCT_EFFICIENCY)
    traffic = step_bytes(shape, batch) / (accelerator.bandwidth * 1e12 * BANDWIDTH_EFFICIENCY)
    rate = batch / max(products, traffic)
    hours = PUBLISHED_PROFILES * PUBLISHED_EPOCHS / rate / 3600
    return Estimate(accelerator, rate, hours, memory_bytes(shape, batch))


def step_bytes(shape: ModelShape, batch: int) -> float:
    """Assumed memory traffic of a step: hidden states in bf16 moved 60 times per layer (two layers' worth around them),

    features in fp32 moved 16 times (a chunk does not fit the cache of a GPU), weights and moments once each way.
    """
    layers = shape.blocks * shape.performer_layers + 2
    states = BYTES_PER_GENE_WIDTH_LAYER * layers * shape.dim
    features = BYTES_PER_FEATURE * shape.blocks * shape.performer_layers * shape.heads * shape.random_features
    return batch * shape.genes * (states + features) + 32.0 * parameters(shape)


def parameters(shape: ModelShape) -> int:
    """Trained parameters, up to biases and norms."""
    return encoder_class(shape.family).count_parameters(shape)


def memory_bytes(shape: ModelShape, batch: int) -> float:
    """Estimated peak of a bf16 training step without recomputation: fp32 weights, gradients and two moments; per gene

    and layer 8 D bf16 numbers and 2 D of fp32 residuals kept, and 20 D around the layers.
    """
    layers = shape.blocks * shape.performer_layers
    per_gene = shape.dim * (layers * (8 * 2 + 2 * 4) + 20 * 2)
    return 16.0 * parameters(shape) + batch * shape.genes * per_gene
