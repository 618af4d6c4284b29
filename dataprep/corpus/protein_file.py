"""``gene_embedding.safetensors``: embeddings of the genes' proteins, a row per gene of the vocabulary."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from safetensors.numpy import save

from dataprep.genes.vocabulary import GeneVocabulary
from dataprep.runtime.storage import Folder

PROTEIN_FILE = "gene_embedding.safetensors"
PROTEIN_TENSOR = "gene_embedding"


def write_protein_embeddings(
    folder: Folder, table: np.ndarray, vocabulary: GeneVocabulary, origin: Mapping[str, str]
) -> None:
    """Write float32 [G, width]; the file names its vocabulary by fingerprint, and what it was made of."""
    assert len(table) == vocabulary.size
    metadata = {"vocabulary_sha256": vocabulary.fingerprint} | dict(origin)
    folder.write_bytes(PROTEIN_FILE, save({PROTEIN_TENSOR: np.ascontiguousarray(table, np.float32)}, metadata))
