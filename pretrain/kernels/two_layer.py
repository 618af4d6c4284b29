"""``activation(x W1 + b1) W2 + b2`` in chunks of rows: the hidden layer, four times the width, is written once.

The published code keeps four tensors of the hidden width for its backward pass (before and after the activation, the
dropout mask as floats, the dropped values). Here one is kept, the rest is computed again chunk by chunk while in cache.
A norm in front and a residual around it belong to the same chunk: neither its result nor its gradient is ever stored.

Shapes in names: R rows (C of them in a chunk), I inputs, H hidden, O outputs.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pretrain.kernels.device import add_product, chunks, maybe_compiled, product_dtype, sum_dtype
from pretrain.kernels.dropout import kept, seed_from_row
from pretrain.kernels.operator import operator
from pretrain.kernels.row_norm import RowNorm

Activation = Literal["relu", "gelu"]


def two_layer(
    input_RI: Tensor,
    first: nn.Module,
    second: nn.Module,
    activation: Activation,
    norm: nn.LayerNorm | None = None,
    residual: bool = False,
    dropout: float = 0.0,
    seed: Tensor | None = None,
    compile: bool = False,
    recompute: bool = False,
) -> Tensor:
    """The perceptron of ``first`` and ``second`` on the last dimension.

    ``norm`` is applied to the input before, and with ``residual`` the input itself is added to the output. ``dropout``
    acts on the hidden layer of a GELU and needs a ``seed``. Forward: 2 (I + O) H FLOPs per row. Backward: twice that.
    Kept for it: the input and the hidden layer (before a GELU, after a ReLU), or with ``recompute`` the input alone,
    for another 2 I H FLOPs. ``compile`` compiles what happens to a chunk around its products; the numbers are those of
    the eager path.
    """
    tensors = (input_RI, first.weight, first.bias, second.weight, second.bias)
    keep_hidden = not recompute and torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    assert not dropout or activation == "gelu", "what is kept of a ReLU is its result, which dropout would change"
    narrow = product_dtype(input_RI)
    rows = input_RI.reshape(-1, input_RI.shape[-1])
    rows = rows if norm is not None else rows.to(narrow)
    weights = (tensor.to(narrow) for tensor in tensors[1:])
    gain, shift, epsilon = (None, None, 0.0) if norm is None else (norm.weight, norm.bias, norm.eps)
    output, _ = torch.ops.bulkformer.two_layer(
        rows, *weights, gain, shift, epsilon, residual, seed, activation, dropout, keep_hidden, compile
    )
    return output.view(*input_RI.shape[:-1], output.shape[-1])


@operator("two_layer")
def _two_layer(
    input: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    gain: Tensor | None,
    shift: Tensor | None,
    epsilon: float,
    residual: bool,
    seed: Tensor | None,
    activation: str,
    dropout: float,
    keep_hidden: bool,
    compile: bool,
) -> tuple[Tensor, Tensor]:
    """Output (R x O) and what the backward pass needs of the hidden layer (R x H, or 0 x H where nothing is kept)."""
    rows, hidden_width = len(input), len(weight1)
    hidden_RH = weight1.new_empty(rows if keep_hidden else 0, hidden_width)
    output_RO = input.new_empty(rows, len(weight2), dtype=_output_dtype(input, weight1, residual))
    norm = RowNorm(gain, shift, epsilon, weight1.dtype, compile)
    activate = maybe_compiled(_gelu, compile, varying="C") if activation == "gelu" else _relu
    for chunk in chunks(rows, hidden_width, input.device):
        stored = hidden_RH[chunk] if keep_hidden else weight1.new_empty(chunk.stop - chunk.start, hidden_width)
        hidden_CH = _first_layer(norm.rows(input[chunk]), weight1, bias1, activation, stored)
        active_CH = activate(hidden_CH, _seed_from(seed, chunk.start), dropout)
        if residual:
            torch.add(torch.addmm(bias2, active_CH, weight2.T), input[chunk], out=output_RO[chunk])
        else:
            torch.addmm(bias2, active_CH, weight2.T, out=output_RO[chunk])
    return output_RO, hidden_RH


@operator("two_layer_backward")
def _two_layer_backward(
    gradient: Tensor,
    input: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    gain: Tensor | None,
    shift: Tensor | None,
    hidden: Tensor,
    seed: Tensor | None,
    epsilon: float,
    residual: bool,
    activation: str,
    dropout: float,
    compile: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of input, weights and biases, and of the norm's gain and shift (empty without one).

    All but the first are summed in :func:`sum_dtype`.
    """
    wide, narrow = sum_dtype(weight1), weight1.dtype
    grad_input_RI = input.new_empty(input.shape)
    grad1_HI, grad2_OH = weight1.new_zeros(weight1.shape, dtype=wide), weight2.new_zeros(weight2.shape, dtype=wide)
    bias1_H, bias2_O = grad1_HI.new_zeros(len(weight1)), grad1_HI.new_zeros(len(weight2))
    norm = RowNorm(gain, shift, epsilon, narrow, compile)
    through = maybe_compiled(_through_gelu if activation == "gelu" else _through_relu, compile, varying="C")
    for chunk in chunks(len(input), 2 * len(weight1), input.device):
        grad_CO = gradient[chunk].to(narrow)
        rows_CI = norm.rows(input[chunk])
        kept_hidden = len(hidden) == len(input)
        hidden_CH = hidden[chunk] if kept_hidden else _first_layer(rows_CI, weight1, bias1, activation)
        grad_active_CH = grad_CO @ weight2
        chunk_seed = _seed_from(seed, chunk.start)
        active_CH, grad_hidden_CH, grad_bias_H = through(grad_active_CH, hidden_CH, chunk_seed, dropout)
        add_product(grad2_OH, grad_CO.T, active_CH)
        add_product(grad1_HI, grad_hidden_CH.T, rows_CI)
        bias1_H += grad_bias_H
        bias2_O += grad_CO.sum(dim=0, dtype=wide)
        of_residual = gradient[chunk] if residual else None
        norm.gradient(grad_hidden_CH, weight1, input[chunk], of_residual, grad_input_RI[chunk])
    first, second = (grad1_HI.to(narrow), bias1_H.to(narrow)), (grad2_OH.to(narrow), bias2_O.to(narrow))
    of_norm = (input.new_empty(0), input.new_empty(0)) if gain is None else norm.grad_gain_and_shift()
    return grad_input_RI, *first, *second, *of_norm


