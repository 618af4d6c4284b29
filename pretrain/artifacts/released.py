"""Released checkpoints in and out: a ``.pt`` state dict with gene list and graph files, to an export and back.

The files of the first family are here, the release folder of the second in
:mod:`pretrain.artifacts.release_folder`.
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dataprep.genes.vocabulary import read_vocabulary
from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder
from dataprep.runtime.terminal import write_result
from pretrain.artifacts import release_folder
from pretrain.artifacts.torch_files import as_state_dict, load_plain, read_graph, save_graph, sharing_again
from pretrain.config import ImportReleasedSettings
from pretrain.families import FamilyName
from pretrain.model.bulkformer import BulkFormer
from pretrain.model.export_file import ModelExport, load_strictly, require_place, write_export
from pretrain.model.tensor_shapes import infer_shape

_RELEASED_FILES = ("G.pt", "G_weight.pt", "genes.csv", "model.pt")
# the published code multiplies adjacency x features, so a row receives what its columns send
_GRAPH_ROWS = ("target", "source")


def import_released(settings: ImportReleasedSettings) -> dict[str, Any]:
    """Read, check and write; returns what was found. Raises UserError for files that do not fit."""
    output = Folder(settings.output)
    if settings.release is not None:
        released = release_folder.read_release(settings.release, output, settings.overwrite)
    else:
        released = _read_files(settings, output)
    with torch.device("meta"):
        model = BulkFormer(released.shape, released.graph)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    released.require_parameters(parameters)
    load_strictly(model.to_empty(device="cpu"), released.tensors, released.origin)
    write_export(
        output,
        released.shape,
        released.tensors,
        released.vocabulary,
        released.graph,
        released.training,
        settings.overwrite,
    )
    for name, content in released.kept_files.items():
        output.write_bytes(name, content)
    shape = released.shape
    write_result(
        f"{released.training['imported_from']}: {parameters:,} parameters, D = {shape.dim}, "
        f"K = {shape.performer_layers}, {shape.genes:,} genes, {released.graph.edges:,} edges -> {settings.output}"
    )
    return {"output": settings.output, "parameters": parameters, "model": shape.model_dump(mode="json")}


def export_released(model: ModelExport, output: Path, overwrite: bool = False) -> dict[str, Any]:
    """Write an export as its family's released files; for the first: model.pt, genes.csv, G.pt and G_weight.pt.

    The inverse of :func:`import_released`: the same tensors under the same names. Raises UserError, and changes
    nothing, where there are files of these names already, unless ``overwrite``.
    """
    if model.shape.prior_rank:
        raise UserError(f"{model.folder.uri} has a linear prior, for which released files have no place", exit_code=2)
    names, write = _RELEASES[model.shape.family]
    _require_free(output, names, overwrite)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".released-", dir=output) as unfinished:
        place = Path(unfinished)
        write(model, place)
        for name in names:
            (place / name).replace(output / name)
    write_result(f"{model.folder.uri} -> {output}: {', '.join(names)}")
    return {"output": str(output)}


def _read_files(settings: ImportReleasedSettings, output: Folder) -> release_folder.Released:
    # the settings see to it that all four are given
    assert settings.checkpoint is not None
    assert settings.graph is not None
    assert settings.graph_weight is not None
    origin = {"imported_from": settings.checkpoint.name}
    require_place(output, origin, settings.overwrite)
    tensors = as_state_dict(load_plain(settings.checkpoint), settings.checkpoint)
    shape = infer_shape(tensors, settings.heads)
    if shape.family != "original":
        raise UserError(f"{settings.checkpoint} is of family {shape.family}: give its folder, with --release")
    vocabulary = read_vocabulary(str(settings.genes))
    if vocabulary.size != shape.genes:
        raise UserError(f"{settings.genes} has {vocabulary.size} genes, {settings.checkpoint} {shape.genes}")
    graph = read_graph(settings.graph, settings.graph_weight, _GRAPH_ROWS, shape.genes, vocabulary.fingerprint)
    return release_folder.Released(str(settings.checkpoint), shape, tensors, vocabulary, graph, origin)


def _write_files(model: ModelExport, place: Path) -> None:
    torch.save(sharing_again(model.tensors()), place / "model.pt")
    save_graph(model.graph, place / "G.pt", place / "G_weight.pt", _GRAPH_ROWS)
    with (place / "genes.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["gene_symbol", "ensg_id", "gene_length"])
        genes = model.vocabulary
        rows.writerows(zip(genes.symbols, genes.ensembl_ids, genes.lengths_bp.tolist(), strict=True))


# The files of each family's releases, and how an export becomes them.
_RELEASES: dict[FamilyName, tuple[tuple[str, ...], Callable[[ModelExport, Path], None]]] = {
    "original": (_RELEASED_FILES, _write_files),
    "latest": (release_folder.RELEASE_FILES, release_folder.write_release),
}


def _require_free(output: Path, names: tuple[str, ...], overwrite: bool) -> None:
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file: choose another folder", exit_code=2)
    there = [name for name in names if (output / name).exists()]
    if there and not overwrite:
        raise UserError(
            f"{output} has {', '.join(there)} already: choose another folder, or give --overwrite", exit_code=2
        )
