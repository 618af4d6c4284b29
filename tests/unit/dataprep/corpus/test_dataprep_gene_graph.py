"""The graph holds the strongest correlations, also where profiles lack genes."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from dataprep.coexpression.command import build_gene_graph
from dataprep.coexpression.correlation import balanced_weights, correlation_edges
from dataprep.coexpression.edge_table import table_edges
from dataprep.coexpression.edges import Edges
from dataprep.config import GraphSettings
from dataprep.corpus import GRAPH_FILE, GeneGraph, open_corpus
from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder
from tests.made_corpora import make_corpus, make_graph, make_vocabulary, pairs_in_turn


def settings(**given: object) -> GraphSettings:
    return GraphSettings.model_construct(
        **{"corpus": "", "min_correlation": 0.4, "max_neighbours": 20, "max_samples": 1000, "min_common_samples": 5}
        | {"genes_per_block": 7, "overwrite": False, "balance_studies": False, "symmetric": False, "edge_table": None}
        | given
    )


def edges_of(x: np.ndarray, studies: list[str] | None = None, **given: object) -> Edges:
    return correlation_edges(x, settings(**given), studies, pairs_in_turn)


def graph_of(corpus: Path, **given: object) -> dict:
    return build_gene_graph(settings(corpus=str(corpus), **given), pairs_in_turn)


def profiles(rows: int = 80, genes: int = 30, missing: bool = True, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 4)) @ rng.normal(size=(4, genes)) + rng.normal(size=(rows, genes)) + 5
    x = x.astype(np.float16)
    if missing:
        x[:30, :6] = np.nan
        x[20:50, 4:9] = np.nan
    return x


def exact_profiles(rows: int, genes: int, seed: int = 0) -> np.ndarray:
    """Small whole numbers of 64 or 128 profiles: sums are exact in single precision, so that equal genes are equal on
    any processor, whichever of their products it adds up first."""
    assert rows in (64, 128)
    return (profiles(rows, genes, missing=False, seed=seed) / 2).round().clip(0, 5)


def correlation_by_hand(x: np.ndarray, i: int, j: int) -> float:
    both = ~np.isnan(x[:, i]) & ~np.isnan(x[:, j])
    return float(np.corrcoef(x[both, i].astype(float), x[both, j].astype(float))[0, 1])


@pytest.mark.parametrize("missing", [False, True])
def test_edges_are_the_strongest_pairwise_complete_correlations(missing: bool) -> None:
    x = profiles(missing=missing)
    graph = edges_of(x, max_neighbours=5)
    for gene in range(x.shape[1]):
        expected = np.array([abs(correlation_by_hand(x, gene, j)) if j != gene else 0 for j in range(x.shape[1])])
        strongest = np.sort(expected[expected >= 0.4])[::-1][:5]
        assert np.allclose(graph.weight[graph.target == gene], strongest, atol=1e-4)


def test_source_is_the_neighbour_and_target_the_gene_it_informs() -> None:
    x = profiles(missing=False)
    # gene 0 follows gene 1 closely, but gene 1 has closer neighbours
    x[:, 2] = x[:, 1] + np.float16(0.01) * x[:, 3]
    x[:, 0] = x[:, 1] + x[:, 5]
    graph = edges_of(x, max_neighbours=1)
    assert graph.source[graph.target == 1].tolist() == [2]


def test_no_gene_is_its_own_neighbour_and_edges_are_ordered() -> None:
    graph = edges_of(profiles())
    assert (graph.source != graph.target).all()
    assert (np.diff(graph.target) >= 0).all()
    assert (graph.weight >= 0.4).all()
    assert (graph.weight <= 1).all()
    assert np.bincount(graph.target).max() <= 20


def test_genes_without_variation_have_no_edges() -> None:
    x = profiles()
    x[:, 10], x[:, 11] = 3.3, 0
    graph = edges_of(x)
    assert not np.isin([10, 11], np.concatenate([graph.source, graph.target])).any()


def test_a_gene_that_varies_only_between_unshared_profiles_has_no_edge() -> None:
    x = profiles(missing=False)
    # constant where gene 1 is measured, another constant where it is not
    x[:40, 0], x[40:, 0], x[:40, 1] = 1.0, 7.0, np.nan
    graph = edges_of(x)
    assert not ((graph.target == 0) & (graph.source == 1)).any()


def test_genes_measured_together_too_seldom_have_no_edge() -> None:
    x = profiles(missing=False)
    x[:, 1] = x[:, 0]
    x[:40, 0], x[50:, 1] = np.nan, np.nan
    assert not _has_edge(edges_of(x, min_common_samples=11), 0, 1)
    assert _has_edge(edges_of(x, min_common_samples=10), 0, 1)


def _has_edge(graph: Edges, source: int, target: int) -> bool:
    return bool(((graph.source == source) & (graph.target == target)).any())


def test_blocks_do_not_change_the_graph() -> None:
    graphs = [edges_of(profiles(), genes_per_block=size) for size in (1, 8, 1000)]
    for graph in graphs[1:]:
        assert np.array_equal(graph.source, graphs[0].source)
        assert np.allclose(graph.weight, graphs[0].weight, atol=1e-5)


def test_of_equal_correlations_those_with_the_first_genes_are_kept() -> None:
    x = exact_profiles(64, 30)
    x[:, 12:24] = x[:, [3]]
    for size in (5, 1000):
        graph = edges_of(x, max_neighbours=4, genes_per_block=size)
        assert graph.source[graph.target == 20].tolist() == [3, 12, 13, 14]
        assert graph.source[graph.target == 3].tolist() == [12, 13, 14, 15]


@pytest.mark.parametrize("size", [7, 1000])
def test_the_graph_is_what_corrcoef_and_the_largest_of_each_row_give_also_with_ties_and_constant_genes(
    size: int,
) -> None:
    x = exact_profiles(128, 60, seed=3)
    x[:, 12:24], x[:, 40:43] = x[:, [3]], x[:, [5]]
    x[:, 30], x[:, 31] = 3, 0
    varying = np.flatnonzero(x.std(axis=0, dtype=np.float64) > 1e-6)
    correlation = np.zeros((60, 60))
    correlation[np.ix_(varying, varying)] = np.abs(np.corrcoef(x[:, varying].astype(np.float64).T))
    np.fill_diagonal(correlation, 0)
    graph = edges_of(x, max_neighbours=6, min_correlation=0.4, genes_per_block=size)
    for gene in range(60):
        # a stable sort of rounded values: of equal ones the first genes
        strongest = np.argsort(-correlation[gene].round(6), kind="stable")[:6]
        strongest = strongest[correlation[gene, strongest] >= 0.4]
        assert graph.source[graph.target == gene].tolist() == strongest.tolist()
        assert np.allclose(graph.weight[graph.target == gene], correlation[gene, strongest], atol=1e-5)
    assert len(varying) == 58


def test_balanced_studies_count_the_same_whatever_their_size() -> None:
    x = profiles(missing=False)
    studies = ["large"] * 60 + ["small"] * 20
    # three copies of each profile of the small study make it as large as the other
    copied = np.concatenate([x, x[60:], x[60:]])
    balanced, expected, plain = (edges_of(x, studies), edges_of(copied), edges_of(x))
    assert np.array_equal(balanced.source, expected.source)
    assert np.allclose(balanced.weight, expected.weight, atol=1e-5)
    assert not np.allclose(balanced.weight[:20], plain.weight[:20], atol=1e-3)


def test_balanced_studies_of_one_size_make_the_same_graph_as_profiles_do() -> None:
    x, studies = profiles(), ["a", "b"] * 40
    for column in ("source", "target", "weight"):
        assert np.array_equal(getattr(edges_of(x, studies), column), getattr(edges_of(x), column))


def test_weights_of_profiles_are_one_on_average_and_equal_per_study() -> None:
    weights = balanced_weights(["a", "b", "a", "a"])
    assert np.allclose(weights, [2 / 3, 2, 2 / 3, 2 / 3])


def test_balanced_correlations_are_pairwise_complete_too() -> None:
    x = profiles()
    weights = balanced_weights(studies := ["a"] * 25 + ["b"] * 55).astype(float)
    graph = edges_of(x, studies, max_neighbours=30, min_correlation=1e-6)
    for source, target, weight in list(zip(graph.source, graph.target, graph.weight, strict=True))[::7]:
        both = np.isfinite(x[:, source]) & np.isfinite(x[:, target])
        covariance = np.cov(x[both][:, [source, target]].astype(float).T, aweights=weights[both])
        expected = abs(covariance[0, 1]) / np.sqrt(covariance[0, 0] * covariance[1, 1])
        assert weight == pytest.approx(expected, abs=1e-4)


def test_a_symmetric_graph_has_each_edge_in_both_directions(tmp_path: Path) -> None:
    make_corpus(str(tmp_path), {"train": 60, "validation": 3, "test": 3})
    graph_of(tmp_path, overwrite=True, max_neighbours=3)
    directed = open_corpus(str(tmp_path)).graph()
    graph_of(tmp_path, overwrite=True, max_neighbours=3, symmetric=True)
    graph = open_corpus(str(tmp_path)).graph()
    pairs = set(zip(graph.source.tolist(), graph.target.tolist(), strict=True))
    one_way = set(zip(directed.source.tolist(), directed.target.tolist(), strict=True))
    assert pairs == one_way | {(target, source) for source, target in one_way}
    assert len(pairs) == graph.edges > directed.edges
    assert graph.origin["symmetric"] is True
    assert "symmetric" not in directed.origin


def test_edges_of_a_table_are_those_of_its_genes_in_both_directions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "edges.tsv"
    rows = [
        "gene1\tgene2\tweight",
        "G3\tENSG00000000007.4\t0.5",
        "G7\tG3\t0.9",
        "G1\tG1\t1",
        "G2\tNONE\t1",
        "G4\tG5\t2",
    ]
    table.write_text("\n".join(rows) + "\n")
    edges = table_edges(str(table), make_vocabulary(30))
    found = list(zip(edges.source.tolist(), edges.target.tolist(), edges.weight.tolist(), strict=True))
    assert found == [(7, 3, pytest.approx(0.9)), (5, 4, 2.0), (4, 5, 2.0), (3, 7, pytest.approx(0.9))]
    said = "3 of 5 pairs; 1 have a gene outside the vocabulary, 1 are of one gene"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("name", ["edges.csv", "edges.csv.gz", "edges.parquet"])
def test_a_table_may_be_of_any_kind_and_without_weights(tmp_path: Path, name: str) -> None:
    table = pd.DataFrame({"gene1": ["G1", "G2"], "gene2": ["G2", "G3"]})
    write = table.to_parquet if name.endswith("parquet") else table.to_csv
    write(tmp_path / name, index=False)
    edges = table_edges(str(tmp_path / name), make_vocabulary(30))
    assert edges.source.tolist() == [2, 1, 3, 2]
    assert edges.weight.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\tb\nG1\tG2\n", "has no column gene1 and gene2, but a, b; edges are in columns gene1, gene2 and perhaps"),
        ("gene1\tgene2\nX1\tX2\n", "2 of 2 gene ids are not human genes as mixed"),
        ("gene1\tgene2\nG1\tG1\n", "none of its 1 pairs is of two different genes"),
        ("gene1\tgene2\tweight\nG1\tG2\t-1\nG1\tG3\tmuch\n", "2 weights are no positive numbers, e.g. '-1'"),
        ("", "is empty"),
    ],
)
def test_what_is_no_table_of_edges_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "edges.tsv").write_text(content)
    with pytest.raises(UserError, match=message):
        table_edges(str(tmp_path / "edges.tsv"), make_vocabulary(30))


def test_a_corpus_can_have_the_graph_of_a_table(tmp_path: Path) -> None:
    corpus = make_corpus(str(tmp_path / "corpus"), {"train": 60, "validation": 3, "test": 3})
    (tmp_path / "edges.csv").write_text("gene1,gene2\nG1,G2\nG2,G3\nG2,G4\n")
    made = graph_of(tmp_path / "corpus", edge_table=str(tmp_path / "edges.csv"), max_neighbours=2, overwrite=True)
    graph = open_corpus(corpus.folder.uri).graph()
    assert made["edges"] == graph.edges == 5
    assert graph.source[graph.target == 2].tolist() == [1, 3]
    assert graph.origin["edge_table"] == "edges.csv"


def test_settings_of_correlations_are_refused_beside_a_table() -> None:
    with pytest.raises(ValidationError, match="--min-correlation would have no effect where a table has the edges"):
        GraphSettings(corpus="c", edge_table="t.csv", min_correlation=0.5)


def test_a_graph_survives_writing(tmp_path: Path) -> None:
    graph = dataclasses.replace(make_graph(make_vocabulary(30)), origin={"profiles": 60})
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
    graph_of(tmp_path, overwrite=True)
    graph = open_corpus(str(tmp_path)).graph()
    assert graph.origin["profiles"] == 60
    assert graph.origin["corpus_sha256"] == corpus.fingerprint
    # the other splits are gone, the graph is the same
    for split in ("validation", "test"):
        Folder(str(tmp_path)).remove(f"split={split}")
    graph_of(tmp_path, overwrite=True)
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
        graph_of(tmp_path)
    assert Folder(str(tmp_path)).read_bytes(GRAPH_FILE) == given
    summary = graph_of(tmp_path, overwrite=True)
    assert summary["fingerprint"] == open_corpus(str(tmp_path)).graph().fingerprint
    replaced = (tmp_path / GRAPH_FILE).stat()
    capsys.readouterr()
    assert graph_of(tmp_path) == summary
    assert capsys.readouterr().out.endswith("have neighbours; the corpus has this very graph already\n")
    assert (tmp_path / GRAPH_FILE).stat().st_mtime_ns == replaced.st_mtime_ns


def test_a_damaged_graph_is_replaced_only_when_asked(tmp_path: Path) -> None:
    make_corpus(str(tmp_path), {"train": 60, "validation": 3, "test": 3})
    (tmp_path / GRAPH_FILE).write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"is damaged: .*; --overwrite replaces the graph"):
        graph_of(tmp_path)
    graph_of(tmp_path, overwrite=True)
    assert open_corpus(str(tmp_path)).graph().edges > 0


def test_inputs_of_a_run_name_the_graph_and_are_required(tmp_path: Path) -> None:
    corpus = make_corpus(str(tmp_path), {"train": 60, "validation": 3, "test": 3})
    recorded = corpus.inputs()
    corpus.require_inputs(recorded, "run first")
    graph_of(tmp_path, overwrite=True)
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
        graph_of(tmp_path, min_common_samples=20)
