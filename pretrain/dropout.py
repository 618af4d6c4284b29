"""Dropout whose mask is a function of (seed, row, column), so that no mask is ever stored.

The published code draws a Bernoulli tensor per call, on a CPU one number after the other, and keeps it for the
backward pass. Here a call draws one seed from the device's generator (so ``torch.manual_seed`` and activation
recomputation act as usual) and forward and backward both hash the positions they work on. The masks are not those
torch would draw, and the probability is rounded to a multiple of 1/65536 (the scale is that of the rounded one).

Shapes in names: R rows, C columns.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_LEVELS = 2**16
# Multipliers of a 32-bit hash with low bias (Wellons, hash-prospector), and of the golden ratio, as signed numbers.
_FIRST = 0x7FEB352D
_SECOND = 0x846CA68B - 2**32
_GOLDEN = 0x9E3779B9 - 2**32


def draw_seed(device: torch.device) -> Tensor:
    """One int32 on ``device`` from its default generator; stays there, so that nothing waits for it."""
    return torch.randint(2**31 - 1, (1,), dtype=torch.int32, device=device)


def rounded_rate(rate: float) -> float:
    """The dropout probability that is applied for ``rate``."""
    return round(rate * _LEVELS) / _LEVELS


def kept(seed: Tensor, start: int, rows: int, columns: int, rate: float) -> Tensor:
    """Boolean rows x columns, True with probability ``1 - rate``, for rows ``start`` to ``start + rows``.

    A 32-bit hash gives two entries of 16 bits each: about 5 integer operations per entry, in cache, no storage.
    """
    row_R1 = _mixed(torch.arange(start, start + rows, dtype=torch.int32, device=seed.device) * _GOLDEN + seed)
    column_C = _mixed(torch.arange((columns + 1) // 2, dtype=torch.int32, device=seed.device))
    bits_RC = row_R1.unsqueeze(1) ^ column_C
    bits_RC = bits_RC.mul_(_FIRST)
    bits_RC ^= (bits_RC >> 15) & 0x1FFFF
    bits_RC = bits_RC.mul_(_SECOND)
    bits_RC ^= (bits_RC >> 16) & 0xFFFF
    return bits_RC.view(torch.int16)[:, :columns] >= round(rate * _LEVELS) - _LEVELS // 2


def _mixed(bits: Tensor) -> Tensor:
    bits = (bits ^ ((bits >> 16) & 0xFFFF)) * _FIRST
    bits = (bits ^ ((bits >> 15) & 0x1FFFF)) * _SECOND
    return bits ^ ((bits >> 16) & 0xFFFF)


def drop(values_RC: Tensor, seed: Tensor, rate: float) -> Tensor:
    """Dropout of ``values`` (any shape; the last dimension is the columns) with mask :func:`kept`."""
    return torch.ops.bulkformer.drop(values_RC, seed, rate)


@torch.library.custom_op("bulkformer::drop", mutates_args=())
def _drop(values: Tensor, seed: Tensor, rate: float) -> Tensor:
    rows_RC = values.reshape(-1, values.shape[-1])
    kept_RC = kept(seed, 0, *rows_RC.shape, rate)
    return (rows_RC * kept_RC).mul_(1 / (1 - rounded_rate(rate))).view(values.shape)


@_drop.register_fake
def _(values: Tensor, seed: Tensor, rate: float) -> Tensor:
    return values.new_empty(values.shape)


def _setup(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])
    ctx.rate = inputs[2]


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
    return torch.ops.bulkformer.drop(gradient, *ctx.saved_tensors, ctx.rate), None, None


_drop.register_autograd(_backward, setup_context=_setup)
