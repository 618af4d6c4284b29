"""The gene graph through Ray: what numpy.corrcoef and sorting give."""

import numpy as np
import pytest

from dataprep.coexpression.correlation import correlation_edges
from dataprep.config import GraphSettings


@pytest.mark.usefixtures("ray_session")
def test_the_graph_in_blocks_is_that_of_numpy_with_ties_and_constant_genes() -> None:
    rng = np.random.default_rng(0)
    genes, most = 90, 6
    # small whole numbers and 64 profiles: all sums are exact in single precision, so that equal genes are equal on any
    # processor, whichever of their products it adds up first
    expression = rng.normal(size=(64, 5)) @ rng.normal(size=(5, genes)) / 2 + rng.normal(size=(64, genes)) / 2 + 3
    expression = expression.round().clip(0, 6)
    # equal genes, also in different blocks, and genes without variation
    expression[:, [17, 33, 34, 35, 61, 62, 63, 64, 65]] = expression[:, [2]]
    expression[:, [10, 50]] = 3, 0
    expression = expression.astype(np.float16)
    settings = GraphSettings.model_construct(
        min_correlation=0.3, max_neighbours=most, min_common_samples=20, genes_per_block=25
    )
    found = correlation_edges(expression, settings)
    with np.errstate(invalid="ignore"):
        correlation = np.abs(np.corrcoef(expression.astype(np.float64).T))
    # what differs by rounding alone is a tie
    correlation = np.nan_to_num(correlation.round(9))
    np.fill_diagonal(correlation, 0)
    expected = []
    for target, row in enumerate(correlation):
        strongest = np.argsort(-row, kind="stable")[:most]
        expected += [(int(source), target) for source in strongest if row[source] >= settings.min_correlation]
    assert list(zip(found.source.tolist(), found.target.tolist(), strict=True)) == expected
    np.testing.assert_allclose(found.weight, correlation[found.target, found.source], atol=1e-5)
    assert len(expected) > 300
