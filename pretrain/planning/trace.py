"""What one pass of training asks of a device, found by running the code that trains on tensors without data.

Nothing is worked out by hand: forward pass, loss and backward pass run as they are, below them a mode counts the memory
of each tensor from its making to its end, and the work of each operation. Operators of the fused kernel, one piece to
torch, are looked into: the second call of the same shapes is known from the first. So a trace is right for kernels,
families and settings of recomputation alike, and takes seconds on a laptop for any size of model and batch.

Chunk sizes and types of products are those of the device planned for (:mod:`pretrain.kernels.device`); the operations
are those of eager execution, but that what is compiled counts as one. Shapes in names: B profiles, G genes.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dataprep.corpus import GeneGraph
from pretrain.config import Kernel, Precision, Recompute
from pretrain.kernels.device import choices_of
from pretrain.kernels.graph_product import Adjacency
from pretrain.kernels.operator import BODIES
from pretrain.kernels.torch_internals import OperationMode, changes_inputs, memory_of, tensors_without_data
from pretrain.model.bulkformer import BulkFormer
from pretrain.model.loss import masked_profile_loss
from pretrain.model.masking import mask_of_profiles
from pretrain.shape import ModelShape

aten = torch.ops.aten
# Make room for numbers and write none.
_ALLOCATIONS = {aten.empty, aten.empty_like, aten.new_empty, aten.empty_strided, aten.new_empty_strided}
# left and right are the last two of their tensors
_PRODUCTS = {aten.mm, aten.addmm, aten.addmm_, aten.bmm, aten.baddbmm, aten.baddbmm_}
MASK_RATE = 0.15


class Work(NamedTuple):
    """What one launch has to do: FLOPs of a product (and whether its operands are narrower than fp32), bytes moved.

    ``operation`` is torch's name for it, or that of a compiled function.
    """

    flops: float
    narrow: bool
    bytes: float
    operation: str = ""


@dataclass(frozen=True)
class PassTrace:
    """Bytes and work of a forward and a backward pass over ``micro_profiles`` profiles.

    - ``weight_bytes``, ``graph_bytes``: what stays, of weights and of the graph's edges.
    - ``trained``: numbers that are trained.
    - ``kept_bytes``: held for the backward pass when the forward pass has ended.
    - ``peak_bytes``: most held at once beyond weights, graph and the gradients of all weights.
    """

    micro_profiles: int
    weight_bytes: int
    graph_bytes: int
    trained: int
    kept_bytes: int
    peak_bytes: int
    work: tuple[Work, ...]

    @property
    def flops(self) -> float:
        return sum(launch.flops for launch in self.work)


@dataclass(frozen=True)
class TracedCase:
    """One way to compute a pass of training; ``device_type`` is that of the device planned for."""

    shape: ModelShape
    kernel: Kernel = "fused"
    precision: Precision = "bf16"
    recompute: Recompute = "nothing"
    micro_profiles: int = 4
    compile: bool = False
    device_type: str = "cuda"


def trace_pass(case: TracedCase, graph: GeneGraph) -> PassTrace:
    """Trace a pass of which the gradients are added to those of the passes before it."""
    with torch.device("meta"):
        model = BulkFormer(case.shape, graph, case.kernel, case.precision, case.compile, case.recompute)
    operations = Operations()
    with choices_of(case.device_type, operations.fused), tensors_without_data():
        _replace_tensors(model)
        model.train()
        for weight in model.parameters():
            weight.grad = torch.zeros_like(weight) if weight.requires_grad else None
        with operations:
            expression_BG = torch.empty(case.micro_profiles, case.shape.genes)
            row_ids_B = torch.empty(case.micro_profiles, dtype=torch.int64)
            mask_BG = mask_of_profiles(row_ids_B, case.shape.genes, MASK_RATE, seed=0, epoch=0)
            loss = masked_profile_loss(model, expression_BG, mask_BG).sum()
            kept = operations.held_bytes
            loss.backward()
    graph_bytes = _graph_bytes(model)
    return PassTrace(
        micro_profiles=case.micro_profiles,
        weight_bytes=_bytes([*model.parameters(), *model.buffers()]) - graph_bytes,
        graph_bytes=graph_bytes,
        trained=sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        kept_bytes=kept,
        peak_bytes=operations.peak_bytes,
        work=tuple(operations.work),
    )


class Operations(OperationMode):
    """Counts the memory of tensors that are made inside, from their making to their end, and the work of operations.

    Also of tensors with data: then as torch allocated it, without what libraries use beside.
    """

    # Whether an operator is looked into whenever it is called, not only at the first call of its shapes.
    looks_inside_again = False

    def __init__(self) -> None:
        super().__init__()
        self.held_bytes = 0
        self.peak_bytes = 0
        self.work: list[Work] = []
        self._held: dict[int, weakref.ref[Any]] = {}
        self._bodies: dict[Any, _Body] = {}
        self._fusing = False

    def fused(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function as if compiled: one launch, which reads its tensors, writes its results and holds no more."""

        def call(*arguments: Any) -> Any:
            self._fusing = True
            try:
                result = function(*arguments)
            finally:
                self._fusing = False
            inputs, outputs = _tensors(arguments), _tensors(result)
            touched = sum(_touched(tensor) for tensor in (*inputs, *outputs))
            self._note(Work(0.0, False, float(touched), function.__name__), 0.0)
            self._hold(outputs)
            return result

        return call

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._fusing or func.namespace == "prim":
            return func(*args, **kwargs)
        if (name := func.name()) in BODIES:
            return self._inside(name, func, args)
        with self:
            # inside operators, operations that are made of others arrive as one
            if (result := func.decompose(*args, **kwargs)) is not NotImplemented:
                return result
        started = time.perf_counter()
        result = func(*args, **kwargs)
        seconds = time.perf_counter() - started
        inputs, outputs = _tensors([*args, *kwargs.values()]), _tensors(result)
        if self._is_launch(func, inputs, outputs):
            self._note(_work(func, args, inputs, outputs), seconds)
        self._hold(outputs)
        return result

    def _note(self, work: Work, seconds: float) -> None:
        """A launch, and the seconds that the call took: those of the operation where it works on data of a CPU."""
        self.work.append(work)

    def _inside(self, name: str, func: Any, args: Sequence[Any]) -> Any:
        key = (name, tuple(_described(argument) for argument in args))
        if (known := self._bodies.get(key)) and not self.looks_inside_again:
            self.peak_bytes = max(self.peak_bytes, self.held_bytes + known.most_bytes)
            self.work.extend(known.work)
            result = func(*args)
            self._hold(_tensors(result))
            return result
        before, peak, launches = self.held_bytes, self.peak_bytes, len(self.work)
        self.peak_bytes = before
        with self:
            result = BODIES[name](*args)
        self._bodies[key] = _Body(self.peak_bytes - before, self.work[launches:])
        self.peak_bytes = max(peak, self.peak_bytes)
        return result

    @staticmethod
    def _is_launch(func: Any, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> bool:
        if func.overloadpacket in _ALLOCATIONS or not outputs:
            return False
        before = {memory_of(tensor) for tensor in inputs}
        return changes_inputs(func) or any(memory_of(tensor) not in before for tensor in outputs)

    def _hold(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            storage = tensor.untyped_storage()
            place, size = memory_of(tensor), storage.nbytes()
            if place in self._held:
                continue
            self._held[place] = weakref.ref(storage, self._release(place, size))
            self.held_bytes += size
            self.peak_bytes = max(self.peak_bytes, self.held_bytes)

    def _release(self, place: int, size: int) -> Callable[[Any], None]:
        def release(_: Any) -> None:
            if self._held.pop(place, None) is not None:
                self.held_bytes -= size

        return release


@dataclass(frozen=True)
class _Body:
    """What a call of an operator takes inside: memory beyond what was held before, its result included, and work."""

    most_bytes: int
    work: list[Work] = field(default_factory=list)


def _work(func: Any, args: Any, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Work:
    flops, narrow = 0.0, False
    if func.overloadpacket in _PRODUCTS:
        *_, left, right = _tensors(args)
        flops, narrow = 2.0 * left.numel() * right.shape[-1], left.element_size() < 4
    if func.overloadpacket is aten._embedding_bag:
        # reads a row for each index, not the table once
        table, indices = inputs[0], inputs[1]
        moved = (indices.numel() * table.shape[1] + outputs[0].numel()) * table.element_size()
    else:
        moved = sum(_touched(tensor) for tensor in inputs) + sum(_touched(tensor) for tensor in outputs)
    return Work(flops, narrow, float(moved), func.overloadpacket.__name__)


def _touched(tensor: Tensor) -> int:
    """Bytes of a tensor that an operation reads or writes: those of an expanded one are there once."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, (list, tuple)):
        return [tensor for value in values for tensor in _tensors(value)]
    return []


def _described(value: Any) -> Any:
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype, value.stride()
    return value


def _replace_tensors(model: nn.Module) -> None:
    """Put tensors without data in place of all that a model was made with."""
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            made = torch.empty(weight.shape, dtype=weight.dtype)
            setattr(module, name, nn.Parameter(made, requires_grad=weight.requires_grad))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))


def _graph_bytes(model: BulkFormer) -> int:
    adjacencies = [module for module in model.modules() if isinstance(module, Adjacency)]
    edges = [model.edge_index, model.edge_weight]
    return _bytes([*edges, *(buffer for adjacency in adjacencies for buffer in adjacency.buffers())])


def _bytes(tensors: Iterable[Any]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
