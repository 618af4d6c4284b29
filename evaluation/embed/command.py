"""``evaluation embed``: profiles of a corpus or an ``.h5ad`` file through a model, streamed into a file."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from dataprep.corpus import open_corpus
from dataprep.genes.vocabulary import read_aliases
from dataprep.runtime.command_line import UserError
from dataprep.runtime.terminal import log, tracked
from evaluation.config import EmbedSettings, origin_of
from evaluation.embed.content import Content, content_of, open_embedder
from evaluation.embed.embedding_file import (
    AnnDataWriter,
    ParquetWriter,
    genes_metadata,
    require_replaceable,
    whole_file,
)
from evaluation.embed.workers import embedded_by_workers
from evaluation.inference.cohort import h5ad_source, opened_profiles
from evaluation.inference.embedder import Embedder, require_same_vocabulary, say_other_tpm
from evaluation.inference.profiles import ProfileStream, corpus_stream, h5ad_stream, splits_named


def embed(settings: EmbedSettings) -> dict[str, Any]:
    """Write embeddings and return what was written. Raises UserError before anything is written where inputs are wrong
    at first sight; nothing half-written stays in any case."""
    require_replaceable(settings.output)
    if settings.workers:
        # each worker opens the corpus, which may grow meanwhile
        settings = settings.model_copy(update={"input": open_corpus(settings.input).versioned_address})
    embedder = open_embedder(settings)
    if not settings.workers:
        embedder.load()
    content = content_of(settings, embedder)
    where = f"{settings.workers} workers" if settings.workers else embedder.device.type
    with opened_stream(settings, embedder) as stream:
        log(f"embedding on {where}, {embedder.batch_size} profiles in a batch")
        with whole_file(settings.output) as path, _writer(settings, path, embedder, stream, content) as writer:
            names = iter(stream.sample_ids)
            pieces = ((len(piece), piece) for piece in _pieces(settings, embedder, stream, content))
            for piece in tracked(pieces, len(stream.sample_ids), "embedding"):
                writer.write(list(itertools.islice(names, len(piece))), piece)
    log(f"{settings.output}: {len(stream.sample_ids):,} profiles written")
    return {
        "output": settings.output,
        "profiles": len(stream.sample_ids),
        "level": settings.level,
        "width": content.width,
    }


def _pieces(
    settings: EmbedSettings, embedder: Embedder, stream: ProfileStream, content: Content
) -> Iterator[np.ndarray]:
    """Content of the profiles in the order of their names, float32 [n, ...]."""
    if settings.workers:
        shape = (len(content.gene_ids), content.width) if settings.level == "gene" else (content.width,)
        for piece in embedded_by_workers(settings, open_corpus(settings.input)):
            yield piece.reshape(len(piece), *shape)
    else:
        for _, batch in stream.batches(embedder.batch_size):
            yield content.compute(batch)


@contextmanager
def opened_stream(settings: EmbedSettings, embedder: Embedder) -> Iterator[ProfileStream]:
    """The profiles to embed. Raises UserError where their genes are not the model's, or there are none."""
    if origin_of(settings.input) == "h5ad":
        source = h5ad_source(settings.input, settings, "embedded")
        aliases = read_aliases(settings.gene_aliases) if settings.gene_aliases else {}
        yield h5ad_stream(settings.input, source, embedder.vocabulary, aliases, embedder.export.tpm_over)
        return
    with opened_profiles(settings.input, settings, embedder.export) as corpus:
        require_same_vocabulary(embedder.vocabulary, corpus.vocabulary, corpus.address)
        say_other_tpm(embedder.export, corpus)
        stream = corpus_stream(corpus, splits_named(settings.split))
        if not stream.sample_ids:
            raise UserError(f"{settings.input}: the {settings.split} split has no profiles")
        yield stream


def _writer(
    settings: EmbedSettings, path: Path, embedder: Embedder, stream: ProfileStream, content: Content
) -> AbstractContextManager[ParquetWriter | AnnDataWriter]:
    gene_ids = content.gene_ids
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
