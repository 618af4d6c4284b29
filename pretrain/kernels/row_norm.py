"""A layer norm that belongs to a chunk of rows: applied while the chunk is in cache, undone there on the way back.

Shapes in names: C rows of a chunk, I width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pretrain.kernels.device import maybe_compiled


class RowNorm:
    """The norm in front of products that run in ``narrow``; without ``gain`` and ``shift`` (I) there is none.

    It is computed in the type of its gain, whatever its input has, and its result is narrowed before it leaves the
    cache. A GPU has no norm of bf16 rows with an fp32 gain.
    """

    def __init__(
        self, gain: Tensor | None, shift: Tensor | None, epsilon: float, narrow: torch.dtype, compile: bool
    ) -> None:
        self._gain, self._shift, self._epsilon = gain, shift, epsilon
        self._narrow = narrow
        self._normed = maybe_compiled(_normed, compile, varying="C")
        self._through_norm = maybe_compiled(_through_norm, compile, varying="C")
        if gain is not None and shift is not None:
            self._grad_gain, self._grad_shift = torch.zeros_like(gain), torch.zeros_like(shift)

    def rows(self, input_CI: Tensor) -> Tensor:
        """What the products see of a chunk."""
        if self._gain is None:
            return input_CI
        assert self._shift is not None
        # .data, since compiled code would take each view of the whole input for something new
        return self._normed(input_CI.data, self._gain, self._shift, self._epsilon, self._narrow)

    def rows_into(self, input_CI: Tensor, out_CI: Tensor) -> Tensor:
        """The same, where the normed rows are wanted in the type of the input, too: in ``out``."""
        assert self._gain is not None
        wide_CI = input_CI.to(self._gain.dtype)
        out_CI.copy_(F.layer_norm(wide_CI, self._gain.shape, self._gain, self._shift, self._epsilon))
        return out_CI.to(self._narrow)

    def gradient(
        self,
        grad_CO: Tensor,
        weight_OI: Tensor,
        input_CI: Tensor,
        residual_CI: Tensor | None,
        out_CI: Tensor,
        of_normed_CI: Tensor | None = None,
    ) -> None:
        """Fill ``out`` with the input's gradient: ``grad W`` sent back through the norm, plus that of a residual.

        ``of_normed`` is what came back to the normed rows beside the product.
        """
        if self._gain is None and residual_CI is None:
            torch.mm(grad_CO, weight_OI, out=out_CI)
            return
        grad_CI = grad_CO @ weight_OI
        if of_normed_CI is not None:
            grad_CI = grad_CI + of_normed_CI
        if self._gain is not None:
            assert self._shift is not None
            grad_CI, gain_I, shift_I = self._through_norm(
                grad_CI, input_CI.data, self._gain, self._shift, self._epsilon
            )
            self._grad_gain += gain_I
            self._grad_shift += shift_I
        if residual_CI is None:
            out_CI.copy_(grad_CI)
        else:
            torch.add(grad_CI, residual_CI, out=out_CI)

    def grad_gain_and_shift(self) -> tuple[Tensor, Tensor]:
        """Summed over the chunks so far, where there is a norm."""
        return self._grad_gain, self._grad_shift


def _normed(input_CI: Tensor, gain: Tensor, shift: Tensor, epsilon: float, narrow: torch.dtype) -> Tensor:
    return torch.native_layer_norm(input_CI.to(gain.dtype), gain.shape, gain, shift, epsilon)[0].to(narrow)


def _through_norm(
    grad_CI: Tensor, input_CI: Tensor, gain: Tensor, shift: Tensor, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the input, the gain and the shift, all in the type of the gain."""
    wide_CI = input_CI.to(gain.dtype)
    _, mean_C1, deviation_C1 = torch.native_layer_norm(wide_CI, gain.shape, gain, shift, epsilon)
    return torch.ops.aten.native_layer_norm_backward(
        grad_CI.to(gain.dtype), wide_CI, gain.shape, mean_C1, deviation_C1, gain, shift, [True, True, True]
    )
