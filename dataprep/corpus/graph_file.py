"""The gene graph, and its file ``gene_graph.parquet`` in a corpus or an export."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dataprep.genes.vocabulary import GeneVocabulary
from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder

GRAPH_FILE = "gene_graph.parquet"


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

    def require_vocabulary(self, vocabulary: GeneVocabulary) -> None:
        """Raise :class:`UserError` where the graph is over other genes."""
        if self.vocabulary_sha256 != vocabulary.fingerprint:
            raise UserError(
                f"the gene graph is over vocabulary {self.vocabulary_sha256[:12]}, not {vocabulary.fingerprint[:12]}"
            )

    def write(self, folder: Folder, name: str = GRAPH_FILE) -> None:
        """Write columns src, dst, weight as Parquet; vocabulary and origin go into the schema's metadata."""
        metadata = {"vocabulary_sha256": self.vocabulary_sha256, "origin": json.dumps(self.origin, sort_keys=True)}
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
        try:
            table = pq.read_table(pa.BufferReader(folder.read_bytes(name)))
        except FileNotFoundError:
            raise UserError(f"{folder.uri}/{name} is missing") from None
        except pa.ArrowInvalid as error:
            raise UserError(f"{folder.uri}/{name} is damaged: {' '.join(str(error).split())}") from None
        metadata = table.schema.metadata or {}
        return cls(
            source=table.column("src").to_numpy(),
            target=table.column("dst").to_numpy(),
            weight=table.column("weight").to_numpy(),
            vocabulary_sha256=metadata.get(b"vocabulary_sha256", b"").decode(),
            origin=json.loads(metadata.get(b"origin", b"{}")),
        )
