"""Released checkpoints in and out: a ``.pt`` state dict with gene list and graph files, to an export and back."""

from __future__ import annotations

import csv
import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataprep.corpus import GeneGraph
from dataprep.genes.vocabulary import read_vocabulary
from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder
from dataprep.runtime.terminal import write_result
from pretrain.config import ImportReleasedSettings
from pretrain.model.bulkformer import BulkFormer
from pretrain.model.export_file import ModelExport, load_strictly, require_place, write_export
from pretrain.model.tensor_shapes import infer_shape

# nn.DataParallel and DistributedDataParallel put this before every name
_PARALLEL_PREFIX = "module."
_RELEASED_FILES = ("G.pt", "G_weight.pt", "genes.csv", "model.pt")


def import_released(settings: ImportReleasedSettings) -> dict[str, Any]:
    """Read, check and write; returns what was found. Raises UserError for files that do not fit."""
    output, origin = Folder(settings.output), {"imported_from": settings.checkpoint.name}
    require_place(output, origin, settings.overwrite)
    tensors = _state_dict(settings.checkpoint)
    shape = infer_shape(tensors, settings.heads)
    vocabulary = read_vocabulary(str(settings.genes))
    if vocabulary.size != shape.genes:
        raise UserError(f"{settings.genes} has {vocabulary.size} genes, {settings.checkpoint} {shape.genes}")
    graph = _read_graph(settings, shape.genes, vocabulary.fingerprint)
    with torch.device("meta"):
        model = BulkFormer(shape, graph)
    load_strictly(model.to_empty(device="cpu"), tensors, str(settings.checkpoint))
    write_export(output, shape, tensors, vocabulary, graph, origin, settings.overwrite)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    write_result(
        f"{settings.checkpoint.name}: {parameters:,} parameters, D = {shape.dim}, K = {shape.performer_layers}, "
        f"{shape.genes:,} genes, {graph.edges:,} edges -> {settings.output}"
    )
    return {"output": settings.output, "parameters": parameters, "model": shape.model_dump(mode="json")}


def export_released(model: ModelExport, output: Path, overwrite: bool = False) -> dict[str, Any]:
    """Write an export as the released files: ``model.pt``, ``genes.csv``, ``G.pt`` and ``G_weight.pt``.

    The inverse of :func:`import_released`: the same tensors under the same names. Raises UserError, and changes
    nothing, where there are files of these names already, unless ``overwrite``.
    """
    _require_free(output, overwrite)
    output.mkdir(parents=True, exist_ok=True)
    # row 0 receives, row 1 sends: see _read_graph
    edges = np.stack([model.graph.target, model.graph.source]).astype(np.int64)
    with tempfile.TemporaryDirectory(prefix=".released-", dir=output) as unfinished:
        place = Path(unfinished)
        torch.save(model.tensors(), place / "model.pt")
        torch.save(torch.from_numpy(edges), place / "G.pt")
        torch.save(torch.from_numpy(model.graph.weight.copy()), place / "G_weight.pt")
        with (place / "genes.csv").open("w", newline="") as stream:
            rows = csv.writer(stream)
            rows.writerow(["gene_symbol", "ensg_id", "gene_length"])
            genes = model.vocabulary
            rows.writerows(zip(genes.symbols, genes.ensembl_ids, genes.lengths_bp.tolist(), strict=True))
        for name in _RELEASED_FILES:
            (place / name).replace(output / name)
    write_result(f"{model.folder.uri} -> {output}: model.pt, genes.csv, G.pt, G_weight.pt")
    return {"output": str(output)}


def _require_free(output: Path, overwrite: bool) -> None:
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file: choose another folder", exit_code=2)
    there = [name for name in _RELEASED_FILES if (output / name).exists()]
    if there and not overwrite:
        raise UserError(
            f"{output} has {', '.join(there)} already: choose another folder, or give --overwrite", exit_code=2
        )


def _state_dict(path: Path) -> dict[str, Tensor]:
    content = _load(path)
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise UserError(f"{path} is not a state dict: a mapping of names to tensors")
    unfit = [name for name, tensor in content.items() if not _is_plain(tensor) or not tensor.isfinite().all()]
    if unfit:
        raise UserError(
            f"{path}: {len(unfit):,} of {len(content):,} tensors are sparse, quantised or complex, or hold NaN or "
            f"infinite numbers, e.g. {', '.join(unfit[:3])}"
        )
    return {name.removeprefix(_PARALLEL_PREFIX): tensor for name, tensor in content.items()}


def _read_graph(settings: ImportReleasedSettings, genes: int, fingerprint: str) -> GeneGraph:
    edges, weights = _load(settings.graph), _load(settings.graph_weight)
    if not _is_plain(edges) or edges.ndim != 2 or edges.shape[0] != 2:
        raise UserError(f"{settings.graph} is not an edge index of shape 2 x E")
    if not _is_plain(weights) or weights.numel() != edges.shape[1]:
        raise UserError(f"{settings.graph_weight} does not hold one weight for each of {edges.shape[1]} edges")
    # NaN is not inside either
    outside = int((~((edges >= 0) & (edges < genes))).any(dim=0).sum())
    if outside:
        raise UserError(
            f"{settings.graph}: {outside} of {edges.shape[1]} edges name genes beyond the {genes} of the model"
        )
    # the published code multiplies adjacency x features, so a row receives what its columns send
    target, source = edges.to(torch.int32).numpy()
    return GeneGraph(
        source=np.ascontiguousarray(source),
        target=np.ascontiguousarray(target),
        weight=weights.flatten().float().numpy(),
        vocabulary_sha256=fingerprint,
        origin={"imported_from": settings.graph.name},
    )


def _is_plain(value: Any) -> bool:
    """Whether a value is a tensor of numbers, each of which it holds."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and not value.is_quantized
        and not value.is_complex()
    )


def _load(path: Path) -> Any:
    """Tensors of a ``.pt`` file; ``weights_only`` refuses pickles that would run code."""
    if not path.is_file():
        raise UserError(f"no such file: {path}", exit_code=2)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        # torch's own message says how to run the code that the file may hold
        raise UserError(f"{path} is not a plain tensor file: it is no pickle, or holds more than tensors") from None
    except (RuntimeError, EOFError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is not a plain tensor file: {reason}") from None
