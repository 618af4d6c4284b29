"""The genes and the gene graph that a run was begun with: copies in its folder.

So that no later ``dataprep graph`` or ``dataprep build`` changes what a run trains on or what is exported of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dataprep.corpus import GENES_FILE, GRAPH_FILE, Corpus, GeneGraph, table_bytes
from dataprep.genes.vocabulary import GeneVocabulary
from dataprep.runtime.command_line import UserError, one_line
from dataprep.runtime.storage import Folder
from pretrain.artifacts.checkpoint import CheckpointStore, DamagedCheckpointError

# Fingerprints of what a run takes from its corpus, by their names there and in the state of checkpoints.
RECORDED_INPUTS = {"corpus": "corpus", "vocabulary": "vocabulary_sha256", "graph": "graph_sha256"}


# What the state of every checkpoint of a run says, with its kind.
_IN_EVERY_STATE = {"corpus": str, "vocabulary_sha256": str, "model": dict, "settings": dict}


def require_state_of_run(state: Mapping[str, Any], origin: str) -> None:
    """Raise UserError where the state of a checkpoint is not one that a run has written."""
    for name, kind in _IN_EVERY_STATE.items():
        if not isinstance(state.get(name), kind):
            raise UserError(f"{origin} is not of a run: its {name} is {state.get(name)!r}")
    for name in ("name", "corpus"):
        if not isinstance(state["settings"].get(name), str):
            raise UserError(f"{origin} is not of a run: the {name} in its settings is {state['settings'].get(name)!r}")


def recorded_inputs(state: Mapping[str, Any]) -> dict[str, str]:
    """Return what a checkpoint says its run takes from the corpus; the first version recorded no graph."""
    return {name: state[key] for name, key in RECORDED_INPUTS.items() if key in state}


def require_same_inputs(run: Folder, corpus: Corpus, name: str) -> None:
    """Raise UserError where the run was trained on another corpus, by its newest readable checkpoint."""
    store = CheckpointStore(run / "checkpoints")
    for step in reversed(store.steps()):
        try:
            state = store.read_state(step)
        except DamagedCheckpointError:
            continue  # the workers say so, and resume from another
        require_state_of_run(state, f"{store.folder.uri}: the checkpoint of step {step}")
        try:
            corpus.require_inputs(recorded_inputs(state), f"run {name}")
        except UserError as error:
            raise UserError(f"{error}; choose another --name, or give the corpus as it was") from None
        return


def keep_inputs(run: Folder, corpus: Corpus) -> None:
    """Copy the genes and the gene graph of the run's corpus to its folder, unless they are there, whole."""
    graph = corpus.graph()
    try:
        copied = read_inputs(run)
    except UserError:
        copied = None  # damaged: the corpus has the same
    if copied is None or copied[1].fingerprint != graph.fingerprint:
        run.write_bytes(GENES_FILE, table_bytes(corpus.vocabulary.to_arrow()))
        # the graph last: read_inputs takes both where it is
        graph.write(run)


def read_inputs(run: Folder) -> tuple[GeneVocabulary, GeneGraph] | None:
    """The genes and the graph of a run; None for runs of the first version, which had no copies."""
    if not run.exists(GRAPH_FILE):
        return None
    try:
        vocabulary = GeneVocabulary.from_arrow(pq.read_table(pa.BufferReader(run.read_bytes(GENES_FILE))))
    except (FileNotFoundError, KeyError, pa.ArrowException, OSError) as error:
        raise UserError(f"{run.uri}/{GENES_FILE} is missing or damaged: {one_line(error)}") from None
    graph = GeneGraph.read(run)
    graph.require_vocabulary(vocabulary)
    return vocabulary, graph