def _output_dtype(input: Tensor, weight: Tensor, residual: bool) -> torch.dtype:
    return torch.promote_types(input.dtype, weight.dtype) if residual else weight.dtype


def _first_layer(
    input_CI: Tensor, weight_HI: Tensor, bias_H: Tensor, activation: str, out: Tensor | None = None
) -> Tensor:
    """The hidden layer as the backward pass wants it: before a GELU, after a ReLU (its result gives its derivative)."""
    hidden_CH = torch.addmm(bias_H, input_CI, weight_HI.T, out=out)
    return hidden_CH.relu_() if activation == "relu" else hidden_CH


def _relu(active_CH: Tensor, _seed: Tensor | None, _dropout: float) -> Tensor:
    return active_CH


def _through_relu(
    gradient_CH: Tensor, active_CH: Tensor, _seed: Tensor | None, _dropout: float
) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`_through_gelu`; what is kept of a ReLU is its result already."""
    gradient_CH = torch.ops.aten.threshold_backward(gradient_CH, active_CH, 0)
    return active_CH, gradient_CH, gradient_CH.sum(dim=0, dtype=sum_dtype(gradient_CH))


def _gelu(hidden_CH: Tensor, seed: Tensor | None, dropout: float) -> Tensor:
    active_CH = F.gelu(hidden_CH)
    if seed is None:
        return active_CH
    kept_CH = kept(seed, hidden_CH.shape[0], hidden_CH.shape[1], dropout)
    return torch.where(kept_CH, active_CH * (1 / (1 - dropout)), 0.0)


def _through_gelu(
    gradient_CH: Tensor, hidden_CH: Tensor, seed: Tensor | None, dropout: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The dropped activation once more; the gradient before the activation, and its sum over rows."""
    active_CH, gradient_CH = F.gelu(hidden_CH), torch.ops.aten.gelu_backward(gradient_CH, hidden_CH)
    if seed is not None:
        kept_CH, scale = kept(seed, hidden_CH.shape[0], hidden_CH.shape[1], dropout), 1 / (1 - dropout)
        active_CH = torch.where(kept_CH, active_CH * scale, 0.0)
        gradient_CH = torch.where(kept_CH, gradient_CH * scale, 0.0)
    return active_CH, gradient_CH, gradient_CH.sum(dim=0, dtype=sum_dtype(gradient_CH))


def _seed_from(seed: Tensor | None, row: int) -> Tensor | None:
    return None if seed is None else seed_from_row(seed, row)


@_two_layer.register_fake
def _(
    input: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    gain: Tensor | None,
    shift: Tensor | None,
    epsilon: float,
    residual: bool,
    seed: Tensor | None,
    activation: str,
    dropout: float,
    keep_hidden: bool,
    compile: bool,
) -> tuple[Tensor, Tensor]:
    rows = input.shape[0]
    output = input.new_empty(rows, weight2.shape[0], dtype=_output_dtype(input, weight1, residual))
    return output, weight1.new_empty(rows if keep_hidden else 0, weight1.shape[0])


@_two_layer_backward.register_fake
def _(
    gradient: Tensor,
    input: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    gain: Tensor | None,
    shift: Tensor | None,
    *_rest: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    return (
        input.new_empty(input.shape),
        weight1.new_empty(weight1.shape),
        weight1.new_empty(weight1.shape[0]),
        weight2.new_empty(weight2.shape),
        weight2.new_empty(weight2.shape[0]),
        input.new_empty(0) if gain is None else gain.new_empty(gain.shape),
        input.new_empty(0) if shift is None else shift.new_empty(shift.shape),
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    input, weight1, bias1, weight2, _, gain, shift, epsilon, residual, seed, activation, dropout, _, compile = inputs
    ctx.save_for_backward(input, weight1, bias1, weight2, gain, shift, output[1], seed)
    ctx.mark_non_differentiable(output[1])
    ctx.options, ctx.has_norm = (epsilon, residual, activation, dropout, compile), gain is not None


def _backward(ctx: Any, gradient: Tensor, _hidden: Tensor) -> tuple[Tensor | None, ...]:
    gradients = torch.ops.bulkformer.two_layer_backward(gradient, *ctx.saved_tensors, *ctx.options)
    of_norm = gradients[5:] if ctx.has_norm else (None, None)
    return *gradients[:5], *of_norm, *(None,) * 7


_two_layer.register_autograd(_backward, setup_context=_setup)
