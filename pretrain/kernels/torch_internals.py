"""The names of torch without a public counterpart that this project uses, each with its reason.

Nothing else of the project may use a private name of torch. A test fails when one of these vanishes, changes what it
does, or gets a public counterpart.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode


def compile_for_any_length(tensor: Tensor, dimension: int) -> None:
    """Have compiled functions take ``tensor`` with any length of one dimension, where they can.

    ``torch.compile(dynamic=True)`` would do so for all dimensions, and divide by their symbolic sizes in the innermost
    loops; the strict ``mark_dynamic`` fails where the code needs a constant. Added by pytorch/pytorch#105145; the
    documentation of dynamic shapes names it under ``torch._dynamo``.
    """
    torch._dynamo.maybe_mark_dynamic(tensor, dimension)


def cpu_multiplies_bf16() -> bool:
    """Whether oneDNN has bfloat16 products of the processor's own, with AVX-512 or AMX.

    ``torch.cuda.is_bf16_supported`` has no counterpart for CPUs; torch's own tests ask the same operator
    (pytorch/pytorch#136290).
    """
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def change_count(tensor: Tensor) -> int:
    """How often a tensor was changed in place; -1 for one made in inference mode, which counts no changes.

    What autograd compares to find tensors that were changed after they were saved. No upstream issue asks for a public
    name that is known to this project.
    """
    return -1 if tensor.is_inference() else tensor._version


def tensors_without_data() -> FakeTensorMode:
    """A mode in which operations work out shapes, types and devices of their results and nothing else.

    Documented under its private name, as fake tensors. Tensors on the device ``meta`` are the public counterpart, for
    which there is no autocast.
    """
    return FakeTensorMode()


class OperationMode(TorchDispatchMode):
    """A mode that sees each operation below autograd and autocast, as ``torch.utils.flop_counter`` does.

    ``torch.overrides.TorchFunctionMode`` is public and sees no operation of a backward pass.
    """


def memory_of(tensor: Tensor) -> int:
    """Which memory a tensor lies in. Unlike ``data_ptr`` it also tells those apart that have no data."""
    return tensor.untyped_storage()._cdata


def changes_inputs(operation: Any) -> bool:
    """Whether an operation writes to its arguments, as its schema says; the schema has no public name."""
    return bool(operation._schema.is_mutable)
