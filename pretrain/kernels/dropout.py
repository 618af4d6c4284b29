"""Dropout whose mask is a function of (seed, row, column), so that no mask is ever stored.

The published code draws a Bernoulli tensor per call, on a CPU one number after the other, and keeps it for the
backward pass. Here a call draws one seed from the device's generator (so ``torch.manual_seed`` and activation
recomputation act as usual) and forward and backward both hash the positions they work on. The masks are not those
torch would draw; their probability is exact to 2^-32.

Shapes in names: R rows, C columns.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pretrain.kernels.device import maybe_compiled
from pretrain.kernels.operator import operator

# Multipliers of a 32-bit hash with low bias (Wellons, hash-prospector), and of the golden ratio, as signed numbers.
_FIRST = 0x7FEB352D
_SECOND = 0x846CA68B - 2**32
_GOLDEN = 0x9E3779B9 - 2**32


def draw_seed(device: torch.device) -> Tensor:
    """One int32 on ``device`` from its default generator; stays there, so that nothing waits for it."""
    return torch.randint(2**31 - 1, (1,), dtype=torch.int32, device=device)


def seed_from_row(seed: Tensor, row: int) -> Tensor:
    """The seed with which :func:`kept` begins at ``row`` of the mask that it makes with ``seed``."""
    shift = row * _GOLDEN % 2**32
    return seed + (shift - 2**32 if shift >= 2**31 else shift)


def kept(seed: Tensor, rows: int, columns: int, rate: float) -> Tensor:
    """Boolean rows x columns, True with probability ``1 - rate``.

    Rows and columns are hashed each for itself, and their combination once more: 7 integer operations per entry, in
    cache, and nothing to store.
    """
    row_R1 = _mixed(torch.arange(rows, dtype=torch.int32, device=seed.device) * _GOLDEN + seed)
    column_C = _mixed(torch.arange(columns, dtype=torch.int32, device=seed.device))
    bits_RC = row_R1.unsqueeze(1) ^ column_C
    bits_RC = bits_RC.mul_(_FIRST)
    bits_RC ^= (bits_RC >> 15) & 0x1FFFF
    return bits_RC.mul_(_SECOND) >= round((rate - 0.5) * 2**32)


def _mixed(bits: Tensor) -> Tensor:
    bits = (bits ^ ((bits >> 16) & 0xFFFF)) * _FIRST
    bits = (bits ^ ((bits >> 15) & 0x1FFFF)) * _SECOND
    return bits ^ ((bits >> 16) & 0xFFFF)


def add_dropped(residual: Tensor, branch: Tensor, rate: float, compile: bool) -> Tensor:
    """``residual + dropout(branch)``, both of any one shape whose last dimension is the columns of the mask."""
    return torch.ops.bulkformer.add_dropped(residual, branch, draw_seed(branch.device), rate, compile)


@operator("add_dropped")
def _add_dropped(residual: Tensor, branch: Tensor, seed: Tensor, rate: float, compile: bool) -> Tensor:
    function = maybe_compiled(_add_dropped_rows, compile, varying="R")
    return function(_rows(residual), _rows(branch), seed, rate).view(residual.shape)


def _add_dropped_rows(residual_RC: Tensor, branch_RC: Tensor, seed: Tensor, rate: float) -> Tensor:
    return residual_RC + _dropped_rows(branch_RC, seed, rate)


def _dropped_rows(branch_RC: Tensor, seed: Tensor, rate: float) -> Tensor:
    return torch.where(kept(seed, branch_RC.shape[0], branch_RC.shape[1], rate), branch_RC * (1 / (1 - rate)), 0.0)


def _rows(tensor: Tensor) -> Tensor:
    # .data, since a view would have compiled code depend on the shape of what it views: anew for a batch of one
    return tensor.reshape(-1, tensor.shape[-1]).data


@operator("dropped")
def _dropped(branch: Tensor, seed: Tensor, rate: float, compile: bool) -> Tensor:
    return maybe_compiled(_dropped_rows, compile, varying="R")(_rows(branch), seed, rate).view(branch.shape)


@_add_dropped.register_fake
def _(residual: Tensor, branch: Tensor, seed: Tensor, rate: float, compile: bool) -> Tensor:
    return residual.new_empty(residual.shape, dtype=torch.promote_types(residual.dtype, branch.dtype))


@_dropped.register_fake
def _(branch: Tensor, seed: Tensor, rate: float, compile: bool) -> Tensor:
    return branch.new_empty(branch.shape)


def _setup(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, float, bool], output: Tensor) -> None:
    _, branch, seed, *ctx.options = inputs
    ctx.save_for_backward(seed)
    ctx.branch_dtype = branch.dtype


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    dropped = torch.ops.bulkformer.dropped(gradient, *ctx.saved_tensors, *ctx.options)
    return gradient, dropped.to(ctx.branch_dtype), None, None, None


_add_dropped.register_autograd(_backward, setup_context=_setup)
