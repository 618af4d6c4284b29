"""``activation(x W1 + b1) W2 + b2`` in chunks of rows: the hidden layer, four times the width, is written once.

The published code keeps four tensors of the hidden width for its backward pass (before and after the activation, the
dropout mask as floats, the dropped values). Here one is kept, the rest is computed again chunk by chunk while in cache.

Shapes in names: R rows (C of them in a chunk), I inputs, H hidden, O outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pretrain.device import chunk_rows, peak_dtype, product_dtype
from pretrain.dropout import kept, rounded_rate

Activation = Literal["relu", "gelu"]


def two_layer(
    input_RI: Tensor,
    first: nn.Linear,
    second: nn.Linear,
    activation: Activation,
    residual_RO: Tensor | None = None,
    dropout: float = 0.0,
    seed: Tensor | None = None,
) -> Tensor:
    """The perceptron of ``first`` and ``second`` on the last dimension, plus ``residual`` where one is given.

    ``dropout`` acts on the hidden layer and needs a ``seed``. Forward: 2 (I + O) H FLOPs per row. Backward: twice
    that. Kept for it: the input and the hidden layer (before a GELU, after a ReLU).
    """
    tensors = (input_RI, first.weight, first.bias, second.weight, second.bias)
    keep_hidden = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    assert not dropout or activation == "gelu", "what is kept of a ReLU is its result, which dropout would change"
    rows = input_RI.reshape(-1, input_RI.shape[-1]).to(product_dtype(input_RI))
    residual = None if residual_RO is None else residual_RO.reshape(-1, residual_RO.shape[-1])
    weights = (tensor.to(rows.dtype) for tensor in tensors[1:])
    output, _ = torch.ops.bulkformer.two_layer(rows, *weights, residual, seed, activation, dropout, keep_hidden)
    return output.view(*input_RI.shape[:-1], output.shape[-1])


@torch.library.custom_op("bulkformer::two_layer", mutates_args=())
def _two_layer(
    input: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    residual: Tensor | None,
    seed: Tensor | None,
    activation: str,
    dropout: float,
    keep_hidden: bool,
) -> tuple[Tensor, Tensor]:
    """Output (R x O) and what the backward pass needs of the hidden layer (R x H, or 0 x H where nothing is kept)."""
    rows, hidden_width = len(input), len(weight1)
    hidden_RH = input.new_empty(rows if keep_hidden else 0, hidden_width)
    output_RO = input.new_empty(rows, len(weight2), dtype=_output_dtype(input, residual))
    for chunk in _chunks(input, hidden_width):
        stored = hidden_RH[chunk] if keep_hidden else input.new_empty(chunk.stop - chunk.start, hidden_width)
        hidden_CH = torch.addmm(bias1, input[chunk], weight1.T, out=stored)
        active_CH = _activate_(hidden_CH, activation)
        if seed is not None:
            active_CH = _drop_(active_CH, seed, chunk, dropout)
        produced_CO = torch.addmm(bias2, active_CH, weight2.T)
        output_RO[chunk] = produced_CO if residual is None else produced_CO.add(residual[chunk])
    return output_RO, hidden_RH


@torch.library.custom_op("bulkformer::two_layer_backward", mutates_args=())
def _two_layer_backward(
    gradient: Tensor,
    input: Tensor,
    weight1: Tensor,
    weight2: Tensor,
    hidden: Tensor,
    seed: Tensor | None,
    activation: str,
    dropout: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the input, both weights and both biases, the latter four summed in :func:`peak_dtype`."""
    wide = peak_dtype(input)
    grad_input_RI = input.new_empty(input.shape)
    grad1_HI, grad2_OH = weight1.new_zeros(weight1.shape, dtype=wide), weight2.new_zeros(weight2.shape, dtype=wide)
    bias1_H = grad1_HI.new_zeros(len(weight1))
    for chunk in _chunks(input, 2 * len(weight1)):
        grad_CO, hidden_CH = gradient[chunk].to(input.dtype), hidden[chunk]
        grad_active_CH = grad_CO @ weight2
        active_CH = F.gelu(hidden_CH) if activation == "gelu" else hidden_CH
        if seed is not None:
            active_CH = _drop_(active_CH, seed, chunk, dropout)
            grad_active_CH = _drop_(grad_active_CH, seed, chunk, dropout)
        _add_product(grad2_OH, grad_CO.T, active_CH)
        grad_hidden_CH = _through_activation(grad_active_CH, hidden_CH, activation)
        _add_product(grad1_HI, grad_hidden_CH.T, input[chunk])
        bias1_H += grad_hidden_CH.sum(dim=0, dtype=wide)
        torch.mm(grad_hidden_CH, weight1, out=grad_input_RI[chunk])
    bias2_O = gradient.sum(dim=0, dtype=wide)
    return grad_input_RI, *(grad.to(input.dtype) for grad in (grad1_HI, bias1_H, grad2_OH, bias2_O))


