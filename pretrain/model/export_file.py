"""Model exports: what pretraining leaves and evaluation reads.

An export is a folder (or ``s3://`` prefix) with ``config.json``, ``model.safetensors``, ``genes.parquet``,
``gene_graph.parquet``, ``README.md`` and, where its train split could be read, ``train_profiles.parquet``.
``config.json`` is written last: no folder is an export without it. While it
is being written there is ``writing.json``, so that an interrupted export is known for what it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from dataprep.corpus import GRAPH_FILE, GeneGraph, TpmOver
from dataprep.corpus.train_profiles import TRAIN_PROFILES_FILE, TrainProfiles
from dataprep.genes.vocabulary import GeneVocabulary
from dataprep.runtime.command_line import UserError, one_line
from dataprep.runtime.storage import Folder
from pretrain.families import TPM_OVER
from pretrain.shape import ModelShape

FORMAT_VERSION = 1
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
GENES_FILE = "genes.parquet"
CARD_FILE = "README.md"
WRITING_FILE = "writing.json"
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class ModelExport:
    """An opened export. ``training`` says where the weights come from (run, step, settings, scores)."""

    folder: Folder
    shape: ModelShape
    vocabulary: GeneVocabulary
    graph: GeneGraph
    training: Mapping[str, Any]
    weights_sha256: str | None = None

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by their released names.

        Raises UserError where they are not those that were exported, and where they are fewer than the settings say.
        """
        tensors = read_tensors(self.folder, WEIGHTS_FILE, self.weights_sha256)
        require_size(self.shape, tensors, f"{self.folder.uri}/{WEIGHTS_FILE}")
        return tensors

    @property
    def tpm_over(self) -> TpmOver:
        """The genes over which TPM sums in the profiles that the model was trained on; of published weights what their
        family says."""
        published = self.shape.traits.tpm_over if "imported_from" in self.training else "source"
        recorded: TpmOver = self.training.get("tpm_over", published)
        return recorded

    def train_profiles(self) -> TrainProfiles | None:
        """Fingerprints of the profiles that the model was trained on; None where the export carries none."""
        try:
            content = self.folder.read_bytes(TRAIN_PROFILES_FILE)
        except FileNotFoundError:
            return None
        return TrainProfiles.from_bytes(content, f"{self.folder.uri}/{TRAIN_PROFILES_FILE}")


def open_export(uri: str) -> ModelExport:
    """Open an export. Raises UserError where the folder holds none or its parts do not fit each other."""
    folder = Folder(uri)
    try:
        config = json.loads(folder.read_bytes(CONFIG_FILE))
    except FileNotFoundError:
        raise UserError(f"{uri} is not a model export: it has no {CONFIG_FILE}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{uri}/{CONFIG_FILE} is damaged: {error}") from None
    if not isinstance(config, dict):
        raise UserError(f"{uri}/{CONFIG_FILE} does not describe a model: it holds {type(config).__name__}")
    if config.get("format_version") != FORMAT_VERSION:
        raise UserError(f"{uri}: export format {config.get('format_version')} is not {FORMAT_VERSION}")
    shape = described_shape(config, f"{uri}/{CONFIG_FILE}")
    training = config.get("training", {})
    if not isinstance(training, dict):
        raise UserError(f"{uri}/{CONFIG_FILE} is damaged: training holds {type(training).__name__}")
    vocabulary = _read_vocabulary(folder)
    if vocabulary.size != shape.genes:
        raise UserError(f"{uri}: {GENES_FILE} has {vocabulary.size} genes, the model {shape.genes}")
    graph = GeneGraph.read(folder)
    graph.require_vocabulary(vocabulary)
    # the first version recorded no fingerprint of the graph, and none of the weights
    for name, expected, found in (
        (GENES_FILE, config.get("vocabulary_sha256"), vocabulary.fingerprint),
        (GRAPH_FILE, config.get("graph_sha256"), graph.fingerprint),
    ):
        if expected not in (None, found):
            raise UserError(
                f"{uri}/{name} is not the one that was exported ({str(expected)[:12]} then, {found[:12]} now)"
            )
    return ModelExport(folder, shape, vocabulary, graph, training, config.get("weights_sha256"))


def described_shape(content: Mapping[str, Any], origin: str) -> ModelShape:
    """The shape under ``model`` in a file's content. Raises UserError where there is none."""
    try:
        return ModelShape(**content["model"])
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']} (given: {first['input']!r})"
        raise UserError(f"{origin} does not describe a model: {reason}") from None
    except (KeyError, TypeError) as error:
        raise UserError(f"{origin} does not describe a model: {one_line(error)}") from None


