"""A pass traced as on CUDA: nothing waits for the device, products have operands of one type, launches are bounded."""

import pytest
import torch

from pretrain.bench.training_step import synthetic_graph
from pretrain.config import ModelSettings
from pretrain.planning import trace as trace_module
from pretrain.planning.trace import Operations, TracedCase, trace_pass
from pretrain.shape import ModelShape

GENES = 300
SHAPES = {
    family: ModelShape(family=family, genes=GENES, dim=48, performer_layers=2, heads=4, features_per_head=20)
    for family in ("original", "latest")
}
GRAPH = synthetic_graph(GENES, 5)
aten = torch.ops.aten
# The host would wait for the device in each of these.
WAITS = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.is_nonzero, aten.equal}
# Launches of a pass: 604 and 1,170 were traced over 20,010 genes when this was written.
MOST_LAUNCHES = {"37M": 700, "50M": 1300}


class Watched(Operations):
    """Fails on an operation that CUDA would refuse or wait for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket not in WAITS, f"{func.name()} makes the host wait"
        if func.overloadpacket in trace_module._PRODUCTS:
            found = {tensor.dtype for tensor in trace_module._tensors(list(args))[-2:]}
            assert len(found) == 1, f"{func.name()} of {found}"
        return super().__torch_dispatch__(func, types, args, kwargs)


@pytest.fixture
def watched(monkeypatch):
    monkeypatch.setattr(trace_module, "Operations", Watched)


@pytest.mark.parametrize("family", SHAPES)
@pytest.mark.parametrize("kernel", ["reference", "fused"])
@pytest.mark.parametrize("recompute", ["nothing", "layers"])
def test_a_pass_in_bf16_neither_waits_for_the_device_nor_mixes_types_in_products(watched, family, kernel, recompute):
    trace = trace_pass(TracedCase(SHAPES[family], kernel, "bf16", recompute), GRAPH)
    assert any(work.narrow for work in trace.work)


def test_a_wait_for_the_device_in_the_loss_is_found(watched, monkeypatch):
    loss = trace_module.masked_profile_loss
    monkeypatch.setattr(trace_module, "masked_profile_loss", lambda *a: loss(*a) * loss(*a).sum().item())
    with pytest.raises(AssertionError, match="makes the host wait"):
        trace_pass(TracedCase(SHAPES["original"]), GRAPH)


def test_a_product_of_two_types_is_found():
    with pytest.raises(AssertionError, match="aten::mm of"), Watched():
        torch.mm(torch.ones(2, 2), torch.ones(2, 2, dtype=torch.bfloat16))


@pytest.mark.parametrize("size", MOST_LAUNCHES)
def test_a_compiled_pass_has_no_more_launches_than_stated(size):
    shape = ModelSettings(size=size).shape(2000)
    assert (
        len(trace_pass(TracedCase(shape, compile=True, micro_profiles=8), synthetic_graph(2000, 20)).work)
        <= MOST_LAUNCHES[size]
    )
