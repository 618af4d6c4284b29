"""Every choice that depends on the device: precision of products, chunk sizes, samples at once, what is kept."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from dataprep.runtime.allocator import keep_freed_memory, map_large_memory
from pretrain.kernels.torch_internals import compile_for_any_length, cpu_multiplies_bf16

P = ParamSpec("P")
R = TypeVar("R")

# Work tensors of a chunk stay inside the last-level cache of one CPU core pair; a GPU wants fewer, larger launches.
CPU_CHUNK_ELEMENTS = 2**20
CUDA_CHUNK_ELEMENTS = 2**26

# Stands in for torch.compile: takes a function and gives one that does the same.
Compiler = Callable[[Callable[..., Any]], Callable[..., Any]]

_chosen_for: ContextVar[str | None] = ContextVar("chosen_for", default=None)
_compiler: ContextVar[Compiler | None] = ContextVar("compiler", default=None)


@contextmanager
def choices_of(device_type: str, compiler: Compiler) -> Iterator[None]:
    """Choose as on a device of a type, and have ``compiler`` compile: for steps traced on tensors without data."""
    tokens = _chosen_for.set(device_type), _compiler.set(compiler)
    try:
        yield
    finally:
        _chosen_for.reset(tokens[0])
        _compiler.reset(tokens[1])


def _type_of(device: torch.device) -> str:
    return _chosen_for.get() or device.type


def chunks(rows: int, elements_per_row: int, device: torch.device) -> Iterator[slice]:
    """Rows to work on at once, part after part, where each row needs ``elements_per_row`` numbers of work space."""
    budget = CPU_CHUNK_ELEMENTS if _type_of(device) == "cpu" else CUDA_CHUNK_ELEMENTS
    step = max(1, budget // max(1, elements_per_row))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def samples_together(samples: int, device: torch.device) -> Iterator[slice]:
    """Samples to work on at once, part after part, where each could be worked on for itself.

    One on a CPU, whose cache then holds what belongs to it; all of them on a GPU, where each launch takes its time
    however small the tensors are.
    """
    step = 1 if _type_of(device) == "cpu" else max(1, samples)
    return (slice(start, min(start + step, samples)) for start in range(0, samples, step))


@torch.compiler.assume_constant_result
def multiplies_bf16(device_type: str) -> bool:
    """Whether the device multiplies bfloat16 natively.

    A CPU without them (AVX2, or AVX-512 without the BF16 or AMX extensions) emulates them at about a hundredth of
    its fp32 rate, and GPUs before the Ampere generation emulate them, too.
    """
    if _chosen_for.get() not in (None, "cpu"):
        return True
    if device_type == "cpu":
        return cpu_multiplies_bf16()
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return True


def autocast_to_bf16(precision: str, device: torch.device) -> bool:
    """Whether precision "bf16" means bfloat16 products here; elsewhere it means fp32, which is exact and faster."""
    return precision == "bf16" and multiplies_bf16(device.type)


def retain_freed_memory(device: torch.device) -> bool:
    """Keep freed memory for the next step where tensors are the process's own: on a CPU.

    See :func:`dataprep.runtime.allocator.keep_freed_memory`, also for when to call it.
    """
    return device.type == "cpu" and keep_freed_memory()


def map_memory_of_first_step(device: torch.device) -> None:
    """Have what is made before freed memory is kept lie outside of the heap, on a CPU; before the model is made.

    See :func:`dataprep.runtime.allocator.map_large_memory`.
    """
    if device.type == "cpu":
        map_large_memory()


def product_dtype(tensor: Tensor) -> torch.dtype:
    """Type in which products with ``tensor`` run: autocast's where that is on, the tensor's own otherwise."""
    device_type = tensor.device.type
    return torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else tensor.dtype


def maybe_compiled(function: Callable[P, R], compile: bool, varying: str) -> Callable[P, R]:
    """``function`` of tensors, or its compiled form: one loop in place of one per operation.

    ``varying`` is the letter that stands, at the end of the parameters' names, for the dimension whose length differs
    from call to call (``hidden_CH``: the first one for "C"). The compiled code takes any length of it, so that neither
    the last chunk nor a smaller last batch compiles anything anew; all others are constants in its loops, which
    otherwise would divide by them.
    """
    if not compile:
        return function
    compiler = _compiler.get()
    return _compiled(function, varying) if compiler is None else compiler(function)


@cache
def _compiled(function: Callable[P, R], varying: str) -> Callable[P, R]:
    compiled = torch.compile(function, fullgraph=True)
    shapes = [name.rpartition("_")[2] for name in inspect.signature(function).parameters]
    dimensions = [shape.index(varying) if shape.isupper() and varying in shape else None for shape in shapes]

    def call(*arguments: P.args, **named: P.kwargs) -> R:
        assert not named, "the dimensions are looked up by position"
        for argument, dimension in zip(arguments, dimensions, strict=True):
            if dimension is not None:
                assert isinstance(argument, Tensor)
                compile_for_any_length(argument, dimension)
        return compiled(*arguments, **named)

    return call


def sum_dtype(tensor: Tensor) -> torch.dtype:
    """Type to accumulate in: fp32 for bf16 operands, the operands' own type otherwise."""
    return torch.promote_types(tensor.dtype, torch.float32)


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """``total += left @ right`` of matrices, in the type of ``total`` across chunks whatever the products run in."""
    if total.dtype == right.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def product_into_wide(left_HCK: Tensor, right_KM: Tensor) -> Tensor:
    """``left @ right`` per head, H x C x M, in :func:`sum_dtype` of ``left``; ``right`` is in that type already.

    A GPU multiplies bf16 into fp32, with ``right`` rounded to bf16; torch's CPU products cannot, so there they run in
    fp32.
    """
    right_HKM = right_KM.expand(len(left_HCK), *right_KM.shape)
    if _type_of(left_HCK.device) == "cuda" and left_HCK.dtype != right_KM.dtype:
        return torch.bmm(left_HCK, right_HKM.to(left_HCK.dtype), out_dtype=right_KM.dtype)
    return torch.bmm(left_HCK.to(right_KM.dtype), right_HKM)
