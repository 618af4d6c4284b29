"""The gene graph, and its file ``gene_graph.parquet`` in a corpus or an export."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dataprep.corpus.tables import read_table
from dataprep.genes.vocabulary import GeneVocabulary
from dataprep.runtime.command_line import UserError, one_line
from dataprep.runtime.storage import Folder

GRAPH_FILE = "gene_graph.parquet"
_COLUMNS = ("src", "dst", "weight")


@dataclass(frozen=True, eq=False)
class GeneGraph:
    """E weighted edges between genes, given by their column in the vocabulary; messages go source -> target.

    ``source`` and ``target`` are int32 [E], ``weight`` is float32 [E]. ``vocabulary_sha256`` is the fingerprint of the
    vocabulary the columns belong to; ``origin`` says how the graph was made.
    """

    source: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    vocabulary_sha256: str = ""
    origin: dict[str, Any] = field(default_factory=dict)

    @property
    def edges(self) -> int:
        """E."""
        return len(self.weight)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what a model takes from the graph: edges, weights and the genes that the edges join."""
        digest = hashlib.sha256(self.vocabulary_sha256.encode())
        for values, kind in ((self.source, "<i4"), (self.target, "<i4"), (self.weight, "<f4")):
            digest.update(np.ascontiguousarray(values, kind).tobytes())
        return digest.hexdigest()

    def require_vocabulary(self, vocabulary: GeneVocabulary) -> None:
        """Raise :class:`UserError` where the graph is over other genes, or its edges are none between these."""
        if self.vocabulary_sha256 != vocabulary.fingerprint:
            raise UserError(
                f"the gene graph is over vocabulary {self.vocabulary_sha256[:12]}, not {vocabulary.fingerprint[:12]}"
            )
        inside = [(genes >= 0) & (genes < vocabulary.size) for genes in (self.source, self.target)]
        wrong = self.edges - np.count_nonzero(inside[0] & inside[1] & np.isfinite(self.weight))
        if wrong:
            raise UserError(
                f"the gene graph is damaged: {wrong:,} of {self.edges:,} edges name genes beyond the "
                f"{vocabulary.size:,} of the vocabulary, or have no finite weight"
            )

    def write(self, folder: Folder, name: str = GRAPH_FILE) -> None:
        """Write columns src, dst, weight as Parquet; the schema's metadata has fingerprint, vocabulary and origin."""
        metadata = {
            "fingerprint": self.fingerprint,
            "vocabulary_sha256": self.vocabulary_sha256,
            "origin": json.dumps(self.origin, sort_keys=True),
        }
        columns = {
            "src": pa.array(self.source, pa.int32()),
            "dst": pa.array(self.target, pa.int32()),
            "weight": pa.array(self.weight, pa.float32()),
        }
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(columns, metadata=metadata), sink, compression="zstd")
        folder.write_bytes(name, sink.getvalue().to_pybytes())

    @classmethod
    def read(cls, folder: Folder, name: str = GRAPH_FILE) -> GeneGraph:
        """Read what :meth:`write` wrote. Raises :class:`UserError` where it is missing or damaged."""
        table = read_table(folder, name)
        missing = [column for column in _COLUMNS if column not in table.column_names]
        if missing:
            raise UserError(f"{folder.uri}/{name} is not a gene graph: it has no column {', '.join(missing)}")
        metadata = table.schema.metadata or {}
        try:
            graph = cls(
                source=table.column("src").cast(pa.int32()).to_numpy(),
                target=table.column("dst").cast(pa.int32()).to_numpy(),
                weight=table.column("weight").cast(pa.float32()).to_numpy(),
                vocabulary_sha256=metadata.get(b"vocabulary_sha256", b"").decode(),
                origin=json.loads(metadata.get(b"origin", b"{}")),
            )
            # graphs written by the first version do not say their fingerprint
            expected = metadata.get(b"fingerprint", graph.fingerprint.encode()).decode()
        except (pa.ArrowException, ValueError) as error:
            raise UserError(f"{folder.uri}/{name} is damaged: {one_line(error)}") from None
        if graph.fingerprint != expected:
            raise UserError(
                f"{folder.uri}/{name} is damaged: its fingerprint should be {expected[:12]} and is "
                f"{graph.fingerprint[:12]}"
            )
        return graph
