"""The command `dataprep graph`: the gene graph of a corpus, written into it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from dataprep.coexpression.correlation import Run, correlation_edges, on_ray
from dataprep.coexpression.edge_table import sha256_of, table_edges
from dataprep.coexpression.edges import Edges
from dataprep.config import GraphSettings
from dataprep.corpus import GRAPH_FILE, Corpus, GeneGraph, open_corpus, read_split
from dataprep.runtime.addresses import plain_address
from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import split_file_address
from dataprep.runtime.terminal import write_result

# Settings that a graph names among its origins where they are on; graphs from before them have none.
_OPTIONS = ("balance_studies", "symmetric")


def build_gene_graph(settings: GraphSettings, run: Run = on_ray) -> dict[str, Any]:
    """Build the graph of a corpus from its train split or a table, write it there, and return its summary.

    Memory: 2 x G bytes per profile used here, 4 x G in Ray's object store, and for each task two blocks of the latter
    with the matrix between them. Raises :class:`UserError` where the train split is too small to tell a correlation
    from chance, and where the corpus has another graph already: runs resume and export with the graph of their corpus,
    so it is replaced only with ``overwrite``.
    """
    corpus = open_corpus(settings.corpus)
    corpus.folder.require_writable(corpus.own_file(GRAPH_FILE))
    if settings.edge_table is None:
        edges, origin, made_from = _by_correlation(corpus, settings, run)
    else:
        edges, origin, made_from = _from_table(corpus, settings.edge_table, settings.max_neighbours)
    if settings.symmetric:
        edges = edges.both_ways()
    origin |= {name: True for name in _OPTIONS if getattr(settings, name)}
    graph = GeneGraph(edges.source, edges.target, edges.weight, corpus.vocabulary.fingerprint, origin)
    unchanged = _is_there(corpus, graph, settings.overwrite)
    if not unchanged:
        graph.write(corpus.folder, corpus.own_file(GRAPH_FILE))
    connected = len(np.unique(graph.target))
    write_result(
        f"{graph.edges:,} edges from {made_from}; {connected:,} of {corpus.genes:,} genes "
        f"have neighbours{'; the corpus has this very graph already' if unchanged else ''}"
    )
    return {
        "corpus": corpus.folder.uri,
        "profiles": origin.get("profiles", 0),
        "genes": corpus.genes,
        "edges": graph.edges,
        "genes_with_neighbours": connected,
        "fingerprint": graph.fingerprint,
    }


def _by_correlation(corpus: Corpus, settings: GraphSettings, run: Run) -> tuple[Edges, dict[str, Any], str]:
    """Edges, where they are from as the graph's file says it, and as a person is told."""
    row_ids, expression = read_split(corpus, "train", settings.max_samples)
    profiles = len(expression)
    if profiles < settings.min_common_samples:
        raise UserError(
            f"{corpus.folder.uri}: {profiles} training profiles are too few for a graph "
            f"(min_common_samples {settings.min_common_samples})"
        )
    studies = _studies(corpus, row_ids) if settings.balance_studies else None
    edges = correlation_edges(expression, settings, studies, run)
    if not len(edges):
        raise UserError(f"{corpus.folder.uri}: no two genes correlate with |r| of {settings.min_correlation} or more")
    origin = _origin(corpus, settings.max_neighbours) | {
        "split": "train",
        "profiles": profiles,
        "min_correlation": settings.min_correlation,
        "min_common_samples": settings.min_common_samples,
    }
    return edges, origin, f"{profiles:,} training profiles"


def _studies(corpus: Corpus, row_ids: np.ndarray) -> list[str]:
    samples = corpus.samples().sort_by("row_id")
    return [str(study) for study in samples.column("study_id").take(pa.array(row_ids)).to_pylist()]


def _from_table(corpus: Corpus, given: str, max_neighbours: int) -> tuple[Edges, dict[str, Any], str]:
    address = plain_address(given)
    edges = table_edges(address, corpus.vocabulary).strongest(max_neighbours)
    name = split_file_address(address)[1]
    origin = {"edge_table": name, "edge_table_sha256": sha256_of(address)}
    return edges, _origin(corpus, max_neighbours) | origin, name


def _origin(corpus: Corpus, max_neighbours: int) -> dict[str, Any]:
    return {
        "vocabulary_sha256": corpus.vocabulary.fingerprint,
        "corpus_sha256": corpus.fingerprint,
        "max_neighbours": max_neighbours,
    }


def _is_there(corpus: Corpus, graph: GeneGraph, overwrite: bool) -> bool:
    """Whether the corpus has this graph already. Raises :class:`UserError` for another one, unless ``overwrite``."""
    if overwrite or not corpus.folder.exists(corpus.own_file(GRAPH_FILE)):
        return False
    try:
        present = corpus.graph()
    except UserError as error:
        raise UserError(f"{error}; --overwrite replaces the graph") from None
    if present.fingerprint != graph.fingerprint:
        raise UserError(
            f"{corpus.folder.uri} has another gene graph, of {present.edges:,} edges where these settings give "
            f"{graph.edges:,}; runs and exports made with it need it. --overwrite replaces it"
        )
    return True
