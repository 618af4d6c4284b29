"""The genes and the gene graph that a run was begun with: copies in its folder.

So that no later ``dataprep graph`` or ``dataprep build`` changes what a run trains on or what is exported of it.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from dataprep.corpus import GENES_FILE, GRAPH_FILE, Corpus, GeneGraph, table_bytes
from dataprep.genes.vocabulary import GeneVocabulary
from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder


def keep_inputs(run: Folder, corpus: Corpus) -> None:
    """Copy the corpus's genes and gene graph to the run's folder, unless they are there."""
    if not run.exists(GRAPH_FILE):
        run.write_bytes(GENES_FILE, table_bytes(corpus.vocabulary.to_arrow()))
        # the graph last: read_inputs takes both where it is
        corpus.graph().write(run)


def read_inputs(run: Folder) -> tuple[GeneVocabulary, GeneGraph] | None:
    """The genes and the graph of a run; None for runs of the first version, which had no copies."""
    if not run.exists(GRAPH_FILE):
        return None
    try:
        vocabulary = GeneVocabulary.from_arrow(pq.read_table(pa.BufferReader(run.read_bytes(GENES_FILE))))
    except (FileNotFoundError, KeyError, pa.ArrowException, OSError) as error:
        raise UserError(f"{run.uri}/{GENES_FILE} is missing or damaged: {' '.join(str(error).split())}") from None
    graph = GeneGraph.read(run)
    graph.require_vocabulary(vocabulary)
    return vocabulary, graph
