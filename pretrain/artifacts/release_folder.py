"""The release folder of the second family: six files, of which ``manifest.json`` has the sizes and checksums.

- ``model.pt``: ``architecture``, ``model_config``, ``checkpoint_metadata`` and ``model``, the state dict;
- ``model_config.json``: sizes and constants under ``model``;
- ``gene_vocab.csv``: ``vocab_index``, ``canonical_ensg``, ``gene_length_bp``, and a column of symbols;
- ``edge_index.pt`` (2 x E, source in front of target), ``edge_weight.pt``;
- ``manifest.json``: ``format_version``, ``architecture``, ``files``, ``trainable_parameters``.

What an export has no place for (texts, metadata, the gene list as it was written) is kept beside it, so that the
folder comes out again as it went in.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dataprep.corpus import GeneGraph
from dataprep.genes.vocabulary import GeneVocabulary, read_vocabulary
from dataprep.runtime.command_line import UserError, one_line
from dataprep.runtime.storage import Folder
from pretrain.artifacts.torch_files import as_state_dict, load_plain, read_graph, save_graph, sharing_again
from pretrain.model.export_file import ModelExport, require_place
from pretrain.model.tensor_shapes import infer_shape
from pretrain.shape import ModelShape

FORMAT_VERSION = 1
ARCHITECTURE = "BulkFormerV1Plus-v1"
MODEL, CONFIG, GENES, EDGES, WEIGHTS, MANIFEST = RELEASE_FILES = (
    "model.pt", "model_config.json", "gene_vocab.csv", "edge_index.pt", "edge_weight.pt", "manifest.json",
)  # fmt: skip
_GRAPH_ROWS = ("source", "target")
# Constants of the family, which the formulas have built in; a release says them too.
_CONSTANTS = {
    "ff_mult": 4,
    "expression_base": 100.0,
    "mask_value": -10.0,
    "fix_performer_projection_matrices": True,
}


@dataclass(frozen=True)
class Released:
    """What released files hold. ``kept_files`` are written beside the export, as they were."""

    origin: str
    shape: ModelShape
    tensors: dict[str, Tensor]
    vocabulary: GeneVocabulary
    graph: GeneGraph
    training: dict[str, Any]
    kept_files: dict[str, bytes] = field(default_factory=dict)
    parameters: int | None = None

    def require_parameters(self, found: int) -> None:
        """Raise UserError where the files name another number of trainable parameters than the model has."""
        if self.parameters not in (None, found):
            raise UserError(f"{self.origin} says {self.parameters:,} trainable parameters, its model has {found:,}")


def read_release(folder: Path, output: Folder, overwrite: bool) -> Released:
    """Read and check a release folder. Raises UserError where a file is not that of the manifest, or does not fit."""
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}", exit_code=2)
    origin = {"imported_from": folder.resolve().name}
    require_place(output, origin, overwrite)
    manifest = _checked_manifest(folder)
    checkpoint = load_plain(folder / MODEL)
    if not isinstance(checkpoint, dict) or "model" not in checkpoint:
        raise UserError(f"{folder / MODEL} holds no model: it is no mapping with a state dict under 'model'")
    tensors = as_state_dict(checkpoint["model"], folder / MODEL)
    shape = infer_shape(tensors)
    if shape.family != "latest":
        raise UserError(f"{folder / MODEL} is of family {shape.family}: give it with --checkpoint, and its other files")
    beside = {name: value for name, value in checkpoint.items() if name != "model"}
    _require_architecture(folder / MODEL, beside)
    config = (folder / CONFIG).read_bytes()
    _require_config(shape, _parsed(config, folder / CONFIG), folder / CONFIG)
    vocabulary = _read_genes(folder / GENES, shape)
    graph = read_graph(folder / EDGES, folder / WEIGHTS, _GRAPH_ROWS, shape.genes, vocabulary.fingerprint)
    genes = (folder / GENES).read_bytes()
    released = {
        "manifest_json": (folder / MANIFEST).read_text(),
        "model_config_json": config.decode(),
        "checkpoint": _plain_values(beside, folder / MODEL),
        "gene_vocab_sha256": hashlib.sha256(genes).hexdigest(),
    }
    return Released(
        origin=str(folder),
        shape=shape,
        tensors=tensors,
        vocabulary=vocabulary,
        graph=graph,
        training=origin | {"released": released},
        kept_files={GENES: genes},
        parameters=manifest.get("trainable_parameters"),
    )


def write_release(model: ModelExport, place: Path) -> None:
    """Write the six files to an empty folder: those of the release that the export came from, or of a model of ours."""
    kept = model.training.get("released")
    if not isinstance(kept, dict) or not kept.keys() >= {"manifest_json", "model_config_json", "checkpoint"}:
        kept = _of_our_own(model)
    torch.save(kept["checkpoint"] | {"model": sharing_again(model.tensors())}, place / MODEL)
    (place / CONFIG).write_bytes(kept["model_config_json"].encode())
    (place / GENES).write_bytes(_kept_genes(model, kept.get("gene_vocab_sha256")) or _genes_of(model.vocabulary))
    save_graph(model.graph, place / EDGES, place / WEIGHTS, _GRAPH_ROWS)
    manifest = json.loads(kept["manifest_json"])
    entries = dict(_entries(manifest))
    measured = {name: _measured(place / name) for name in RELEASE_FILES if name != MANIFEST}
    changed = [name for name, found in measured.items() if not found.items() <= entries[name].items()]
    for name in changed:
        entries[name].update(measured[name])
    (place / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n" if changed else kept["manifest_json"])


# ---- reading -------------------------------------------------------------------------------------------------------


def _checked_manifest(folder: Path) -> dict[str, Any]:
    """The manifest, after all files were compared with it."""
    missing = [name for name in RELEASE_FILES if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder} is not a release of family latest: it has no {', '.join(missing)}")
    path = folder / MANIFEST
    manifest = _parsed(path.read_bytes(), path)
    if manifest.get("format_version") != FORMAT_VERSION:
        raise UserError(f"{path}: format version {manifest.get('format_version')!r} is not {FORMAT_VERSION}")
    _require_architecture(path, manifest)
    entries = dict(_entries(manifest))
    problems = []
    for name in RELEASE_FILES:
        if name == MANIFEST:
            continue
        if name not in entries:
            problems.append(f"{name} is not listed")
            continue
        measured = _measured(folder / name)
        wrong = [key for key, value in measured.items() if entries[name].get(key) != value]
        if wrong:
            problems.append(f"{name} has other {' and '.join(wrong)}")
    if problems:
        raise UserError(f"{folder} is damaged, or its files are of different releases: {'; '.join(problems)}")
    return manifest


def _entries(manifest: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Files of a manifest by name, from a mapping or from a list of entries that name theirs."""
    files = manifest.get("files")
    if isinstance(files, dict):
        pairs = list(files.items())
    else:
        listed = [entry for entry in files if isinstance(entry, dict)] if isinstance(files, list) else []
        pairs = [(entry.get("name") or entry.get("path") or entry.get("file"), entry) for entry in listed]
    return ((str(name), entry) for name, entry in pairs if isinstance(entry, dict))


