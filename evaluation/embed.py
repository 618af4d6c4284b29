"""``evaluation embed``: profiles of a corpus or an ``.h5ad`` file through a model, streamed into a file."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from dataprep.command_line import UserError
from dataprep.config import SourceSettings
from dataprep.corpus import open_corpus
from evaluation.config import EmbedSettings
from evaluation.embedding_file import AnnDataWriter, ParquetWriter, genes_metadata, whole_file
from evaluation.gene_choice import chosen_columns
from evaluation.inference import Embedder, require_same_vocabulary
from evaluation.profiles import ProfileStream, corpus_stream, h5ad_stream, splits_named
from evaluation.progress import event, tracked


@dataclass(frozen=True)
class Content:
    """What is written for each profile: ``compute`` gives it, ``column`` names it, ``width`` is its last dimension."""

    column: str
    width: int
    compute: Callable[[np.ndarray], np.ndarray]


def embed(settings: EmbedSettings) -> dict[str, Any]:
    """Write embeddings and return what was written. Raises UserError before anything is written where inputs are wrong
    at first sight; nothing half-written stays in any case."""
    embedder = Embedder.open(settings.model, settings.kernel, settings.precision, settings.batch_size)
    columns = chosen_columns(settings.genes, embedder.vocabulary) if settings.genes else None
    stream = open_stream(settings, embedder)
    content = content_of(settings, embedder, columns)
    event(f"embedding on {embedder.device.type}, {embedder.batch_size} profiles in a batch")
    with whole_file(settings.output) as path, _writer(settings, path, embedder, columns, stream, content) as writer:
        names = iter(stream.sample_ids)
        batches = ((size, batch) for size, batch in stream.batches(embedder.batch_size))
        for batch in tracked(batches, len(stream.sample_ids), "embedding"):
            writer.write(list(itertools.islice(names, len(batch))), content.compute(batch))
    return {
        "output": settings.output,
        "profiles": len(stream.sample_ids),
        "level": settings.level,
        "width": content.width,
    }


def open_stream(settings: EmbedSettings, embedder: Embedder) -> ProfileStream:
    """The profiles to embed. Raises UserError where their genes are not the model's, or there are none."""
    if settings.reads_h5ad:
        assert settings.units is not None  # the settings ask for it
        source = SourceSettings(
            name=settings.input,
            path=settings.input,
            format="h5ad",
            gene_id="ensembl",
            units=settings.units,
            layer=settings.layer,
            gene_column=settings.gene_column,
            study="embedded",
        )
        return h5ad_stream(settings.input, source, embedder.vocabulary)
    corpus = open_corpus(settings.input)
    require_same_vocabulary(embedder.vocabulary, corpus.vocabulary, corpus.folder.uri)
    stream = corpus_stream(corpus, splits_named(settings.split))
    if not stream.sample_ids:
        raise UserError(f"{settings.input}: the {settings.split} split has no profiles")
    return stream


def content_of(settings: EmbedSettings, embedder: Embedder, columns: Tensor | None) -> Content:
    """What the level asks for."""
    if settings.level == "sample":
        return Content(
            "embedding", embedder.width, lambda batch: embedder.embed_samples(batch, settings.pooling, columns)
        )
    if settings.level == "gene":
        return Content("embedding", embedder.width, lambda batch: embedder.embed_genes(batch, columns))
    chosen = slice(None) if columns is None else columns.numpy()
    genes = embedder.vocabulary.size if columns is None else len(columns)
    return Content("expression", genes, lambda batch: embedder.reconstruct(batch)[:, chosen])


def _writer(
    settings: EmbedSettings,
    path: Path,
    embedder: Embedder,
    columns: Tensor | None,
    stream: ProfileStream,
    content: Content,
) -> AbstractContextManager[ParquetWriter | AnnDataWriter]:
    ids = embedder.vocabulary.ensembl_ids
    gene_ids = ids if columns is None else tuple(ids[column] for column in columns.tolist())
    metadata = {
        "level": settings.level,
        "model": settings.model,
        "vocabulary_sha256": embedder.vocabulary.fingerprint,
        **({"pooling": settings.pooling} if settings.level == "sample" else {}),
    }
    if settings.output.endswith(".h5ad"):
        names = gene_ids if settings.level == "expression" else [f"embedding_{n}" for n in range(content.width)]
        return AnnDataWriter(path, stream.sample_ids, names, metadata)
    if settings.level == "gene":
        return ParquetWriter(path, content.column, content.width, metadata, gene_ids)
    if settings.level == "expression":
        metadata["genes"] = genes_metadata(gene_ids)
    return ParquetWriter(path, content.column, content.width, metadata)
