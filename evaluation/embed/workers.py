"""Embedding by many workers: row groups of a corpus through a pool of Ray Data actors, results back in order."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch

from dataprep.corpus import Corpus, decode_expression, open_corpus, read_row_groups
from dataprep.runtime.command_line import UserError
from dataprep.runtime.ray_session import connected, user_error_in
from dataprep.runtime.storage import Folder
from evaluation.config import EmbedSettings
from evaluation.embed.content import content_of, open_embedder
from evaluation.inference.gene_choice import names_a_file
from evaluation.inference.profiles import splits_named


class EmbeddingWorker:
    """An actor with a model of its own. Takes numbers of row groups, gives the content of their profiles."""

    def __init__(self, settings: EmbedSettings, threads: int) -> None:
        if not torch.cuda.is_available():
            torch.set_num_threads(threads)
        self._embedder = open_embedder(settings).load()
        self._content = content_of(settings, self._embedder)
        self._corpus = open_corpus(settings.input)
        self._groups = row_groups(settings, self._corpus)

    def __call__(self, numbers: pa.Table) -> pa.Table:
        """A column ``values`` of float32 bytes, one entry per profile, in order of row id."""
        parts = []
        for number in numbers.column("id").to_pylist():
            shard, group = self._groups[number]
            table = read_row_groups(self._corpus.folder, shard, (group,))
            expression = decode_expression(table.column("expression"), self._corpus.genes)
            for start in range(0, len(expression), self._embedder.batch_size):
                batch = expression[start : start + self._embedder.batch_size].astype(np.float32)
                parts.append(self._content.compute(batch).reshape(len(batch), -1))
        values = np.concatenate(parts).astype("<f4", copy=False)
        row_type = pa.binary(values.shape[1] * 4)
        buffers = [None, pa.py_buffer(np.ascontiguousarray(values))]
        return pa.table({"values": pa.FixedSizeBinaryArray.from_buffers(row_type, len(values), buffers)})


def row_groups(settings: EmbedSettings, corpus: Corpus) -> list[tuple]:
    """(shard, row group) of all that is to be embedded, in order of row id."""
    shards = corpus.shards(*splits_named(settings.split))
    return [(shard, group) for shard in shards for group in range(len(shard.row_group_rows))]


def embedded_by_workers(settings: EmbedSettings, corpus: Corpus) -> Iterator[np.ndarray]:
    """Content of the profiles, float32 [n, numbers], in order of row id, as it becomes ready.

    Raises UserError where a worker meets one, or where the cluster cannot hold the workers.
    """
    settings = _absolute(settings)
    with connected(min_cpus=settings.workers + 1):
        gpu = ray.cluster_resources().get("GPU", 0) > 0
        if gpu and settings.workers > ray.cluster_resources()["GPU"]:
            have = ray.cluster_resources()["GPU"]
            raise UserError(f"{settings.workers} workers need as many GPUs, the cluster has {have:g}", exit_code=2)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        count = len(row_groups(settings, corpus))
        threads = max(1, (os.cpu_count() or 1) // settings.workers)
        numbers = ray.data.from_items([{"id": number} for number in range(count)], override_num_blocks=count)
        content = numbers.map_batches(
            EmbeddingWorker,  # type: ignore[arg-type]  # Ray's type names no Arrow table
            fn_constructor_args=(settings, threads),
            batch_size=None,
            batch_format="pyarrow",
            num_gpus=1 if gpu else 0,
            concurrency=settings.workers,
        )
        try:
            for batch in content.iter_batches(batch_size=None, batch_format="pyarrow"):
                assert isinstance(batch, pa.Table)
                for chunk in batch.column("values").chunks:
                    yield _floats(chunk)
        except ray.exceptions.RayError as error:
            raise user_error_in(error) or UserError(f"an embedding worker died: {_first_line(error)}") from None


def _absolute(settings: EmbedSettings) -> EmbedSettings:
    """The same with absolute addresses: workers on a cluster have working directories of their own."""
    given = {"model": settings.model, "input": settings.input, "protein_embeddings": settings.protein_embeddings}
    if settings.genes and names_a_file(settings.genes):
        given["genes"] = settings.genes
    return settings.model_copy(update={name: Folder(address).uri for name, address in given.items() if address})


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _floats(chunk: pa.FixedSizeBinaryArray) -> np.ndarray:
    numbers = chunk.type.byte_width // 4
    flat = np.frombuffer(chunk.buffers()[1], "<f4", len(chunk) * numbers, chunk.offset * chunk.type.byte_width)
    return flat.reshape(len(chunk), numbers)
