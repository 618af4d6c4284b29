"""Traces on tensors without data: they count what the same pass takes with data."""

import pytest
import torch

from pretrain.bench.training_step import synthetic_graph, synthetic_profiles
from pretrain.config import ModelSettings
from pretrain.model.bulkformer import BulkFormer
from pretrain.model.flops import training_flops
from pretrain.model.loss import masked_profile_loss
from pretrain.planning.trace import Operations, TracedCase, trace_pass
from pretrain.shape import ModelShape

GENES = 300
ORIGINAL = ModelShape(genes=GENES, dim=48, performer_layers=2, heads=4)
LATEST = ModelShape(family="latest", genes=GENES, dim=48, performer_layers=2, heads=4, features_per_head=20)
GRAPH = synthetic_graph(GENES, 5)


def peak_with_data(case: TracedCase) -> int:
    """Most bytes of tensors at once in a pass after another one, beyond weights, graph and gradients."""
    torch.manual_seed(0)
    model = BulkFormer(case.shape, GRAPH, case.kernel, case.precision, recompute=case.recompute)
    model.train()
    expression_BG, mask_BG = synthetic_profiles(case.micro_profiles, GENES)
    masked_profile_loss(model, expression_BG, mask_BG).sum().backward()
    with Operations() as operations:
        masked_profile_loss(model, expression_BG, mask_BG).sum().backward()
    return operations.peak_bytes


@pytest.mark.parametrize("shape", [ORIGINAL, LATEST], ids=["original", "latest"])
@pytest.mark.parametrize(
    ("kernel", "recompute"),
    [("reference", "nothing"), ("reference", "layers"), ("fused", "nothing"), ("fused", "hidden"), ("fused", "layers")],
)
def test_a_trace_holds_as_much_as_a_pass_with_data(shape, kernel, recompute):
    case = TracedCase(shape, kernel, "fp32", recompute, micro_profiles=3, device_type="cpu")
    # a trace also makes the profiles and their mask
    assert trace_pass(case, GRAPH).peak_bytes == pytest.approx(peak_with_data(case), rel=0.02)


@pytest.mark.parametrize("shape", [ORIGINAL, LATEST], ids=["original", "latest"])
@pytest.mark.parametrize("kernel", ["reference", "fused"])
def test_products_of_a_trace_are_those_of_the_formulas(shape, kernel):
    traced = trace_pass(TracedCase(shape, kernel, micro_profiles=4), GRAPH).flops
    if kernel == "fused":
        # features are computed again in the backward pass, padded to multiples of 16
        assert traced > training_flops(shape, 0, 4)
    assert traced == pytest.approx(training_flops(shape, 0, 4), rel=0.25)


def test_each_kind_of_recomputation_keeps_less_than_the_one_before():
    kept = [
        trace_pass(TracedCase(ORIGINAL, recompute=recompute), GRAPH).kept_bytes
        for recompute in ("nothing", "hidden", "layers")
    ]
    assert kept[0] > kept[1] > kept[2]


def test_what_is_kept_grows_with_the_batch_and_weights_do_not():
    one, two, three = (trace_pass(TracedCase(ORIGINAL, micro_profiles=micro), GRAPH) for micro in (1, 2, 3))
    assert three.kept_bytes - two.kept_bytes == pytest.approx(two.kept_bytes - one.kept_bytes, rel=0.01)
    assert one.weight_bytes == three.weight_bytes
    model = BulkFormer(ORIGINAL, GRAPH)
    assert one.trained == sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


def test_compiled_parts_are_fewer_launches_that_move_less_and_multiply_as_much():
    eager, compiled = (trace_pass(TracedCase(ORIGINAL, compile=compile), GRAPH) for compile in (False, True))
    assert len(compiled.work) < len(eager.work)
    assert sum(work.bytes for work in compiled.work) < sum(work.bytes for work in eager.work)
    assert compiled.flops == eager.flops


def test_products_run_in_the_precision_of_the_device_planned_for():
    in_bf16, in_fp32 = (trace_pass(TracedCase(ORIGINAL, precision=precision), GRAPH) for precision in ("bf16", "fp32"))
    narrow = sum(work.flops for work in in_bf16.work if work.narrow)
    assert narrow > 0.95 * in_bf16.flops
    assert not any(work.narrow for work in in_fp32.work)
    assert in_bf16.peak_bytes < in_fp32.peak_bytes


def test_the_operators_bodies_are_looked_into_once_for_each_shape(monkeypatch):
    calls = []
    from pretrain.planning import trace as module

    for name, body in list(module.BODIES.items()):
        monkeypatch.setitem(module.BODIES, name, lambda *a, body=body, name=name: calls.append(name) or body(*a))
    deep = ModelSettings(size="tiny", dim=48, heads=4, performer_layers=6).shape(GENES)
    trace_pass(TracedCase(deep), GRAPH)
    assert calls.count("bulkformer::favor_attention") == 1