def write_export(
    folder: Folder,
    shape: ModelShape,
    tensors: Mapping[str, Tensor],
    vocabulary: GeneVocabulary,
    graph: GeneGraph,
    training: Mapping[str, Any],
    overwrite: bool = False,
    train_profiles: TrainProfiles | None = None,
) -> None:
    """Write an export; ``tensors`` is a state dict with the released names. The marker, config.json, comes last.

    Without ``train_profiles``, because the corpus is gone, those that an earlier export of the same corpus left stay.
    Raises UserError, and changes nothing, where :func:`require_place` does.
    """
    graph.require_vocabulary(vocabulary)
    require_place(folder, training, overwrite)
    folder.write_text(WRITING_FILE, json.dumps({"export_of": _origin(training)}) + "\n")
    folder.remove(CONFIG_FILE)
    # contiguous copies: safetensors refuses shared storage, which ProjectionUpdater's second names are
    weights = save_tensors({name: tensor.clone() for name, tensor in tensors.items()})
    folder.write_bytes(WEIGHTS_FILE, weights)
    sink = pa.BufferOutputStream()
    pq.write_table(vocabulary.to_arrow(), sink, compression="zstd")
    folder.write_bytes(GENES_FILE, sink.getvalue().to_pybytes())
    graph.write(folder)
    if train_profiles is not None:
        folder.write_bytes(TRAIN_PROFILES_FILE, train_profiles.to_bytes())
    elif not _has_train_profiles_of(folder, training.get("corpus")):
        folder.remove(TRAIN_PROFILES_FILE)
    folder.write_text(CARD_FILE, _model_card(shape, vocabulary, graph, training))
    config = {
        "format_version": FORMAT_VERSION,
        "model": shape.model_dump(mode="json"),
        "vocabulary_sha256": vocabulary.fingerprint,
        "graph_sha256": graph.fingerprint,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "training": dict(training),
    }
    folder.write_text(CONFIG_FILE, json.dumps(config, indent=2) + "\n")
    folder.remove(WRITING_FILE)


def _has_train_profiles_of(folder: Folder, corpus: object) -> bool:
    """Whether the folder has train profiles of the corpus of this fingerprint, from an earlier export."""
    try:
        content = folder.read_bytes(TRAIN_PROFILES_FILE)
        return TrainProfiles.from_bytes(content, TRAIN_PROFILES_FILE).corpus == corpus
    except (FileNotFoundError, UserError):
        return False


def require_place(folder: Folder, training: Mapping[str, Any], overwrite: bool) -> None:
    """Raise UserError unless an export may be written to ``folder``.

    That is a folder that is new or empty, or holds an export of the same origin (the same run, or the same released
    file), finished or interrupted; with ``overwrite``, an export of any origin. Nothing else is ever overwritten.
    """
    if folder.is_local and Path(folder.path).is_file():
        raise UserError(f"{folder.uri} is a file: choose another folder", exit_code=2)
    names = [name for name in folder.children() if not name.startswith(".")]
    found = _parsed(folder, CONFIG_FILE) if CONFIG_FILE in names else _parsed(folder, WRITING_FILE)
    if not names or (overwrite and _is_half_an_export(names)):
        return
    if not found.keys() & {"vocabulary_sha256", "export_of"}:
        raise UserError(
            f"{folder.uri} is not empty and holds no model export ({', '.join(names[:3])}): choose another folder",
            exit_code=2,
        )
    recorded = found["export_of"] if "export_of" in found else found.get("training")
    there = _origin(recorded) if isinstance(recorded, dict) else {}
    if not overwrite and not _same_origin(there, _origin(training)):
        raise UserError(
            f"{folder.uri} holds the export of {there.get('run') or there.get('imported_from') or 'another model'}: "
            "choose another folder, or give --overwrite",
            exit_code=2,
        )


def _origin(training: Mapping[str, Any]) -> dict[str, Any]:
    return {key: training[key] for key in ("run", "run_uid", "imported_from") if key in training}


