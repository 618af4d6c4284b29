"""The fused kernel computes what the published modules compute."""

import copy

import numpy as np
import pytest
import torch
from performer_pytorch.performer_pytorch import FastAttention
from torch import Tensor, nn
from torch_geometric.nn import GCNConv

from dataprep.corpus import GeneGraph
from pretrain.kernels import device, favor
from pretrain.kernels.dropout import add_dropped, draw_seed, kept, seed_from_row
from pretrain.kernels.favor import favor_attention
from pretrain.kernels.graph_product import Adjacency
from pretrain.kernels.normed_linear import normed_and_linear, normed_linear
from pretrain.kernels.two_layer import two_layer
from pretrain.model.bulkformer import BulkFormer
from pretrain.model.layers import GraphConvolution
from pretrain.model.loss import masked_squared_error, mean_squared_error
from pretrain.model.pooling import pool_genes
from pretrain.model.random_features import redraw_random_features
from pretrain.shape import ModelShape

GENES = 23


@pytest.fixture(params=[2**20, 150], ids=["one chunk", "chunks that do not divide the genes"])
def chunk_elements(request, monkeypatch):
    monkeypatch.setattr(device, "CPU_CHUNK_ELEMENTS", request.param)


def random_graph(genes: int = GENES, edges: int = 60, seed: int = 0) -> GeneGraph:
    """The last gene has no edge."""
    generator = np.random.default_rng(seed)
    return GeneGraph(
        source=generator.integers(0, genes - 1, edges).astype(np.int32),
        target=generator.integers(0, genes - 1, edges).astype(np.int32),
        weight=generator.uniform(0.4, 1, edges).astype(np.float32),
    )


def small_shape(**changes) -> ModelShape:
    numbers = {"genes": GENES, "dim": 16, "performer_layers": 2, "heads": 2, "blocks": 1}
    return ModelShape(**(numbers | changes))


def models_of_both_kernels(shape: ModelShape, **options) -> tuple[BulkFormer, BulkFormer]:
    torch.manual_seed(0)
    reference = BulkFormer(shape, random_graph(shape.genes))
    fused = BulkFormer(shape, random_graph(shape.genes), kernel="fused", **options)
    fused.load_state_dict(reference.state_dict(), strict=True)
    return reference, fused


def profiles(samples: int, hidden: str, genes: int = GENES) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    mask = {"some": torch.rand(samples, genes) < 0.3, "all": torch.ones(samples, genes) > 0}
    return torch.rand(samples, genes) * 8, mask.get(hidden, torch.zeros(samples, genes) > 0)


