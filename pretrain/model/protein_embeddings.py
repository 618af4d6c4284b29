"""Protein embeddings of genes (ESM2): a safetensors file with one row for each gene of a vocabulary.

The file holds a tensor ``gene_embedding``, G x P. Its metadata may name the vocabulary by fingerprint
(``vocabulary_sha256``). A corpus that has such embeddings keeps them as ``gene_embedding.safetensors``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dataprep.corpus import Corpus
from dataprep.corpus.protein_file import PROTEIN_FILE, PROTEIN_TENSOR
from dataprep.genes.vocabulary import GeneVocabulary
from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder, split_file_address
from pretrain.shape import ESM2_WIDTH


def read_protein_embeddings(address: str, vocabulary: GeneVocabulary) -> Tensor:
    """Read float32 G x P. Raises UserError where there is no such file, or it is over other genes."""
    table, fingerprint = _read(address)
    if table.ndim != 2 or len(table) != vocabulary.size or fingerprint not in (None, vocabulary.fingerprint):
        raise UserError(
            f"{address}: {tuple(table.shape)} is not one row for each of the model's {vocabulary.size:,} genes"
        )
    return table.to(torch.float32)


def corpus_protein_embeddings(corpus: Corpus) -> Tensor:
    """Read the protein embeddings of a corpus, G x 1280: what the gene table of an ``esm2`` model starts from.

    Raises UserError where the corpus has none, or they are not of its genes, of that width, and finite.
    """
    if not corpus.folder.exists(PROTEIN_FILE):
        raise UserError(
            f"{corpus.folder.uri} has no {PROTEIN_FILE}, with which --model.gene-identity esm2 begins: "
            "add them (python -m dataprep proteins), or train with --model.gene-identity learned"
        )
    address = f"{corpus.folder.uri}/{PROTEIN_FILE}"
    table, fingerprint = _read(address)
    if fingerprint != corpus.vocabulary.fingerprint:
        raise UserError(
            f"{address} is over vocabulary {str(fingerprint)[:12]}, the corpus over "
            f"{corpus.vocabulary.fingerprint[:12]}: make it again for this corpus"
        )
    if table.shape != (corpus.genes, ESM2_WIDTH):
        raise UserError(f"{address} has shape {tuple(table.shape)}, not {(corpus.genes, ESM2_WIDTH)}")
    broken = int((~table.isfinite()).any(dim=1).sum())
    if broken:
        raise UserError(f"{address}: {broken} of {corpus.genes:,} genes have values that are not finite")
    return table.to(torch.float32)


def _read(address: str) -> tuple[Tensor, str | None]:
    """The table, and the fingerprint of its vocabulary if the file names one."""
    folder, name = split_file_address(address)
    with tempfile.TemporaryDirectory(prefix="proteins-") as scratch:
        path = Path(scratch) / "proteins.safetensors"
        try:
            Folder(folder).download(name, path)
            with safe_open(path, framework="pt") as file:
                if PROTEIN_TENSOR not in file.keys():  # noqa: SIM118 - a safetensors file is not a mapping
                    raise UserError(f"{address} holds no tensor {PROTEIN_TENSOR!r}")
                return file.get_tensor(PROTEIN_TENSOR), (file.metadata() or {}).get("vocabulary_sha256")
        except FileNotFoundError:
            raise UserError(f"no such file: {address}", exit_code=2) from None
        except SafetensorError as error:
            raise UserError(f"{address} is not a safetensors file: {error}") from None