def _same_origin(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """By all that both say: the first version recorded no uid, and names can be used again."""
    return one.keys() - {"run_uid"} == other.keys() - {"run_uid"} and all(
        one[key] == other[key] for key in one.keys() & other.keys()
    )


def _is_half_an_export(names: Sequence[str]) -> bool:
    """Whether a folder may be what an interrupted export of the first version left, which had no marker."""
    return WEIGHTS_FILE in names and {*names} <= {WEIGHTS_FILE, GENES_FILE, GRAPH_FILE, CARD_FILE}


def _parsed(folder: Folder, name: str) -> dict[str, Any]:
    """The mapping in a JSON file; empty where there is none."""
    try:
        content = json.loads(folder.read_bytes(name))
    except (FileNotFoundError, ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        return {}
    return content if isinstance(content, dict) else {}


def read_tensors(folder: Folder, name: str, sha256: str | None = None) -> dict[str, Tensor]:
    """Tensors of a safetensors file. Raises UserError where it is missing, damaged, or has another checksum."""
    try:
        content = folder.read_bytes(name)
        if sha256 not in (None, hashlib.sha256(content).hexdigest()):
            raise UserError(
                f"{folder.uri}/{name} is damaged, or not the one that was exported: its checksum is another"
            )
        return load_tensors(content)
    except FileNotFoundError:
        raise UserError(f"{folder.uri}/{name} is missing") from None
    except (SafetensorError, KeyError, TypeError) as error:
        # a KeyError for kinds of numbers that torch has not, a TypeError for sizes beyond what it counts
        raise UserError(f"{folder.uri}/{name} is damaged: {one_line(error)}") from None


def require_size(shape: ModelShape, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Raise UserError where a model of this shape has more numbers than the tensors hold.

    To be called before anything is built for a shape that came from a file: it may say any numbers, and tensors cannot
    be larger than their file.
    """
    held = sum(tensor.numel() for tensor in tensors.values())
    if held < shape.fewest_numbers:
        sizes = ", ".join(
            f"{name} {getattr(shape, name):,}" for name in ("genes", "dim", "blocks", "performer_layers", "heads")
        )
        raise UserError(
            f"{origin} does not fit the model: it holds {held:,} numbers, and a model of {sizes} has at least "
            f"{shape.fewest_numbers:,}"
        )


def require_tensors(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], origin: str) -> None:
    """Raise UserError, with counts and examples, unless names, shapes and kinds are the expected ones.

    Where floating-point numbers are expected, any precision will do, and all have to be finite.
    """
    common = [name for name in expected if name in tensors]
    misshapen = [name for name in common if tensors[name].shape != expected[name].shape]
    alien = [name for name in common if not _is_kind_of(tensors[name], expected[name])]
    # shape and kind first: of any others it cannot be asked
    broken = [] if misshapen or alien else [name for name in common if _overflows(tensors[name])]
    problems = [
        _examples("missing", [name for name in expected if name not in tensors]),
        _examples("unknown", [name for name in tensors if name not in expected]),
        _examples(
            "of another shape",
            [f"{name} {tuple(tensors[name].shape)} instead of {tuple(expected[name].shape)}" for name in misshapen],
        ),
        _examples("of another kind", [f"{name} {_kind(tensors[name])}" for name in alien]),
        _examples("with NaN or infinite numbers", broken),
    ]
    if any(problems):
        raise UserError(f"{origin} does not fit the model: {'; '.join(filter(None, problems))}")


def load_strictly(model: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Load tensors by name and shape, all of them and no others. Raises UserError as :func:`require_tensors` does."""
    require_tensors(model.state_dict(), tensors, origin)
    model.load_state_dict(dict(tensors), strict=True)


def _examples(what: str, names: list[str]) -> str:
    if not names:
        return ""
    return f"{len(names)} tensors {what}, e.g. {', '.join(names[:3])}"


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _is_kind_of(tensor: Tensor, expected: Tensor) -> bool:
    return tensor.dtype in _FLOATS if expected.dtype in _FLOATS else tensor.dtype == expected.dtype


def _overflows(tensor: Tensor) -> bool:
    """Whether a number is not finite, or would not be in single precision."""
    return tensor.is_floating_point() and not bool(tensor.float().isfinite().all())


def _read_vocabulary(folder: Folder) -> GeneVocabulary:
    try:
        return GeneVocabulary.from_arrow(pq.read_table(pa.BufferReader(folder.read_bytes(GENES_FILE))))
    except FileNotFoundError:
        raise UserError(f"{folder.uri}/{GENES_FILE} is missing") from None
    except (pa.ArrowException, KeyError, OSError) as error:
        raise UserError(f"{folder.uri}/{GENES_FILE} is damaged: {one_line(error)}") from None


def _model_card(shape: ModelShape, vocabulary: GeneVocabulary, graph: GeneGraph, training: Mapping[str, Any]) -> str:
    facts = {
        "family": shape.family,
        "genes": f"{vocabulary.size:,} (vocabulary SHA-256 {vocabulary.fingerprint[:16]})",
        "hidden width": shape.dim,
        "blocks x Performer layers": f"{shape.blocks} x {shape.performer_layers}",
        "attention heads": shape.heads,
        "gene identity": shape.gene_identity,
        "gene graph": f"{graph.edges:,} edges",
    }
    if shape.prior_rank:
        facts["linear prior"] = (
            f"{shape.prior_rank} component{'s' * (shape.prior_rank > 1)}{', rectified at zero' * shape.prior_rectified}"
        )
    # the settings are in config.json in full; here only what a reader wants at a glance
    facts |= {key: value for key, value in training.items() if not isinstance(value, dict | list)}
    # what is trained here is as its corpus is
    units = (
        f" TPM of these weights is a share of {TPM_OVER[shape.traits.tpm_over]}." if "imported_from" in training else ""
    )
    table = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    return f"""# BulkFormer export

Input: log1p(TPM) of {vocabulary.size:,} genes in the order of `{GENES_FILE}`, NaN where a gene is masked or not
measured.{units} Output: {shape.embedding_width} numbers per gene before the head, {shape.sample_width} per sample, and
expression, log1p(TPM).

| | |
|---|---|
{table}

```python
from pretrain.model import BulkFormer

model = BulkFormer.from_pretrained("PATH_OR_S3_ADDRESS_OF_THIS_FOLDER")
output = model(expression)  # B x G float tensor
```

Weights are safetensors with the parameter names of the released checkpoints.
"""
