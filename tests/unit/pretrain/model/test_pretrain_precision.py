"""bf16: what is multiplied in it, how far its numbers are from exact ones, and that a GPU would accept every call."""

from typing import Any

import numpy as np
import pytest
import torch
from made_models import (
    BF16_GRADIENT_BOUND,
    BF16_OUTPUT_BOUND,
    GENES,
    attention_inputs,
    gradients_of,
    models_of_both_kernels,
    profiles,
    random_graph,
    small_shape,
)
from torch import Tensor, nn
from torch._library.custom_ops import OPDEFS
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pretrain.families import FAMILIES
from pretrain.kernels import device
from pretrain.kernels.dropout import draw_seed
from pretrain.kernels.favor import favor_attention
from pretrain.kernels.graph_product import Adjacency
from pretrain.model import pooling
from pretrain.model.bulkformer import BulkFormer
from pretrain.model.loss import masked_squared_error, profile_loss
from pretrain.model.random_features import orthogonal_features


@pytest.fixture
def force_bf16(monkeypatch):
    """Every CPU can multiply bf16, most do it slowly; at these shapes that does not matter."""
    monkeypatch.setattr("pretrain.model.bulkformer.autocast_to_bf16", lambda precision, _device: precision == "bf16")


# ---- inside an operator ----------------------------------------------------------------------------------------------


def operator_arguments() -> dict[str, tuple[Any, ...]]:
    """Arguments as the model passes them under bf16: what is multiplied is narrowed, norms and residuals are not."""
    torch.manual_seed(0)
    adjacency = Adjacency(random_graph(), GENES)
    first, second, norm = nn.Linear(16, 64).bfloat16(), nn.Linear(64, 16).bfloat16(), nn.LayerNorm(16)
    x, seed = torch.randn(40, 16, requires_grad=True), draw_seed(torch.device("cpu"))
    weights = (first.weight, first.bias, second.weight, second.bias)
    projection = orthogonal_features(6, 4, np.random.default_rng(0))
    return {
        "favor_attention": (
            torch.stack(attention_inputs(2, 40, 2, 4, torch.bfloat16), dim=2), projection, False,
        ),
        "two_layer": (x, *weights, norm.weight, norm.bias, norm.eps, True, seed, "gelu", 0.3, True, False),
        "normed_linear": (x, first.weight, first.bias, norm.weight, norm.bias, norm.eps, True, False),
        "graph_product": (
            torch.randn(2, GENES, 4, requires_grad=True), *adjacency.rows("forward"), *adjacency.rows("backward"),
        ),
        "add_dropped": (torch.randn(40, 16), x.bfloat16(), seed, 0.3, False),
    }  # fmt: skip


@pytest.mark.parametrize("name", operator_arguments())
def test_autocast_changes_no_number_inside_an_operator(name):
    def results(autocast: bool) -> list[Tensor]:
        arguments = operator_arguments()[name]
        wanted = [argument for argument in arguments if isinstance(argument, Tensor) and argument.requires_grad]
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            outputs = getattr(torch.ops.bulkformer, name)(*arguments)
            outputs = [outputs] if isinstance(outputs, Tensor) else outputs
            total = sum(output.float().square().sum() for output in outputs if output.requires_grad)
            # also the backward pass, which torch does not expect under autocast: nothing may depend on it
            return [*outputs, *torch.autograd.grad(total, wanted)]

    for inside, outside in zip(results(True), results(False), strict=True):
        assert torch.equal(inside, outside)
        assert inside.dtype == outside.dtype


