"""The graph holds the strongest correlations, also where profiles lack genes."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from dataprep.coexpression import build_gene_graph, correlation_graph
from dataprep.config import GraphSettings
from dataprep.corpus import GRAPH_FILE, GeneGraph, open_corpus
from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder
from tests.made_corpora import make_corpus, make_graph, make_vocabulary


def settings(**given: object) -> GraphSettings:
    return GraphSettings.model_construct(
        **{"corpus": "", "min_correlation": 0.4, "max_neighbours": 20, "max_samples": 1000, "min_common_samples": 5}
        | {"genes_per_block": 7, "overwrite": False}
        | given
    )


def profiles(rows: int = 80, genes: int = 30, missing: bool = True, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 4)) @ rng.normal(size=(4, genes)) + rng.normal(size=(rows, genes)) + 5
    x = x.astype(np.float16)
    if missing:
        x[:30, :6] = np.nan
        x[20:50, 4:9] = np.nan
    return x


def correlation_by_hand(x: np.ndarray, i: int, j: int) -> float:
    both = ~np.isnan(x[:, i]) & ~np.isnan(x[:, j])
    return float(np.corrcoef(x[both, i].astype(float), x[both, j].astype(float))[0, 1])


@pytest.mark.parametrize("missing", [False, True])
def test_edges_are_the_strongest_pairwise_complete_correlations(missing: bool) -> None:
    x = profiles(missing=missing)
    graph = correlation_graph(x, settings(max_neighbours=5), {})
    for gene in range(x.shape[1]):
        expected = np.array([abs(correlation_by_hand(x, gene, j)) if j != gene else 0 for j in range(x.shape[1])])
        strongest = np.sort(expected[expected >= 0.4])[::-1][:5]
        assert np.allclose(graph.weight[graph.target == gene], strongest, atol=1e-4)


def test_source_is_the_neighbour_and_target_the_gene_it_informs() -> None:
    x = profiles(missing=False)
    # gene 0 follows gene 1 closely, but gene 1 has closer neighbours
    x[:, 2] = x[:, 1] + np.float16(0.01) * x[:, 3]
    x[:, 0] = x[:, 1] + x[:, 5]
    graph = correlation_graph(x, settings(max_neighbours=1), {})
    assert graph.source[graph.target == 1].tolist() == [2]


def test_no_gene_is_its_own_neighbour_and_edges_are_ordered() -> None:
    graph = correlation_graph(profiles(), settings(), {})
    assert (graph.source != graph.target).all()
    assert (np.diff(graph.target) >= 0).all()
    assert (graph.weight >= 0.4).all()
    assert (graph.weight <= 1).all()
    assert np.bincount(graph.target).max() <= 20


def test_genes_without_variation_have_no_edges() -> None:
    x = profiles()
    x[:, 10], x[:, 11] = 3.3, 0
    graph = correlation_graph(x, settings(), {})
    assert not np.isin([10, 11], np.concatenate([graph.source, graph.target])).any()


def test_a_gene_that_varies_only_between_unshared_profiles_has_no_edge() -> None:
    x = profiles(missing=False)
    # constant where gene 1 is measured, another constant where it is not
    x[:40, 0], x[40:, 0], x[:40, 1] = 1.0, 7.0, np.nan
    graph = correlation_graph(x, settings(), {})
    assert not ((graph.target == 0) & (graph.source == 1)).any()


def test_genes_measured_together_too_seldom_have_no_edge() -> None:
    x = profiles(missing=False)
    x[:, 1] = x[:, 0]
    x[:40, 0], x[50:, 1] = np.nan, np.nan
    assert not _has_edge(correlation_graph(x, settings(min_common_samples=11), {}), 0, 1)
    assert _has_edge(correlation_graph(x, settings(min_common_samples=10), {}), 0, 1)


def _has_edge(graph: GeneGraph, source: int, target: int) -> bool:
    return bool(((graph.source == source) & (graph.target == target)).any())


def test_blocks_do_not_change_the_graph() -> None:
    graphs = [correlation_graph(profiles(), settings(genes_per_block=size), {}) for size in (1, 8, 1000)]
    for graph in graphs[1:]:
        assert np.array_equal(graph.source, graphs[0].source)
        assert np.allclose(graph.weight, graphs[0].weight, atol=1e-5)


def test_a_graph_survives_writing(tmp_path: Path) -> None:
    graph = correlation_graph(profiles(), settings(), {"vocabulary_sha256": make_vocabulary(30).fingerprint})
    graph.write(Folder(str(tmp_path)))
    again = GeneGraph.read(Folder(str(tmp_path)))
    assert np.array_equal(again.source, graph.source)
    assert np.array_equal(again.weight, graph.weight)
    assert again.origin == graph.origin
    again.require_vocabulary(make_vocabulary(30))
    with pytest.raises(UserError, match="the gene graph is over vocabulary"):
        again.require_vocabulary(make_vocabulary(31))


def test_the_graph_of_a_corpus_sees_the_train_split_alone(tmp_path: Path) -> None:
    corpus = make_corpus(str(tmp_path), {"train": 60, "validation": 30, "test": 30})
    build_gene_graph(settings(corpus=str(tmp_path), overwrite=True))
    graph = open_corpus(str(tmp_path)).graph()
    assert graph.origin["profiles"] == 60
    assert graph.origin["corpus_sha256"] == corpus.fingerprint
    # the other splits are gone, the graph is the same
    for split in ("validation", "test"):
        Folder(str(tmp_path)).remove(f"split={split}")
    build_gene_graph(settings(corpus=str(tmp_path), overwrite=True))
    assert np.array_equal(open_corpus(str(tmp_path)).graph().weight, graph.weight)


def test_a_graph_is_told_apart_by_edges_weights_and_genes() -> None:
    graph = make_graph(make_vocabulary(30))
    changes = [
        {"source": graph.source[::-1].copy()},
        {"target": graph.target + 1},
        {"weight": graph.weight * np.float32(0.999)},
        {"vocabulary_sha256": make_vocabulary(31).fingerprint},
    ]
    fingerprints = {dataclasses.replace(graph, **change).fingerprint for change in changes}
    assert len(fingerprints | {graph.fingerprint}) == 5
    assert dataclasses.replace(graph, origin={"made": "otherwise"}).fingerprint == graph.fingerprint


def test_a_graph_that_is_not_what_was_written_is_refused(tmp_path: Path) -> None:
    graph, folder = make_graph(make_vocabulary(30)), Folder(str(tmp_path))
    graph.write(folder)
    table = pq.read_table(tmp_path / GRAPH_FILE)
    weaker = pc.multiply(table.column("weight"), pa.scalar(0.5, pa.float32()))
    pq.write_table(table.set_column(2, "weight", weaker), tmp_path / GRAPH_FILE)
    with pytest.raises(UserError, match=r"gene_graph.parquet is damaged: its fingerprint should be \w{12} and is"):
        GeneGraph.read(folder)
    pq.write_table(table.drop_columns("weight"), tmp_path / GRAPH_FILE)
    with pytest.raises(UserError, match="is not a gene graph: it has no column weight"):
        GeneGraph.read(folder)


def test_a_corpus_keeps_the_graph_that_it_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_corpus(str(tmp_path), {"train": 60, "validation": 3, "test": 3})
    given = Folder(str(tmp_path)).read_bytes(GRAPH_FILE)
    with pytest.raises(UserError, match=r"has another gene graph, of 177 edges where .* --overwrite replaces it"):
        build_gene_graph(settings(corpus=str(tmp_path)))
    assert Folder(str(tmp_path)).read_bytes(GRAPH_FILE) == given
    summary = build_gene_graph(settings(corpus=str(tmp_path), overwrite=True))
    assert summary["fingerprint"] == open_corpus(str(tmp_path)).graph().fingerprint
    replaced = (tmp_path / GRAPH_FILE).stat()
    capsys.readouterr()
    assert build_gene_graph(settings(corpus=str(tmp_path))) == summary
    assert capsys.readouterr().out.endswith("have neighbours; the corpus has this very graph already\n")
    assert (tmp_path / GRAPH_FILE).stat().st_mtime_ns == replaced.st_mtime_ns


def test_a_damaged_graph_is_replaced_only_when_asked(tmp_path: Path) -> None:
    make_corpus(str(tmp_path), {"train": 60, "validation": 3, "test": 3})
    (tmp_path / GRAPH_FILE).write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"is damaged: .*; --overwrite replaces the graph"):
        build_gene_graph(settings(corpus=str(tmp_path)))
    build_gene_graph(settings(corpus=str(tmp_path), overwrite=True))
    assert open_corpus(str(tmp_path)).graph().edges > 0


def test_inputs_of_a_run_name_the_graph_and_are_required(tmp_path: Path) -> None:
    corpus = make_corpus(str(tmp_path), {"train": 60, "validation": 3, "test": 3})
    recorded = corpus.inputs()
    corpus.require_inputs(recorded, "run first")
    build_gene_graph(settings(corpus=str(tmp_path), overwrite=True))
    again = open_corpus(str(tmp_path))
    assert again.fingerprint == corpus.fingerprint
    with pytest.raises(
        UserError, match=r"has changed since run first was made from it: other gene graph \(\w{12} then"
    ):
        again.require_inputs(recorded, "run first")
    # what the first version recorded
    again.require_inputs({"corpus": recorded["corpus"], "vocabulary": recorded["vocabulary"]}, "run first")
    with pytest.raises(UserError, match=r"other profiles \(.*\) and gene vocabulary \("):
        again.require_inputs({"corpus": "a" * 64, "vocabulary": "b" * 64}, "run first")


def test_too_few_profiles_make_no_graph(tmp_path: Path) -> None:
    make_corpus(str(tmp_path), {"train": 10, "validation": 1, "test": 1})
    with pytest.raises(UserError, match="10 training profiles are too few for a graph"):
        build_gene_graph(settings(corpus=str(tmp_path), min_common_samples=20))
