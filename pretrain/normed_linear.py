"""``norm(x) W + b`` in chunks of rows: the normed rows are never stored, nor their gradient.

Shapes in names: R rows (C of them in a chunk), I inputs, O outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pretrain.device import add_product, chunks, product_dtype, sum_dtype
from pretrain.row_norm import RowNorm


def normed_linear(
    input_RI: Tensor, norm: nn.LayerNorm, weight_OI: Tensor, bias_O: Tensor, compile: bool = False
) -> Tensor:
    """Of the last dimension. Forward: 2 I O FLOPs per row; backward: twice that. Kept for it: the input."""
    narrow = product_dtype(input_RI)
    output = torch.ops.bulkformer.normed_linear(
        input_RI.reshape(-1, input_RI.shape[-1]), weight_OI.to(narrow), bias_O.to(narrow), norm.weight, norm.bias,
        norm.eps, compile,
    )  # fmt: skip
    return output.view(*input_RI.shape[:-1], output.shape[-1])


@torch.library.custom_op("bulkformer::normed_linear", mutates_args=())
def _normed_linear(
    input: Tensor, weight: Tensor, bias: Tensor, gain: Tensor, shift: Tensor, epsilon: float, compile: bool
) -> Tensor:
    output_RO = weight.new_empty(len(input), len(weight))
    norm = RowNorm(gain, shift, epsilon, weight.dtype, compile)
    for chunk in chunks(len(input), input.shape[1], input.device):
        torch.addmm(bias, norm.rows(input[chunk]), weight.T, out=output_RO[chunk])
    return output_RO


@torch.library.custom_op("bulkformer::normed_linear_backward", mutates_args=())
def _normed_linear_backward(
    gradient: Tensor, input: Tensor, weight: Tensor, gain: Tensor, shift: Tensor, epsilon: float, compile: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of input, weight, bias, gain and shift; all but the first are summed in :func:`sum_dtype`."""
    wide, narrow = sum_dtype(weight), weight.dtype
    grad_input_RI = torch.empty_like(input)
    grad_weight_OI = weight.new_zeros(weight.shape, dtype=wide)
    grad_bias_O = grad_weight_OI.new_zeros(len(weight))
    norm = RowNorm(gain, shift, epsilon, narrow, compile)
    for chunk in chunks(len(input), input.shape[1], input.device):
        add_product(grad_weight_OI, gradient[chunk].T, norm.rows(input[chunk]))
        grad_bias_O += gradient[chunk].sum(dim=0, dtype=wide)
        norm.gradient(gradient[chunk], weight, input[chunk], None, grad_input_RI[chunk])
    return grad_input_RI, grad_weight_OI.to(narrow), grad_bias_O.to(narrow), *norm.grad_gain_and_shift()


@_normed_linear.register_fake
def _(input: Tensor, weight: Tensor, *_rest: Any) -> Tensor:
    return weight.new_empty(input.shape[0], weight.shape[0])


@_normed_linear_backward.register_fake
def _(
    gradient: Tensor, input: Tensor, weight: Tensor, gain: Tensor, shift: Tensor, *_rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    bias = weight.new_empty(weight.shape[0])
    return torch.empty_like(input), torch.empty_like(weight), bias, torch.empty_like(gain), torch.empty_like(shift)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, weight, _, gain, shift, *ctx.options = inputs
    ctx.save_for_backward(input, weight, gain, shift)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    return *torch.ops.bulkformer.normed_linear_backward(gradient, *ctx.saved_tensors, *ctx.options), None, None


_normed_linear.register_autograd(_backward, setup_context=_setup)