def test_attention_in_bf16_rounds_what_it_multiplies_and_not_its_exponents():
    """Exponents that bf16 products give would be three times as far off: 0.026, 0.018 and 0.016."""
    genes, heads, width = 1024, 4, 64
    projection = orthogonal_features(int(width * np.log(width)), width, np.random.default_rng(0))
    torch.manual_seed(1)
    inputs, upstream = torch.randn(1, genes, 3, heads, width).bfloat16(), torch.randn(1, genes, heads, width).bfloat16()

    def results(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        leaf = inputs.to(dtype).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            output = favor_attention(leaf, projection)
        output.backward(upstream.to(dtype))
        return output.detach(), leaf.grad

    exact, exact_gradient = results(torch.float64)
    output, gradient = results(torch.bfloat16)
    assert relative(output, exact) < 0.003
    for part, bound in enumerate((0.012, 0.008, 0.004)):
        assert relative(gradient[:, :, part], exact_gradient[:, :, part]) < bound


def relative(values: Tensor, exact: Tensor) -> float:
    return float((values.double() - exact).norm() / exact.norm())


# ---- the whole model -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("force_bf16")
@pytest.mark.parametrize(("family", "compiled"), [("original", False), ("original", True), ("latest", False)])
def test_bf16_stays_within_its_stated_bounds(family, compiled):
    _, exact = models_of_both_kernels(small_shape(family=family))
    _, rounded = models_of_both_kernels(small_shape(family=family), precision="bf16", compile=compiled)
    expression, mask = profiles(2, "some")
    expected, expected_gradients = gradients_of(exact.eval(), expression, mask)
    output, gradients = gradients_of(rounded.eval(), expression, mask)
    difference = (output - expected).abs().max() / expected.abs().max()
    assert 0 < difference < BF16_OUTPUT_BOUND
    total = sum(gradient.square().sum() for gradient in expected_gradients.values()).sqrt()
    error = sum((gradients[name] - expected_gradients[name]).square().sum() for name in gradients).sqrt()
    assert error / total < BF16_GRADIENT_BOUND


def test_bf16_is_fp32_where_the_processor_has_no_bf16(monkeypatch):
    monkeypatch.setattr(device, "multiplies_bf16", lambda _device_type: False)
    _, exact = models_of_both_kernels(small_shape())
    _, rounded = models_of_both_kernels(small_shape(), precision="bf16")
    expression, _ = profiles(2, "none")
    assert torch.equal(exact.eval()(expression).expression, rounded.eval()(expression).expression)


def test_a_gpu_that_would_emulate_bf16_computes_in_fp32(monkeypatch):
    for native in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, native=native: native)
        assert device.autocast_to_bf16("bf16", torch.device("cuda")) == native


def test_the_projected_identity_is_made_anew_when_autocast_changes():
    _, model = models_of_both_kernels(small_shape())
    model.eval()
    with torch.no_grad():
        wide = model._identity()
        with torch.autocast("cpu", torch.bfloat16):
            narrow = model._identity()
        with torch.autocast("cpu", torch.float16):
            half = model._identity()
        assert (wide.dtype, narrow.dtype, half.dtype) == (torch.float32, torch.bfloat16, torch.float16)
        assert torch.equal(model._identity(), wide)


# ---- what a GPU accepts ----------------------------------------------------------------------------------------------

