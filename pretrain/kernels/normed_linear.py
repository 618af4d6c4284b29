"""``norm(x) W + b`` in chunks of rows: the normed rows are not kept for the backward pass, their gradient never stored.

Shapes in names: R rows (C of them in a chunk), I inputs, O outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pretrain.kernels.device import add_product, chunks, product_dtype, sum_dtype
from pretrain.kernels.operator import operator
from pretrain.kernels.row_norm import RowNorm


def normed_linear(
    input_RI: Tensor, norm: nn.LayerNorm, weight_OI: Tensor, bias_O: Tensor | None, compile: bool = False
) -> Tensor:
    """Of the last dimension. Forward: 2 I O FLOPs per row; backward: twice that. Kept for it: the input."""
    return _called(input_RI, norm, weight_OI, bias_O, False, compile)[0]


def normed_and_linear(
    input_RI: Tensor, norm: nn.LayerNorm, weight_OI: Tensor, compile: bool = False
) -> tuple[Tensor, Tensor]:
    """``norm(x)``, in the type of ``x`` and not kept for the backward pass either, and ``norm(x) W``."""
    output, normed = _called(input_RI, norm, weight_OI, None, True, compile)
    return normed, output


def _called(
    input_RI: Tensor, norm: nn.LayerNorm, weight_OI: Tensor, bias_O: Tensor | None, give_normed: bool, compile: bool
) -> tuple[Tensor, Tensor]:
    narrow = product_dtype(input_RI)
    output, normed = torch.ops.bulkformer.normed_linear(
        input_RI.reshape(-1, input_RI.shape[-1]), weight_OI.to(narrow), None if bias_O is None else bias_O.to(narrow),
        norm.weight, norm.bias, norm.eps, give_normed, compile,
    )  # fmt: skip
    return output.view(*input_RI.shape[:-1], output.shape[-1]), normed.view(input_RI.shape) if give_normed else normed


@operator("normed_linear")
def _normed_linear(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gain: Tensor,
    shift: Tensor,
    epsilon: float,
    give_normed: bool,
    compile: bool,
) -> tuple[Tensor, Tensor]:
    """The product (R x O) and, where asked for, the normed rows (R x I, otherwise 0 x I)."""
    output_RO = weight.new_empty(len(input), len(weight))
    normed_RI = input.new_empty(len(input) if give_normed else 0, input.shape[1])
    norm = RowNorm(gain, shift, epsilon, weight.dtype, compile)
    for chunk in chunks(len(input), input.shape[1], input.device):
        rows_CI = norm.rows_into(input[chunk], normed_RI[chunk]) if give_normed else norm.rows(input[chunk])
        if bias is None:
            torch.mm(rows_CI, weight.T, out=output_RO[chunk])
        else:
            torch.addmm(bias, rows_CI, weight.T, out=output_RO[chunk])
    return output_RO, normed_RI


@operator("normed_linear_backward")
def _normed_linear_backward(
    gradient: Tensor,
    of_normed: Tensor | None,
    input: Tensor,
    weight: Tensor,
    gain: Tensor,
    shift: Tensor,
    epsilon: float,
    compile: bool,
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
        beside = None if of_normed is None else of_normed[chunk]
        norm.gradient(gradient[chunk], weight, input[chunk], None, grad_input_RI[chunk], beside)
    return grad_input_RI, grad_weight_OI.to(narrow), grad_bias_O.to(narrow), *norm.grad_gain_and_shift()


@_normed_linear.register_fake
def _(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gain: Tensor,
    shift: Tensor,
    epsilon: float,
    give_normed: bool,
    compile: bool,
) -> tuple[Tensor, Tensor]:
    rows, width = input.shape
    return weight.new_empty(rows, weight.shape[0]), input.new_empty(rows if give_normed else 0, width)


@_normed_linear_backward.register_fake
def _(
    gradient: Tensor,
    of_normed: Tensor | None,
    input: Tensor,
    weight: Tensor,
    gain: Tensor,
    shift: Tensor,
    *_rest: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    bias = weight.new_empty(weight.shape[0])
    return torch.empty_like(input), torch.empty_like(weight), bias, torch.empty_like(gain), torch.empty_like(shift)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    input, weight, bias, gain, shift, epsilon, ctx.gives_normed, compile = inputs
    ctx.save_for_backward(input, weight, gain, shift)
    ctx.options, ctx.has_bias = (epsilon, compile), bias is not None
    if not ctx.gives_normed:
        ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, gradient: Tensor, of_normed: Tensor) -> tuple[Tensor | None, ...]:
    gradients = torch.ops.bulkformer.normed_linear_backward(
        gradient, of_normed if ctx.gives_normed else None, *ctx.saved_tensors, *ctx.options
    )
    of_input, of_weight, of_bias, *of_norm = gradients
    return of_input, of_weight, of_bias if ctx.has_bias else None, *of_norm, None, None, None


_normed_linear.register_autograd(_backward, setup_context=_setup)
