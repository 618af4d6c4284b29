"""What ``evaluation embed`` computes of a batch of profiles, by level. B profiles, G' chosen genes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from evaluation.config import EmbedSettings
from evaluation.inference.embedder import Embedder
from evaluation.inference.gene_choice import chosen_columns
from pretrain.model.protein_embeddings import read_protein_embeddings


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
            embedder.sample_width,
            gene_ids,
            lambda batch: embedder.embed_samples(batch, settings.pooling, columns),
        )
    if settings.level == "gene":
        if settings.protein_embeddings is None:
            return Content(
                "embedding", embedder.gene_width, gene_ids, lambda batch: embedder.embed_genes(batch, columns)
            )
        return _with_proteins(settings.protein_embeddings, embedder, columns, gene_ids)
    chosen = slice(None) if columns is None else columns.numpy()
    return Content("expression", len(gene_ids), gene_ids, lambda batch: embedder.reconstruct(batch)[:, chosen])


def _with_proteins(address: str, embedder: Embedder, columns: Tensor | None, gene_ids: tuple[str, ...]) -> Content:
    """Gene embeddings with those of the genes' proteins beside them, B x G' x (D + F + P), as published."""
    proteins_GP = read_protein_embeddings(address, embedder.vocabulary).numpy()
    if columns is not None:
        proteins_GP = proteins_GP[columns.numpy()]

    def compute(batch: np.ndarray) -> np.ndarray:
        genes_BGW = embedder.embed_genes(batch, columns)
        proteins_BGP = np.broadcast_to(proteins_GP, (len(batch), *proteins_GP.shape))
        return np.concatenate([genes_BGW, proteins_BGP], axis=2)

    return Content("embedding", embedder.gene_width + proteins_GP.shape[1], gene_ids, compute)
