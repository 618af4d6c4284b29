"""Redraw of FAVOR+'s random features as a pure function of (seed, step)."""

from __future__ import annotations

import numpy as np
import torch
from performer_pytorch.performer_pytorch import FastAttention
from torch import Tensor, nn


def orthogonal_features(rows: int, columns: int, generator: np.random.Generator) -> Tensor:
    """Random features ``rows x columns``: orthogonal blocks whose rows have the norms of Gaussian vectors.

    The construction of Choromanski et al. 2021 (Rethinking attention with Performers), regularised as
    performer-pytorch does with ``ortho_scaling = 0``.
    """
    blocks = []
    for start in range(0, rows, columns):
        gaussian = torch.from_numpy(generator.standard_normal((columns, columns)))
        orthogonal, _ = torch.linalg.qr(gaussian)
        blocks.append(orthogonal.T[: min(columns, rows - start)])
    norms = torch.from_numpy(generator.standard_normal((rows, columns))).norm(dim=1)
    return (norms.unsqueeze(1) * torch.cat(blocks)).float()


def redraw_random_features(model: nn.Module, seed: int, step: int, every_steps: int) -> None:
    """Set every layer's random features to those of optimizer step ``step``.

    They change every ``every_steps`` steps (never, where it is 0) and depend on nothing else, so that every rank,
    every restart and every world size has the same ones. Drawn on the CPU: devices differ in their generators.
    """
    drawing = step // every_steps if every_steps else 0
    layers = [module for module in model.modules() if isinstance(module, FastAttention)]
    for index, layer in enumerate(layers):
        # NumPy's generator takes the whole key; torch's on the CPU would keep 32 bits of it
        generator = np.random.default_rng([seed, drawing, index])
        features = orthogonal_features(layer.nb_features, layer.dim_heads, generator)
        with torch.no_grad():
            layer.projection_matrix.copy_(features)


def is_redraw_step(step: int, every_steps: int) -> bool:
    return every_steps > 0 and step % every_steps == 0
