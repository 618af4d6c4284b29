"""The command `dataprep proteins`: embeddings of the genes' proteins, written into a corpus.

Proteins go through Ray Data in batches of about the same length, by actors, one per GPU where there are any.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data

from dataprep.config import ProteinsSettings
from dataprep.corpus import Corpus, open_corpus
from dataprep.corpus.protein_file import PROTEIN_FILE, write_protein_embeddings
from dataprep.proteins.language_model import ProteinEmbedder, embedding_width
from dataprep.proteins.principal import Protein, principal_proteins
from dataprep.runtime.addresses import plain_address
from dataprep.runtime.command_line import UserError
from dataprep.runtime.ray_session import connected, user_error_in
from dataprep.runtime.storage import Folder, split_file_address
from dataprep.runtime.terminal import log, tracked, write_result


def embed_proteins(settings: ProteinsSettings) -> dict[str, Any]:
    """Embed the principal protein of each gene of a corpus, write the table into it, and return a summary.

    A gene without a protein has zeros. Raises :class:`UserError` where too many have none, where the model cannot be
    had, and where the corpus has such a table already.
    """
    corpus = open_corpus(settings.corpus)
    corpus.folder.require_writable(PROTEIN_FILE)
    if corpus.folder.exists(PROTEIN_FILE) and not settings.overwrite:
        raise UserError(f"{corpus.folder.uri} has {PROTEIN_FILE} already; --overwrite replaces it")
    # workers on a cluster have working directories of their own
    model = str(Path(settings.model).resolve()) if Path(settings.model).is_dir() else settings.model
    width = embedding_width(model)
    fasta, mane = plain_address(settings.fasta), plain_address(settings.mane) if settings.mane else None
    proteins = _of_vocabulary(corpus, principal_proteins(fasta, mane), settings)
    table = np.zeros((corpus.genes, width), np.float32)
    for gene, values in _embedded(proteins, model, settings):
        table[gene] = values
    broken = int((~np.isfinite(table)).any(axis=1).sum())
    if broken:
        raise UserError(f"{model} gives {broken:,} of {len(proteins):,} proteins values that are not finite")
    place, name = split_file_address(fasta)
    origin = {"model": settings.model, "fasta": name, "fasta_sha256": Folder(place).sha256(name)}
    write_protein_embeddings(corpus.folder, table, corpus.vocabulary, origin)
    without = corpus.genes - len(proteins)
    write_result(
        f"{len(proteins):,} of {corpus.genes:,} genes have a protein, {width:,} numbers each; {without:,} zeros"
    )
    return {"corpus": corpus.folder.uri, "proteins": len(proteins), "genes": corpus.genes, "width": width}


def batches(proteins: Mapping[int, Protein], most_residues: int, max_residues: int) -> list[dict[str, list[Any]]]:
    """Proteins by column of their gene in batches, longest first, whose padded sequences have at most so many residues.

    A batch has one protein at the least.
    """
    order = sorted(proteins, key=lambda gene: (-len(proteins[gene].sequence), gene))
    made: list[dict[str, list[Any]]] = []
    room = 0
    for gene in order:
        sequence = proteins[gene].sequence
        pieces = -(-len(sequence) // max_residues)
        if room < pieces or not made:
            made.append({"genes": [], "sequences": []})
            room = most_residues // min(len(sequence), max_residues)
        made[-1]["genes"].append(gene)
        made[-1]["sequences"].append(sequence)
        room -= pieces
    return made


def _of_vocabulary(corpus: Corpus, found: Mapping[str, Protein], settings: ProteinsSettings) -> dict[int, Protein]:
    columns = corpus.vocabulary.column_of
    proteins = {columns[gene]: protein for gene, protein in found.items() if gene in columns}
    absent = [gene for gene in corpus.vocabulary.ensembl_ids if gene not in found]
    if len(absent) > settings.max_missing_share * corpus.genes or not proteins:
        raise UserError(
            f"{settings.fasta} has a protein of {len(proteins):,} of the corpus's {corpus.genes:,} genes, not of "
            f"{', '.join(absent[:3])} (setting max_missing_share)"
        )
    if absent:
        log(f"{len(absent):,} genes have no protein in {settings.fasta}, e.g. {', '.join(absent[:3])}")
    return proteins


def _embedded(
    proteins: Mapping[int, Protein], model: str, settings: ProteinsSettings
) -> Iterator[tuple[int, np.ndarray]]:
    work = batches(proteins, settings.batch_residues, settings.max_residues)
    with connected(min_cpus=settings.workers + 1):
        gpu = ray.cluster_resources().get("GPU", 0) > 0
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        threads = max(1, (os.cpu_count() or 1) // settings.workers)
        embedded = ray.data.from_items(work, override_num_blocks=len(work)).map_batches(
            ProteinEmbedder,  # type: ignore[arg-type]  # Ray's type names no Arrow table
            fn_constructor_args=(model, settings.max_residues, threads),
            batch_size=1,
            batch_format="pyarrow",
            num_gpus=1 if gpu else 0,
            concurrency=settings.workers,
        )
        parts = ((len(part), part) for part in embedded.iter_batches(batch_size=None, batch_format="pyarrow"))
        try:
            for part in tracked(parts, len(proteins), "proteins"):
                assert isinstance(part, pa.Table)
                for gene, values in zip(*(part.column(name).to_pylist() for name in ("gene", "values")), strict=True):
                    yield gene, np.frombuffer(values, "<f4")
        except ray.exceptions.RayError as error:
            raise user_error_in(error) or UserError(f"a worker died: {str(error).strip().splitlines()[0]}") from None
