"""The fused operators compute what the published modules compute."""

import numpy as np
import pytest
import torch
from made_models import GENES, attention_inputs, random_graph, random_norm
from performer_pytorch.performer_pytorch import FastAttention
from torch import nn
from torch_geometric.nn import GCNConv

from dataprep.corpus import GeneGraph
from pretrain.kernels import device, favor
from pretrain.kernels.dropout import add_dropped, draw_seed, kept, seed_from_row
from pretrain.kernels.favor import favor_attention
from pretrain.kernels.graph_product import Adjacency
from pretrain.kernels.normed_linear import normed_and_linear, normed_linear
from pretrain.kernels.two_layer import two_layer


@pytest.fixture(params=[2**20, 150], ids=["one chunk", "chunks that do not divide the genes"])
def chunk_elements(request, monkeypatch):
    monkeypatch.setattr(device, "CPU_CHUNK_ELEMENTS", request.param)


# ---- attention -----------------------------------------------------------------------------------------------------


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
