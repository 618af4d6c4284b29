"""How a function becomes an operator of torch: one piece to autograd, to autocast and to compilation."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.library import CustomOpDef

# What each operator does, by its full name: traces look inside, where torch sees one piece.
BODIES: dict[str, Callable[..., Any]] = {}


def operator(name: str) -> Callable[[Callable[..., Any]], CustomOpDef]:
    """Register a function of tensors and numbers as ``torch.ops.bulkformer.NAME``; its body runs without autocast.

    In which type an operator multiplies is decided where it is called, by the types of what is passed to it
    (:func:`pretrain.kernels.device.product_dtype`). Autocast would stay on inside the body, but in the forward pass
    alone: there it would narrow products that are in fp32 on purpose, and the backward pass would differentiate other
    numbers than those computed.
    """

    def register(function: Callable[..., Any]) -> CustomOpDef:
        @wraps(function)
        def without_autocast(*arguments: Any) -> Any:
            device = next(argument.device for argument in arguments if isinstance(argument, Tensor))
            with torch.autocast(device.type, enabled=False):
                return function(*arguments)

        # inferred here: torch looks up the types in the annotations among the globals of the function itself
        schema = torch.library.infer_schema(function, mutates_args=())
        BODIES[f"bulkformer::{name}"] = without_autocast
        return torch.library.custom_op(f"bulkformer::{name}", without_autocast, mutates_args=(), schema=schema)

    return register