def gradients_of(model: nn.Module, expression: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    output = model(expression.masked_fill(mask, torch.nan))
    loss = mean_squared_error(*masked_squared_error(output.expression, expression, mask))
    # summary and pooled outputs take part too, so that every parameter has a gradient without any mask
    (loss + output.gene_embedding.square().mean() + output.expression.square().mean()).backward()
    return output.expression.detach(), {
        name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None
    }


# ---- attention -----------------------------------------------------------------------------------------------------


def attention_inputs(samples: int, genes: int, heads: int, width: int, dtype=torch.float64) -> list[Tensor]:
    torch.manual_seed(2)
    shape = (samples, genes, heads, width)
    return [(2 * torch.randn(shape, dtype=dtype)).requires_grad_() for _ in range(3)]


def test_a_convolution_leaves_no_file_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    class Convolution(GraphConvolution):
        """PyG generates code, in a file, for a class that it has not seen."""

    assert Convolution.propagate.__module__ != f"{__name__}_Convolution_propagate"
    layer = Convolution(4)
    assert layer.propagate.__module__ == f"{__name__}_Convolution_propagate"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("chunk_elements")
@pytest.mark.parametrize(("samples", "genes", "heads", "width"), [(2, 37, 3, 5), (1, 7, 1, 16), (3, 1, 2, 8)])
def test_attention_and_its_gradients_are_those_of_the_published_code(samples, genes, heads, width):
    inputs = attention_inputs(samples, genes, heads, width)
    published = FastAttention(width).double()
    weight = torch.randn(samples, genes, heads, width, dtype=torch.float64)

    expected = published(*(tensor.transpose(1, 2) for tensor in inputs)).transpose(1, 2)
    answer = favor_attention(torch.stack(inputs, dim=2), published.projection_matrix)

    torch.testing.assert_close(answer, expected, atol=1e-10, rtol=1e-10)
    expected_gradients = torch.autograd.grad((expected * weight).sum(), inputs)
    gradients = torch.autograd.grad((answer * weight).sum(), inputs)
    torch.testing.assert_close(gradients, expected_gradients, atol=1e-9, rtol=1e-8)


@pytest.mark.usefixtures("chunk_elements")
@pytest.mark.parametrize(("samples", "genes", "heads", "width"), [(2, 5, 2, 3), (1, 9, 1, 4)])
def test_attention_passes_gradcheck(samples, genes, heads, width, monkeypatch):
    # the maxima carry no gradient, as published; without eps the result does not depend on them at all
    monkeypatch.setattr(favor, "EPSILON", 0.0)
    projection = torch.randn(6, width, dtype=torch.float64)
    inputs = attention_inputs(samples, genes, heads, width)
    assert torch.autograd.gradcheck(lambda *tensors: favor_attention(torch.stack(tensors, dim=2), projection), inputs)


def test_attention_survives_keys_whose_features_overflow_without_a_maximum():
    inputs = [50 * tensor.detach().float() for tensor in attention_inputs(1, 40, 2, 8)]
    assert torch.isfinite(favor_attention(torch.stack(inputs, dim=2), torch.randn(16, 8))).all()


def test_attention_keeps_nothing_of_the_size_of_its_features():
    inputs = torch.stack(attention_inputs(1, 500, 2, 4, torch.float32), dim=2)
    features = 1 * 500 * 2 * 256
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor.numel()) or tensor, lambda t: t):
        favor_attention(inputs, torch.randn(256, 4))
    assert max(saved) < features / 10


@pytest.mark.parametrize(
    "case",
    ["favor_attention", "two_layer", "normed_linear", "normed_linear and rows", "graph_product", "add_dropped"],
)
def test_operators_are_registered_as_torch_wants_them(case):
    torch.manual_seed(0)
    adjacency = Adjacency(random_graph(), GENES)
    first, second, norm = nn.Linear(4, 16), nn.Linear(16, 4), nn.LayerNorm(4)
    x, seed = torch.randn(7, 4, requires_grad=True), draw_seed(torch.device("cpu"))
    weights = (first.weight, first.bias, second.weight, second.bias)
    arguments = {
        "favor_attention": (
            torch.stack(attention_inputs(2, 5, 2, 4), dim=2), torch.randn(6, 4, dtype=torch.float64), False,
        ),
        "two_layer": (x, *weights, norm.weight, norm.bias, norm.eps, True, seed, "gelu", 0.3, True, False),
        "normed_linear": (x, first.weight, first.bias, norm.weight, norm.bias, norm.eps, False, False),
        "normed_linear and rows": (x, first.weight, None, norm.weight, norm.bias, norm.eps, True, False),
        "graph_product": (
            torch.randn(2, GENES, 4, requires_grad=True), *adjacency.rows("forward"), *adjacency.rows("backward"),
        ),
        "add_dropped": (torch.randn(7, 4), x, seed, 0.3, False),
    }  # fmt: skip
    torch.library.opcheck(getattr(torch.ops.bulkformer, case.split()[0]).default, arguments[case])


