"""What a step costs in multiplications.

FLOPs count a multiplication and an addition each, in matrix and sparse products alone; activations recomputed in the
backward pass are not counted, so that faster always means a larger share of the peak.
"""

from __future__ import annotations

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


def parameters(shape: ModelShape) -> int:
    """Trained parameters, up to biases and norms."""
    return encoder_class(shape.family).count_parameters(shape)
