"""``pretrain export``: a model export from any checkpoint of a run, or the released files from an export."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dataprep.corpus import GeneGraph, open_corpus
from dataprep.corpus.train_profiles import TrainProfiles, readable_train_profiles
from dataprep.genes.vocabulary import GeneVocabulary
from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder
from dataprep.runtime.terminal import log, write_result
from pretrain.artifacts.checkpoint import Checkpoint, CheckpointStore
from pretrain.artifacts.released import export_released
from pretrain.artifacts.run_inputs import read_inputs, require_state_of_run
from pretrain.config import ExportSettings
from pretrain.model.bulkformer import BulkFormer
from pretrain.model.export_file import (
    described_shape,
    open_export,
    require_place,
    require_size,
    require_tensors,
    write_export,
)
from pretrain.shape import ModelShape


def export_command(settings: ExportSettings) -> dict[str, Any]:
    """Carry out ``pretrain export``. Raises UserError for a run or export that is not there."""
    if settings.model is not None:
        if settings.format != "released":
            raise UserError("--model is an export already: give --format released to convert it", exit_code=2)
        return export_released(open_export(settings.model), _local(settings.output), settings.overwrite)
    assert settings.run is not None
    if settings.format == "released":
        raise UserError("--format released takes --model: export the checkpoint first", exit_code=2)
    return _export_checkpoint(settings, Folder(settings.run))


def _export_checkpoint(settings: ExportSettings, run: Folder) -> dict[str, Any]:
    store, output = CheckpointStore(run / "checkpoints"), Folder(settings.output)
    checkpoint = _chosen(store, settings.checkpoint)
    state, origin = checkpoint.state, f"{store.folder.uri}: the checkpoint of step {checkpoint.step}"
    require_state_of_run(state, origin)
    training = {"run": state["settings"]["name"], "step": checkpoint.step, "corpus": state["corpus"]}
    training |= {key: state[key] for key in ("run_uid", "tpm_over") if key in state}
    training["settings"] = state["settings"]
    require_place(output, training, settings.overwrite)
    vocabulary, graph = _inputs(settings, run, state)
    shape = _shape_of(checkpoint, graph, origin)
    seen = _train_profiles(settings.corpus or state["settings"]["corpus"], state["corpus"])
    write_export(output, shape, checkpoint.weights, vocabulary, graph, training, settings.overwrite, seen)
    write_result(f"step {checkpoint.step} of {run.uri} -> {settings.output}")
    return {"output": settings.output, "step": checkpoint.step}


def _shape_of(checkpoint: Checkpoint, graph: GeneGraph, origin: str) -> ModelShape:
    """The shape that the state names. Raises UserError unless the weights have it."""
    shape = described_shape(checkpoint.state, origin)
    require_size(shape, checkpoint.weights, origin)
    # names and shapes without memory for numbers
    with torch.device("meta"):
        expected = BulkFormer(shape, graph).state_dict()
    require_tensors(expected, checkpoint.weights, origin)
    return shape


def _inputs(settings: ExportSettings, run: Folder, state: Mapping[str, Any]) -> tuple[GeneVocabulary, GeneGraph]:
    """The genes and the graph that the model was trained with."""
    # the first version recorded no fingerprint of the graph
    recorded = {"vocabulary": state["vocabulary_sha256"]}
    recorded |= {"graph": state["graph_sha256"]} if "graph_sha256" in state else {}
    own = read_inputs(run)
    if own is None:
        corpus = open_corpus(settings.corpus or state["settings"]["corpus"])
        corpus.require_inputs(recorded, f"run {run.uri}")
        return corpus.vocabulary, corpus.graph()
    if settings.corpus is not None:
        log(f"--corpus serves for the leak audit alone: {run.uri} has its genes and its gene graph")
    vocabulary, graph = own
    found = {"vocabulary": vocabulary.fingerprint, "graph": graph.fingerprint}
    if any(found[key] != expected for key, expected in recorded.items()):
        raise UserError(f"{run.uri} has other genes or another gene graph than its checkpoint was trained with")
    return vocabulary, graph


def _train_profiles(address: str, fingerprint: str) -> TrainProfiles | None:
    """Those of the corpus at its address, if it is there and still the one that the run was trained on."""
    try:
        corpus = open_corpus(address)
        if corpus.fingerprint != fingerprint:
            raise UserError(f"{address} is not the corpus that the run was trained on")
    except UserError as error:
        log(f"no fingerprints of train profiles were made, and without them no leak audit can be made: {error}")
        return None
    return readable_train_profiles(corpus, log)


def _chosen(store: CheckpointStore, wanted: str) -> Checkpoint:
    """The checkpoint that ``last``, ``best`` or a step's number stands for."""
    steps = store.steps()
    if not steps:
        raise UserError(f"{store.folder.uri} holds no complete checkpoint")
    there_are = f"there are last and steps {', '.join(map(str, steps))}"
    if wanted in ("last", "best"):
        last = store.newest_good(log)
        assert last is not None
        if wanted == "last":
            return last
        best = last.state.get("best")
        if not best:
            raise UserError(f"the run had not been validated by step {last.step}, so it has no best checkpoint")
        if best[0] not in steps:
            # runs of the first version did not write a checkpoint when they found a new best
            raise UserError(f"step {best[0]} was the best by validation loss, but has no checkpoint; {there_are}")
        return store.read(best[0])
    if not wanted.isdecimal() or int(wanted) not in steps:
        raise UserError(f"no checkpoint {wanted}; {there_are}, and best", 2)
    return store.read(int(wanted))


def _local(output: str) -> Path:
    folder = Folder(output)
    if not folder.is_local:
        raise UserError("released files are written to a local folder", exit_code=2)
    return Path(folder.path)