# ---- graph product -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [1, 3])
def test_graph_product_is_the_convolution_of_pyg(samples):
    torch.manual_seed(0)
    graph = random_graph()
    published = GCNConv(6, 6, add_self_loops=False).double()
    edge_index = torch.stack([torch.from_numpy(graph.source).long(), torch.from_numpy(graph.target).long()])
    hidden = torch.randn(samples, GENES, 6, dtype=torch.float64, requires_grad=True)
    expected = published(hidden, edge_index, torch.from_numpy(graph.weight).double())
    result = Adjacency(graph, GENES).double()(published.lin(hidden)) + published.bias

    torch.testing.assert_close(result, expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(
        torch.autograd.grad(result.square().sum(), hidden), torch.autograd.grad(expected.square().sum(), hidden),
        atol=1e-5, rtol=1e-5,
    )  # fmt: skip


def test_graph_product_passes_gradcheck():
    adjacency = Adjacency(random_graph(), GENES).double()
    assert torch.autograd.gradcheck(adjacency, torch.randn(2, GENES, 3, dtype=torch.float64, requires_grad=True))


def test_a_gene_without_edges_receives_nothing():
    received = Adjacency(random_graph(), GENES)(torch.randn(2, GENES, 4))
    assert (received[:, -1] == 0).all()
    assert (received[:, :-1] != 0).any()


def test_a_graph_without_edges_is_allowed():
    empty = np.zeros(0, np.int32)
    graph = GeneGraph(source=empty, target=empty, weight=np.zeros(0, np.float32))
    assert (Adjacency(graph, GENES)(torch.randn(1, GENES, 4)) == 0).all()


# ---- perceptron and dropout ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("chunk_elements")
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("with_norm", [False, True], ids=["bare", "with norm and residual"])
def test_two_layer_passes_gradcheck(activation, recompute, with_norm):
    torch.manual_seed(0)
    first, second, norm = nn.Linear(3, 12).double(), nn.Linear(12, 3).double(), random_norm(3) if with_norm else None
    x = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    seed, rate = (draw_seed(x.device), 0.25) if activation == "gelu" else (None, 0.0)

    def function(x, *_parameters):
        return two_layer(x, first, second, activation, norm, with_norm, rate, seed, recompute=recompute)

    of_norm = norm.parameters() if norm is not None else ()
    assert torch.autograd.gradcheck(function, (x, *first.parameters(), *second.parameters(), *of_norm))


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_two_layer_is_the_plain_sequence(activation):
    first, second = nn.Linear(5, 20), nn.Linear(20, 4)
    x = torch.randn(3, 11, 5)
    between = nn.ReLU() if activation == "relu" else nn.GELU()
    torch.testing.assert_close(two_layer(x, first, second, activation), second(between(first(x))))


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_two_layer_with_norm_and_residual_is_the_plain_sequence(activation):
    first, second, norm = nn.Linear(5, 20), nn.Linear(20, 5), random_norm(5).float()
    x = torch.randn(3, 11, 5)
    between = nn.ReLU() if activation == "relu" else nn.GELU()
    around = two_layer(x, first, second, activation, norm, residual=True)
    torch.testing.assert_close(around, x + second(between(first(norm(x)))))


@pytest.mark.usefixtures("chunk_elements")
def test_normed_linear_passes_gradcheck_and_is_the_plain_sequence():
    torch.manual_seed(0)
    norm, linear = random_norm(3), nn.Linear(3, 7).double()
    x = torch.randn(2, 25, 3, dtype=torch.float64, requires_grad=True)

    def function(x, *_parameters):
        return normed_linear(x, norm, linear.weight, linear.bias)

    torch.testing.assert_close(function(x), linear(norm(x)))
    assert torch.autograd.gradcheck(function, (x, *norm.parameters(), *linear.parameters()))


@pytest.mark.usefixtures("chunk_elements")
def test_normed_rows_beside_their_product_pass_gradcheck_and_are_not_kept():
    torch.manual_seed(0)
    norm, weight = random_norm(3), torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    x = torch.randn(2, 25, 3, dtype=torch.float64, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: saved.append(tensor.data_ptr()) or tensor, lambda t: t
    ):
        normed, product = normed_and_linear(x, norm, weight)
    torch.testing.assert_close((normed, product), (norm(x), norm(x) @ weight.T))
    assert normed.data_ptr() not in saved
    assert torch.autograd.gradcheck(lambda x, *_: normed_and_linear(x, norm, weight), (x, weight, *norm.parameters()))


def random_norm(width: int) -> nn.LayerNorm:
    norm = nn.LayerNorm(width).double()
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    return norm


def test_dropout_masks_have_their_rate_and_no_pattern():
    seed = torch.tensor([7], dtype=torch.int32)
    rows, columns, rate = 2000, 512, 0.1
    mask = kept(seed, rows, columns, rate).double()
    error = (rate * (1 - rate)) ** 0.5
    assert abs(mask.mean() - (1 - rate)) < 4 * error / (rows * columns) ** 0.5
    assert mask.mean(dim=0).std() == pytest.approx(error / rows**0.5, rel=0.15)
    assert mask.mean(dim=1).std() == pytest.approx(error / columns**0.5, rel=0.15)
    centred = (mask[:400] - mask[:400].mean()) / error
    between_rows = (centred @ centred.T / columns).fill_diagonal_(0)
    assert between_rows.std() == pytest.approx(columns**-0.5, rel=0.1)


def test_dropout_masks_do_not_depend_on_the_chunk():
    seed = torch.tensor([7], dtype=torch.int32)
    whole = kept(seed, 50, 31, 0.2)
    assert torch.equal(whole[13:40], kept(seed_from_row(seed, 13), 27, 31, 0.2))
    assert not torch.equal(whole, kept(seed + 1, 50, 31, 0.2))


def test_dropout_passes_gradients_where_it_passed_values():
    torch.manual_seed(3)
    branch = torch.ones(40, 8, requires_grad=True)
    output = add_dropped(torch.zeros(40, 8), branch, 0.3, compile=False)
    output.sum().backward()
    assert torch.equal(branch.grad, output.detach())
    assert output.unique().tolist() == [0.0, pytest.approx(1 / 0.7)]


# ---- the whole model -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("chunk_elements")
@pytest.mark.parametrize("hidden", ["some", "all", "none"])
@pytest.mark.parametrize("samples", [1, 3])
def test_both_kernels_agree_in_outputs_and_gradients(samples, hidden):
    reference, fused = models_of_both_kernels(small_shape())
    expression, mask = profiles(samples, hidden)
    for model in (reference, fused):
        model.eval()
    expected, expected_gradients = gradients_of(reference, expression, mask)
    output, gradients = gradients_of(fused, expression, mask)
    torch.testing.assert_close(output, expected, atol=1e-4, rtol=0)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        assert (gradient - expected_gradients[name]).norm() <= 1e-3 * expected_gradients[name].norm() + 1e-6, name


@pytest.mark.parametrize("recompute", ["hidden", "layers"])
def test_recomputation_changes_no_number_even_with_dropout(recompute):
    _, plain = models_of_both_kernels(small_shape())
    _, saving = models_of_both_kernels(small_shape(), recompute=recompute)
    expression, mask = profiles(2, "some")
    results = []
    for model in (plain, saving):
        torch.manual_seed(5)
        results.append(gradients_of(model.train(), expression, mask))
    torch.testing.assert_close(results[1], results[0])


def test_recomputing_layers_works_with_the_reference_kernel():
    torch.manual_seed(0)
    plain = BulkFormer(small_shape(), random_graph())
    saving = BulkFormer(small_shape(), random_graph(), recompute="layers")
    saving.load_state_dict(plain.state_dict())
    results = []
    for model in (plain, saving):
        torch.manual_seed(5)
        results.append(gradients_of(model.train(), *profiles(2, "some")))
    torch.testing.assert_close(results[1], results[0])


def test_dropout_acts_in_training_and_only_there():
    _, model = models_of_both_kernels(small_shape())
    expression, _ = profiles(2, "none")
    assert not torch.equal(model.train()(expression).gene_embedding, model(expression).gene_embedding)
    assert torch.equal(model.eval()(expression).gene_embedding, model(expression).gene_embedding)


def test_redrawn_features_take_effect():
    _, model = models_of_both_kernels(small_shape())
    expression, _ = profiles(2, "none")
    before = model.eval()(expression).gene_embedding
    redraw_random_features(model, seed=1, step=0, every_steps=10)
    assert not torch.allclose(before, model(expression).gene_embedding)


def test_names_of_tensors_are_the_same_for_both_kernels():
    reference, fused = models_of_both_kernels(small_shape())
    assert list(fused.state_dict()) == list(reference.state_dict())


def test_projected_identity_is_reused_until_weights_change():
    _, model = models_of_both_kernels(small_shape())
    expression, _ = profiles(1, "none")
    calls = []
    model.gene_emb_proj.register_forward_hook(lambda *_: calls.append(1))
    with torch.inference_mode():
        first = model.eval()(expression).expression
        assert torch.equal(model(expression).expression, first)
        assert len(calls) == 1
    with torch.no_grad():
        model.gene_emb_proj[2].bias.add_(1.0)
        changed = model(expression).expression
        assert len(calls) == 2
        assert not torch.equal(changed, first)
    model(expression).expression.sum().backward()
    assert model.gene_emb_proj[0].weight.grad is not None
    model.train().eval()
    with torch.no_grad():
        model(expression)
    assert len(calls) == 4


@pytest.mark.parametrize("kernel", ["reference", "fused"])
@pytest.mark.parametrize("pooling", ["mean", "max", "median", "all"])
def test_pooled_embeddings_are_the_pooled_embeddings_of_genes(pooling, kernel):
    reference, fused = models_of_both_kernels(small_shape())
    model = {"reference": reference, "fused": fused}[kernel].eval()
    expression, mask = profiles(3, "some")
    hidden = expression.masked_fill(mask, torch.nan)
    chosen = torch.tensor([0, 3, 4, 9, 21, 22])
    with torch.no_grad():
        embedding = model(hidden, 0.25).gene_embedding
        for genes in (None, chosen):
            parts = embedding if genes is None else embedding[:, genes]
            whole = model.pooled_embedding(hidden, 0.25, pooling, genes)
            torch.testing.assert_close(whole, pool_genes(parts, pooling), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("genes", [1, 2, 7, 10])
def test_median_is_that_of_numpy(genes):
    values = torch.randn(2, genes, 5)
    np.testing.assert_allclose(pool_genes(values, "median").numpy(), np.median(values.numpy(), axis=1), rtol=1e-6)


# ---- bf16 ----------------------------------------------------------------------------------------------------------

# Largest error of a bf16 forward pass against fp32, relative to the largest entry, at these tiny shapes: a few of the
# 2^-8 steps of bf16 add up over the layers.
BF16_OUTPUT_BOUND, BF16_GRADIENT_BOUND = 0.03, 0.06


@pytest.mark.parametrize("compiled", [False, True])
def test_bf16_stays_within_its_stated_bounds(compiled, monkeypatch):
    # every CPU can multiply bf16, most do it slowly: force it here, where shapes are tiny
    monkeypatch.setattr("pretrain.model.bulkformer.autocast_to_bf16", lambda precision, _device: precision == "bf16")
    _, exact = models_of_both_kernels(small_shape())
    _, rounded = models_of_both_kernels(small_shape(), precision="bf16", compile=compiled)
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


# ---- compilation ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("chunk_elements")
def test_compiled_parts_give_the_eager_numbers_and_compile_once():
    _, eager = models_of_both_kernels(small_shape())
    _, compiled = models_of_both_kernels(small_shape(), compile=True)
    counters = torch._dynamo.utils.counters
    graphs = []
    counters.clear()
    # the last batch is smaller: no size may be compiled into the code
    for samples in (3, 3, 2, 1):
        results = []
        for model in (eager, compiled):
            torch.manual_seed(samples)
            results.append(gradients_of(model.train(), *profiles(samples, "some")))
        torch.testing.assert_close(results[1], results[0], atol=1e-5, rtol=1e-4)
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] == graphs[-1] > 0
    assert not counters["graph_break"]
    assert not counters["recompiles"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_whole_model_compiles_into_one_graph_that_serves_any_batch(precision):
    """Where the processor has no bf16, that is fp32 once more."""
    shape = small_shape(performer_layers=1)
    _, model = models_of_both_kernels(shape, precision=precision)
    whole = torch.compile(copy.deepcopy(model).eval(), fullgraph=True, dynamic=True, backend="aot_eager")
    counters = torch._dynamo.utils.counters
    counters.clear()
    graphs = []
    for samples in (4, 3, 2):
        expression, mask = profiles(samples, "some")
        expected, expected_gradients = gradients_of(model.eval(), expression, mask)
        output, gradients = gradients_of(whole, expression, mask)
        if precision == "fp32":
            torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(
                list(gradients.values()), list(expected_gradients.values()), atol=1e-5, rtol=1e-3
            )
        else:
            assert (output - expected).abs().max() <= BF16_OUTPUT_BOUND * expected.abs().max()
            for gradient, wanted in zip(gradients.values(), expected_gradients.values(), strict=True):
                assert (gradient - wanted).norm() <= BF16_GRADIENT_BOUND * wanted.norm() + 1e-5
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs == [1, 1, 1]
    assert not counters["graph_break"]