# Operators whose CUDA kernels want one type of all their floating tensors; those of a CPU take several.
_ONE_TYPE = {
    "mm", "addmm", "bmm", "baddbmm", "addmv", "mv", "dot", "linear", "native_layer_norm", "native_layer_norm_backward",
    "gelu_backward", "threshold_backward", "embedding_bag", "_embedding_bag", "_embedding_bag_forward_only",
}  # fmt: skip
# Operators for which the host waits until the device has come that far: .item(), bool(), boolean indexing.
_WAITING = {"_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "equal"}


class GpuRules(TorchDispatchMode):
    """Refuses calls that a GPU would refuse or wait for, also inside the project's operators."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.namespace == "bulkformer":
            with self:  # the body, since torch turns the mode off while it runs an operator
                return OPDEFS[func._schema.name]._init_fn(*args, **kwargs)
        name = func._schema.name.partition("::")[2]
        self.seen.add(name)
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        floating = {str(tensor.dtype) for tensor in given if tensor.is_floating_point()}
        if name in _ONE_TYPE and len(floating) > 1:
            raise AssertionError(f"a GPU has no {func} of {sorted(floating)}")
        if name in _WAITING or (name.startswith("index") and any(tensor.dtype == torch.bool for tensor in given)):
            raise AssertionError(f"the host waits for {func}")
        return func(*args, **kwargs)


class CudaAutocast(TorchFunctionMode):
    """Under autocast a GPU computes layer norms in fp32; torch's autocast for CPUs leaves them as they are."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.layer_norm and torch.is_autocast_enabled("cpu"):
            args = (args[0].float(), *args[1:])
        return func(*args, **(kwargs or {}))


@pytest.mark.usefixtures("force_bf16")
@pytest.mark.parametrize("samples_together", [1, 2])
@pytest.mark.parametrize("recompute", ["nothing", "hidden", "layers"])
@pytest.mark.parametrize("kernel", ["reference", "fused"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_gpu_accepts_every_call_of_a_bf16_step_and_waits_for_none(
    family, kernel, recompute, samples_together, monkeypatch
):
    work_on_samples_together(samples_together, monkeypatch)
    model = BulkFormer(small_shape(family=family), random_graph(), kernel, "bf16", recompute=recompute)
    expression, mask = profiles(2, "some")
    model.train()
    with CudaAutocast(), GpuRules() as rules:
        output = model(expression.masked_fill(mask, torch.nan))
        loss = profile_loss(*masked_squared_error(output.expression, expression, mask)).mean()
        (loss + output.gene_embedding.square().mean()).backward()
    assert {"bmm", "mm", "native_layer_norm", "native_layer_norm_backward"} <= rules.seen


@pytest.mark.usefixtures("force_bf16")
@pytest.mark.parametrize("kernel", ["reference", "fused"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_gpu_accepts_every_call_of_pooled_embeddings_and_waits_for_none(family, kernel):
    model = BulkFormer(small_shape(family=family), random_graph(), kernel, "bf16").eval()
    expression, mask = profiles(3, "some")
    with torch.inference_mode(), CudaAutocast(), GpuRules():
        for genes in (None, torch.tensor([0, 3, 4])):
            model.pooled_embedding(expression.masked_fill(mask, torch.nan), 0.25, "all", genes)


def work_on_samples_together(samples: int, monkeypatch) -> None:
    def together(count: int, _device: torch.device) -> list[slice]:
        return [slice(start, min(start + samples, count)) for start in range(0, count, samples)]

    monkeypatch.setattr("pretrain.kernels.favor.samples_together", together)
    monkeypatch.setattr("pretrain.model.pooling.samples_together", together)


def test_a_norm_of_bf16_rows_with_an_fp32_gain_is_refused_as_a_gpu_does():
    with GpuRules(), pytest.raises(AssertionError, match="a GPU has no"):
        F.layer_norm(torch.randn(3, 4).bfloat16(), (4,), torch.ones(4))
    with GpuRules(), pytest.raises(AssertionError, match="the host waits"):
        torch.randn(3)[torch.tensor([True, False, True])]


@pytest.mark.parametrize("together", [2, 3])
def test_attention_and_medians_are_the_same_for_samples_worked_on_together(together, monkeypatch):
    torch.manual_seed(0)
    projection = torch.randn(6, 4, dtype=torch.float64)
    inputs = torch.stack(attention_inputs(3, 7, 2, 4), dim=2).detach().requires_grad_()
    embedding = torch.randn(3, 10, 5)

    def results() -> tuple[Tensor, ...]:
        output = favor_attention(inputs, projection)
        (gradient,) = torch.autograd.grad(output.square().sum(), inputs)
        return output, gradient, pooling.median_of_genes(embedding)

    alone = results()
    work_on_samples_together(together, monkeypatch)
    torch.testing.assert_close(results(), alone, atol=1e-12, rtol=1e-12)


def test_a_cpu_works_on_one_sample_after_the_other_and_a_gpu_on_all_at_once():
    assert list(device.samples_together(3, torch.device("cpu"))) == [slice(0, 1), slice(1, 2), slice(2, 3)]
    assert list(device.samples_together(3, torch.device("cuda"))) == [slice(0, 3)]
    assert list(device.samples_together(0, torch.device("cuda"))) == []
