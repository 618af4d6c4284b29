"""What ``evaluation embed`` computes of a batch of profiles, by level. B profiles, G' chosen genes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dataprep.genes.vocabulary import GeneVocabulary
from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder, split_file_address
from evaluation.config import EmbedSettings
from evaluation.inference.embedder import Embedder
from evaluation.inference.gene_choice import chosen_columns

# The tensor of a protein embedding file: one row per gene of the vocabulary.
PROTEIN_TENSOR = "gene_embedding"


@dataclass(frozen=True)
class Content:
    """What is written for each profile: ``compute`` gives it, ``column`` names it, ``width`` is its last dimension.

    ``gene_ids``: the genes that it is about, in order.
    """

    column: str
    width: int
    gene_ids: tuple[str, ...]
    compute: Callable[[np.ndarray], np.ndarray]


def open_embedder(settings: EmbedSettings) -> Embedder:
    return Embedder.open(settings.model, settings.kernel, settings.precision, settings.batch_size, settings.compile)


def content_of(settings: EmbedSettings, embedder: Embedder) -> Content:
    """What the level asks for. Raises UserError for genes or protein embeddings that do not fit the model."""
    vocabulary = embedder.vocabulary
    columns = chosen_columns(settings.genes, vocabulary) if settings.genes else None
    ids = vocabulary.ensembl_ids
    gene_ids = ids if columns is None else tuple(ids[column] for column in columns.tolist())
    if settings.level == "sample":
        return Content(
            "embedding",
            embedder.width,
            gene_ids,
            lambda batch: embedder.embed_samples(batch, settings.pooling, columns),
        )
    if settings.level == "gene":
        if settings.protein_embeddings is None:
            return Content("embedding", embedder.width, gene_ids, lambda batch: embedder.embed_genes(batch, columns))
        return _with_proteins(settings.protein_embeddings, embedder, columns, gene_ids)
    chosen = slice(None) if columns is None else columns.numpy()
    return Content("expression", len(gene_ids), gene_ids, lambda batch: embedder.reconstruct(batch)[:, chosen])


def _with_proteins(address: str, embedder: Embedder, columns: Tensor | None, gene_ids: tuple[str, ...]) -> Content:
    """Gene embeddings with those of the genes' proteins beside them, B x G' x (D + 3 + P), as published."""
    proteins_GP = read_protein_embeddings(address, embedder.vocabulary)
    if columns is not None:
        proteins_GP = proteins_GP[columns.numpy()]

    def compute(batch: np.ndarray) -> np.ndarray:
        genes_BGW = embedder.embed_genes(batch, columns)
        proteins_BGP = np.broadcast_to(proteins_GP, (len(batch), *proteins_GP.shape))
        return np.concatenate([genes_BGW, proteins_BGP], axis=2)

    return Content("embedding", embedder.width + proteins_GP.shape[1], gene_ids, compute)


def read_protein_embeddings(address: str, vocabulary: GeneVocabulary) -> np.ndarray:
    """float32 G x P from a safetensors file. Raises UserError where it is none, or over other genes."""
    folder, name = split_file_address(address)
    with tempfile.TemporaryDirectory(prefix="proteins-") as room:
        path = Path(room) / "proteins.safetensors"
        try:
            Folder(folder).download(name, path)
            with safe_open(path, framework="pt") as file:
                if PROTEIN_TENSOR not in file.keys():  # noqa: SIM118 - a safetensors file is no mapping
                    raise UserError(f"{address} holds no tensor {PROTEIN_TENSOR!r}")
                table: Tensor = file.get_tensor(PROTEIN_TENSOR)
                fingerprint = (file.metadata() or {}).get("vocabulary_sha256", vocabulary.fingerprint)
        except FileNotFoundError:
            raise UserError(f"no such file: {address}", exit_code=2) from None
        except SafetensorError as error:
            raise UserError(f"{address} is no safetensors file: {error}") from None
    if table.ndim != 2 or len(table) != vocabulary.size or fingerprint != vocabulary.fingerprint:
        raise UserError(
            f"{address}: {tuple(table.shape)} is not one row for each of the model's {vocabulary.size:,} genes"
        )
    return table.to(torch.float32).numpy()