def _measured(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def _require_architecture(path: Path, content: Mapping[str, Any]) -> None:
    if content.get("architecture") != ARCHITECTURE:
        raise UserError(f"{path}: architecture {content.get('architecture')!r} is not {ARCHITECTURE}")


def _require_config(shape: ModelShape, config: Mapping[str, Any], path: Path) -> None:
    """Raise UserError where the configuration does not say what the tensors and the formulas say."""
    said = config.get("model")
    if not isinstance(said, dict):
        raise UserError(f"{path} has no sizes under 'model'")
    expected = _sizes_of(shape) | _CONSTANTS
    differing = [name for name, value in expected.items() if said.get(name, value) != value]
    wrong = [f"{name} {said[name]!r} instead of {expected[name]}" for name in differing]
    if wrong:
        raise UserError(f"{path} does not fit the tensors: {'; '.join(wrong)}")


def _sizes_of(shape: ModelShape) -> dict[str, Any]:
    return {
        "num_genes": shape.genes,
        "dim": shape.dim,
        "depth": shape.performer_layers,
        "heads": shape.heads,
        "dim_head": shape.dim // shape.heads,
        "nb_features": shape.random_features,
        "graph_hidden_dim": shape.graph_dim,
    }


def _read_genes(path: Path, shape: ModelShape) -> GeneVocabulary:
    vocabulary = read_vocabulary(str(path))
    if vocabulary.size != shape.genes:
        raise UserError(f"{path} has {vocabulary.size} genes, the model {shape.genes}")
    numbers = [row.get("vocab_index") for row in csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig")))]
    if any(number is not None and number.strip() != str(row) for row, number in enumerate(numbers)):
        raise UserError(f"{path}: its rows are not in the order of vocab_index, which counts from 0")
    return vocabulary


def _parsed(content: bytes, path: Path) -> dict[str, Any]:
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {one_line(error)}") from None
    if not isinstance(parsed, dict):
        raise UserError(f"{path} holds {type(parsed).__name__}, not names and values")
    return parsed


def _plain_values(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """What JSON can keep without a change, for the way back. Raises UserError for anything else."""
    for name, value in content.items():
        try:
            same = json.loads(json.dumps(value, allow_nan=False)) == value
        except (TypeError, ValueError, RecursionError):
            same = False
        if not same:
            raise UserError(f"{path}: {name} holds more than text, numbers, lists and mappings")
    return dict(content)


# ---- writing -------------------------------------------------------------------------------------------------------


def _of_our_own(model: ModelExport) -> dict[str, Any]:
    """What a release says beside the tensors, of a model that was trained here."""
    shape = model.shape
    config = {
        **_sizes_of(shape),
        "dropout": shape.feed_forward_dropout,
        "attention_dropout": shape.attention_dropout,
        "graph_dropout": shape.feed_forward_dropout,
        "graph_scale_init": 0.01,
        "expression_scale_init": 1.0,
        **_CONSTANTS,
    }
    manifest = {
        "format_version": FORMAT_VERSION,
        "architecture": ARCHITECTURE,
        "files": {name: {} for name in RELEASE_FILES if name != MANIFEST},
        "trainable_parameters": _parameters(model),
    }
    metadata = {name: value for name, value in model.training.items() if not isinstance(value, dict)}
    return {
        "manifest_json": json.dumps(manifest),
        "model_config_json": json.dumps({"model": config}, indent=2) + "\n",
        "checkpoint": {"architecture": ARCHITECTURE, "model_config": config, "checkpoint_metadata": metadata},
    }


def _parameters(model: ModelExport) -> int:
    """Numbers in all tensors that are trained: each once, and not the random features."""
    return sum(
        tensor.numel()
        for name, tensor in model.tensors().items()
        if not name.endswith("projection_matrix") and ".proj_updater." not in name
    )


def _kept_genes(model: ModelExport, sha256: str | None) -> bytes | None:
    """The gene list of the release that an export came from, if it is beside the export still."""
    if sha256 is None:
        return None
    try:
        content = model.folder.read_bytes(GENES)
    except FileNotFoundError:
        return None
    return content if hashlib.sha256(content).hexdigest() == sha256 else None


def _genes_of(vocabulary: GeneVocabulary) -> bytes:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["vocab_index", "canonical_ensg", "gene_length_bp", "gene_symbol"])
    genes = zip(vocabulary.ensembl_ids, vocabulary.lengths_bp.tolist(), vocabulary.symbols, strict=True)
    rows.writerows((row, gene, length, symbol) for row, (gene, length, symbol) in enumerate(genes))
    return text.getvalue().encode()