def _output_dtype(input: Tensor, residual: Tensor | None) -> torch.dtype:
    return input.dtype if residual is None else torch.promote_types(input.dtype, residual.dtype)


def _activate_(hidden_CH: Tensor, activation: str) -> Tensor:
    """ReLU in place, since its derivative follows from its result; GELU to a new tensor."""
    return F.gelu(hidden_CH) if activation == "gelu" else hidden_CH.relu_()


def _through_activation(gradient_CH: Tensor, hidden_CH: Tensor, activation: str) -> Tensor:
    if activation == "gelu":
        return torch.ops.aten.gelu_backward(gradient_CH, hidden_CH)
    return torch.ops.aten.threshold_backward(gradient_CH, hidden_CH, 0)


def _drop_(values_CH: Tensor, seed: Tensor, chunk: slice, rate: float) -> Tensor:
    kept_CH = kept(seed, chunk.start, *values_CH.shape, rate)
    return values_CH.mul_(kept_CH).mul_(1 / (1 - rounded_rate(rate)))


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    if total.dtype == right.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def _chunks(input_RI: Tensor, elements_per_row: int) -> Iterator[slice]:
    rows = len(input_RI)
    step = chunk_rows(rows, elements_per_row, input_RI.device)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


@_two_layer.register_fake
def _(
    input: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    residual: Tensor | None,
    seed: Tensor | None,
    activation: str,
    dropout: float,
    keep_hidden: bool,
) -> tuple[Tensor, Tensor]:
    rows = input.shape[0]
    output = input.new_empty(rows, weight2.shape[0], dtype=_output_dtype(input, residual))
    return output, input.new_empty(rows if keep_hidden else 0, weight1.shape[0])


@_two_layer_backward.register_fake
def _(
    gradient: Tensor,
    input: Tensor,
    weight1: Tensor,
    weight2: Tensor,
    hidden: Tensor,
    seed: Tensor | None,
    activation: str,
    dropout: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    biases = input.new_empty(weight1.shape[0]), input.new_empty(weight2.shape[0])
    return (
        input.new_empty(input.shape),
        weight1.new_empty(weight1.shape),
        biases[0],
        weight2.new_empty(weight2.shape),
        biases[1],
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    input, weight1, _, weight2, _, residual, seed, activation, dropout, _ = inputs
    ctx.save_for_backward(input, weight1, weight2, output[1], seed)
    ctx.mark_non_differentiable(output[1])
    ctx.activation, ctx.dropout, ctx.has_residual = activation, dropout, residual is not None


def _backward(ctx: Any, gradient: Tensor, _hidden: Tensor) -> tuple[Tensor | None, ...]:
    gradients = torch.ops.bulkformer.two_layer_backward(gradient, *ctx.saved_tensors, ctx.activation, ctx.dropout)
    return *gradients, gradient if ctx.has_residual else None, None, None, None, None


_two_layer.register_autograd(_backward, setup_context=_setup)
