"""The principal protein of each gene, from a FASTA file of GENCODE or Ensembl."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass

from dataprep.runtime.command_line import UserError
from dataprep.sources.gene_annotation import plain_gene, plain_transcript
from dataprep.sources.text_files import first_text, read_decompressed

# >ENSP00000409543.2 pep chromosome:GRCh38:... gene:ENSG00000185972.4 transcript:ENST00000432976.2 ...
_ENSEMBL = re.compile(r"(?P<protein>\S+) pep .*\bgene:(?P<gene>\S+).*\btranscript:(?P<transcript>\S+)")
# >ENSP00000493376.2|ENST00000641515.2|ENSG00000186092.7|...
_GENCODE = re.compile(r"(?P<protein>ENSP[^|]*)\|(?P<transcript>ENST[^|]*)\|(?P<gene>ENSG[^|]*)(\|.*)?")
# The letters of amino acids, with those for several and the two rare ones.
_RESIDUES = re.compile(r"[A-Z]+")
_MANE_COLUMNS = ("Ensembl_Gene", "Ensembl_nuc", "MANE_status")


@dataclass(frozen=True)
class Protein:
    """A protein of a gene; ids are without versions."""

    gene: str
    transcript: str
    name: str
    sequence: str


def principal_proteins(fasta: str, mane: str | None) -> dict[str, Protein]:
    """One protein for each gene of a FASTA file: of its MANE Select transcript, where a table of those is given and
    names one of the file's, else its longest; of equally long ones the first by name.

    Raises :class:`UserError` for a file without such proteins.
    """
    selected = read_mane(mane) if mane is not None else {}
    best: dict[str, tuple[tuple[bool, int, str], Protein]] = {}
    for protein in read_proteins(fasta):
        rank = (selected.get(protein.gene) != protein.transcript, -len(protein.sequence), protein.name)
        if protein.gene not in best or rank < best[protein.gene][0]:
            best[protein.gene] = rank, protein
    return {gene: protein for gene, (_, protein) in best.items()}


def read_proteins(fasta: str) -> Iterator[Protein]:
    """All proteins of a FASTA file, plain or compressed. Raises :class:`UserError` for headers of another kind, and
    sequences that are not of amino acids."""
    text = io.StringIO(first_text(fasta, read_decompressed(fasta), "utf-8"))
    if not text.read(1).startswith(">"):
        raise UserError(f"{fasta} is not a FASTA file: it does not begin with '>'")
    text.seek(0)
    header = ""
    parts: list[str] = []
    for line in text:
        if line.startswith(">"):
            if header:
                yield _protein(fasta, header, "".join(parts))
            header, parts = line[1:].strip(), []
        else:
            parts.append(line.strip())
    yield _protein(fasta, header, "".join(parts))


def read_mane(address: str) -> dict[str, str]:
    """The MANE Select transcript of each gene, from NCBI's ``MANE.GRCh38.*.summary.txt``."""
    lines = csv.reader(io.StringIO(first_text(address, read_decompressed(address), "utf-8")), delimiter="\t")
    header = [name.lstrip("#").strip() for name in next(lines, [])]
    absent = [name for name in _MANE_COLUMNS if name not in header]
    if absent:
        raise UserError(f"{address} is no summary of MANE: no column {', '.join(absent)}")
    gene, transcript, status = (header.index(name) for name in _MANE_COLUMNS)
    rows = [row for row in lines if len(row) > max(gene, transcript, status)]
    return {plain_gene(row[gene]): plain_transcript(row[transcript]) for row in rows if row[status] == "MANE Select"}


def _protein(fasta: str, header: str, sequence: str) -> Protein:
    found = _GENCODE.fullmatch(header) or _ENSEMBL.match(header)
    if found is None:
        raise UserError(
            f"{fasta}: no gene and transcript in the header {header[:80]!r}; GENCODE's pc_translations and Ensembl's "
            f"pep are read"
        )
    residues = sequence.rstrip("*").replace("*", "X").upper()
    if not _RESIDUES.fullmatch(residues):
        raise UserError(f"{fasta}: the sequence of {found['protein']} is not of amino acids: {sequence[:30]!r}")
    return Protein(plain_gene(found["gene"]), plain_transcript(found["transcript"]), found["protein"], residues)
