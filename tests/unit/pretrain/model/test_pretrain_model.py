"""The model with the fused kernel is the model with the published modules, compiled or not."""

import copy
import pickle

import numpy as np
import pytest
import torch
from made_models import (
    BF16_GRADIENT_BOUND,
    BF16_OUTPUT_BOUND,
    gradients_of,
    models_of_both_kernels,
    profiles,
    random_graph,
    small_shape,
)

from pretrain.families import FAMILIES
from pretrain.kernels import device
from pretrain.model.bulkformer import BulkFormer, encoder_class
from pretrain.model.latest import visible_factor
from pretrain.model.pooling import pool_genes
from pretrain.model.random_features import redraw_random_features

BOTH_FAMILIES = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(params=[2**20, 150], ids=["one chunk", "chunks that do not divide the genes"])
def chunk_elements(request, monkeypatch):
    monkeypatch.setattr(device, "CPU_CHUNK_ELEMENTS", request.param)


@pytest.mark.usefixtures("chunk_elements")
@pytest.mark.parametrize("hidden", ["some", "all", "none"])
@pytest.mark.parametrize("samples", [1, 3])
@BOTH_FAMILIES
def test_both_kernels_agree_in_outputs_and_gradients(family, samples, hidden):
    reference, fused = models_of_both_kernels(small_shape(family=family))
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
@BOTH_FAMILIES
def test_recomputation_changes_no_number_even_with_dropout(family, recompute):
    _, plain = models_of_both_kernels(small_shape(family=family))
    _, saving = models_of_both_kernels(small_shape(family=family), recompute=recompute)
    expression, mask = profiles(2, "some")
    results = []
    for model in (plain, saving):
        torch.manual_seed(5)
        results.append(gradients_of(model.train(), expression, mask))
    torch.testing.assert_close(results[1], results[0])


@BOTH_FAMILIES
def test_recomputing_layers_works_with_the_reference_kernel(family):
    torch.manual_seed(0)
    plain = BulkFormer(small_shape(family=family), random_graph())
    saving = BulkFormer(small_shape(family=family), random_graph(), recompute="layers")
    saving.load_state_dict(plain.state_dict())
    results = []
    for model in (plain, saving):
        torch.manual_seed(5)
        results.append(gradients_of(model.train(), *profiles(2, "some")))
    torch.testing.assert_close(results[1], results[0])


@BOTH_FAMILIES
def test_dropout_acts_in_training_and_only_there(family):
    _, model = models_of_both_kernels(small_shape(family=family))
    expression, _ = profiles(2, "none")
    assert not torch.equal(model.train()(expression).gene_embedding, model(expression).gene_embedding)
    assert torch.equal(model.eval()(expression).gene_embedding, model(expression).gene_embedding)


def test_redrawn_features_take_effect():
    _, model = models_of_both_kernels(small_shape())
    expression, _ = profiles(2, "none")
    before = model.eval()(expression).gene_embedding
    redraw_random_features(model, seed=1, step=0, every_steps=10)
    assert not torch.allclose(before, model(expression).gene_embedding)


@BOTH_FAMILIES
def test_names_of_tensors_are_the_same_for_both_kernels(family):
    reference, fused = models_of_both_kernels(small_shape(family=family))
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


@pytest.mark.parametrize("pooling", ["mean", "max", "median", "all"])
def test_sample_embeddings_of_the_latest_family_pool_observed_genes_alone(pooling):
    _, model = models_of_both_kernels(small_shape(family="latest"))
    expression, mask = profiles(3, "some")
    mask[2] = True
    chosen = torch.tensor([0, 3, 4, 9, 21, 22])
    with torch.no_grad():
        hidden = expression.masked_fill(mask, torch.nan)
        embedding = model.eval()(hidden).gene_embedding
        pooled = model.pooled_embedding(hidden, None, pooling, chosen)
    assert pooled.shape == (3, 16)
    for sample in range(2):
        observed = [gene for gene in chosen.tolist() if not mask[sample, gene]]
        assert 0 < len(observed) < len(chosen)
        expected = pool_genes(embedding[sample : sample + 1, observed], pooling)[0]
        torch.testing.assert_close(pooled[sample], expected, atol=1e-5, rtol=1e-5)
    assert not pooled[2].any(), "nothing of this sample was observed"


@BOTH_FAMILIES
def test_models_are_of_their_family_also_as_copies_and_after_pickling(family):
    _, model = models_of_both_kernels(small_shape(family=family))
    expression, _ = profiles(1, "none")
    expected = model.eval()(expression).expression
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert isinstance(copied, BulkFormer)
        assert type(copied) is type(model) is encoder_class(family)
        assert torch.equal(copied(expression).expression, expected)


@pytest.mark.parametrize(("visible", "factor"), [(1.0, 0.9), (0.6, 1.5), (0.3, 2.0), (0.0, 2.0)])
def test_expression_counts_for_more_where_fewer_genes_are_visible(visible, factor):
    hidden = torch.arange(10).unsqueeze(0) >= round(10 * visible)
    torch.testing.assert_close(visible_factor(hidden), torch.tensor([factor]))


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
