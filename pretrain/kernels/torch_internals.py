"""The names of torch without a public counterpart that this project uses, each with its reason.

Nothing else of the project may use a private name of torch. A test fails when one of these vanishes, changes what it
does, or gets a public counterpart.
"""

from __future__ import annotations

import torch
from torch import Tensor


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
