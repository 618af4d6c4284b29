"""``pretrain export``: a model export from any checkpoint of a run, or the released files from an export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dataprep.corpus import open_corpus
from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder
from dataprep.runtime.terminal import log, write_result
from pretrain.artifacts.checkpoint import Checkpoint, CheckpointStore
from pretrain.artifacts.released import export_released
from pretrain.config import ExportSettings
from pretrain.model.export_file import open_export, write_export
from pretrain.shape import ModelShape


def export_command(settings: ExportSettings) -> dict[str, Any]:
    """Carry out ``pretrain export``. Raises UserError for a run or export that is not there."""
    if settings.model is not None:
        if settings.format != "released":
            raise UserError("--model is an export already: give --format released to convert it", exit_code=2)
        return export_released(open_export(settings.model), _local(settings.output))
    assert settings.run is not None
    if settings.format == "released":
        raise UserError("--format released takes --model: export the checkpoint first", exit_code=2)
    return _export_checkpoint(settings, Folder(settings.run))


def _export_checkpoint(settings: ExportSettings, run: Folder) -> dict[str, Any]:
    store = CheckpointStore(run / "checkpoints")
    checkpoint = _chosen(store, settings.checkpoint)
    state = checkpoint.state
    corpus = open_corpus(settings.corpus or state["settings"]["corpus"])
    if corpus.vocabulary.fingerprint != state["vocabulary_sha256"]:
        raise UserError(f"{corpus.folder.uri} has another vocabulary than the corpus of run {run.uri}")
    training = {"run": state["settings"]["name"], "step": checkpoint.step, "corpus": state["corpus"]}
    training["settings"] = state["settings"]
    shape = ModelShape(**state["model"])
    write_export(Folder(settings.output), shape, checkpoint.weights, corpus.vocabulary, corpus.graph(), training)
    write_result(f"step {checkpoint.step} of {run.uri} -> {settings.output}")
    return {"output": settings.output, "step": checkpoint.step}


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
