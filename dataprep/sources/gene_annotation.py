"""Which gene a transcript belongs to and how long genes are, from a GTF file or a table that a source names."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping

from dataprep.genes.identifiers import strip_version
from dataprep.runtime.command_line import UserError
from dataprep.sources.text_files import delimiter_of, first_text, read_decompressed

_GENE_ID = re.compile(r'\bgene_id "?([^";]+)')
_TRANSCRIPT_ID = re.compile(r'\btranscript_id "?([^";]+)')
_VERSION = re.compile(r"\.\d+(_PAR_Y)?$")
# What a header may call a length, in lower case; otherwise the second column is it.
_LENGTH_NAMES = ("length", "length_bp", "gene_length", "gene_length_bp", "exon_length", "merged")


def plain_transcript(name: str) -> str:
    """ENST00000456328 from ENST00000456328.2, also where more follows after a bar, as in GENCODE's FASTA."""
    return _VERSION.sub("", name.strip().partition("|")[0])


def plain_gene(name: str) -> str:
    """An Ensembl id without its version; other names as they are."""
    return strip_version(name.strip()) if name.startswith("ENS") else name.strip()


def read_transcripts(address: str) -> Mapping[str, str]:
    """The gene of each transcript, by names without versions.

    A table has the transcript in its first column and the gene in its second; a header does no harm.
    Raises :class:`UserError` for files of another kind, and where a transcript is of several genes.
    """
    gene_of: dict[str, str] = {}
    for transcript, gene in _transcripts(address):
        known = gene_of.setdefault(plain_transcript(transcript), plain_gene(gene))
        if known != plain_gene(gene):
            raise UserError(f"{address}: transcript {transcript} is of two genes, {known} and {plain_gene(gene)}")
    if not gene_of:
        raise UserError(f"{address} names no transcripts with their genes")
    return gene_of


def read_gene_lengths(address: str) -> Mapping[str, float]:
    """The length of each gene in bp, by names without versions: of a GTF the bases that are in any exon of the gene.

    A table has the gene in its first column and the length in one called so, or else in its second.
    Raises :class:`UserError` for files of another kind, and lengths that are not positive.
    """
    lines = _lines(address)
    first, lines = _peeked(lines)
    lengths = _exon_unions(lines) if _is_gtf(first) else _table_lengths(address, first, lines)
    if not lengths:
        raise UserError(f"{address} has no lengths of genes")
    return lengths


def _transcripts(address: str) -> Iterator[tuple[str, str]]:
    first, lines = _peeked(_lines(address))
    if _is_gtf(first):
        for _, attributes in _features(lines, ("transcript", "exon", "mRNA")):
            transcript, gene = _TRANSCRIPT_ID.search(attributes), _GENE_ID.search(attributes)
            if transcript and gene:
                yield transcript[1], gene[1]
        return
    for number, row in enumerate(csv.reader(lines, delimiter=_delimiter(address, first)), 1):
        if len(row) < 2 or not (row[0].strip() and row[1].strip()):
            raise UserError(f"{address}: line {number:,} has no transcript and gene, but {','.join(row)[:60]!r}")
        yield row[0], row[1]


def _table_lengths(address: str, first: str, lines: Iterator[str]) -> dict[str, float]:
    lengths: dict[str, float] = {}
    rows = csv.reader(lines, delimiter=_delimiter(address, first))
    column = 1
    for number, row in enumerate(rows, 1):
        length = _positive(row[column]) if len(row) > column else None
        if length is None and number == 1:
            named = [name.strip().lower() for name in row]
            column = next((named.index(name) for name in _LENGTH_NAMES if name in named), 1)
            continue
        if length is None:
            raise UserError(f"{address}: line {number:,} has no gene and positive length, but {','.join(row)[:60]!r}")
        gene = plain_gene(row[0])
        if lengths.setdefault(gene, length) != length:
            raise UserError(f"{address}: gene {gene} has two lengths, {lengths[gene]:g} and {length:g}")
    return lengths


def _exon_unions(lines: Iterator[str]) -> dict[str, float]:
    exons: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for fields, attributes in _features(lines, ("exon",)):
        # the copy of a pseudo-autosomal gene on Y is as long as the one on X, and not to be added to it
        if (gene := _GENE_ID.search(attributes)) and not gene[1].endswith("_PAR_Y"):
            exons[plain_gene(gene[1])].append((int(fields[3]), int(fields[4])))
    return {gene: float(_union_bases(intervals)) for gene, intervals in exons.items()}


def _union_bases(intervals: list[tuple[int, int]]) -> int:
    """Bases in any of some closed intervals."""
    bases, end = 0, 0
    for start, stop in sorted(intervals):
        bases += max(0, stop - max(start - 1, end))
        end = max(end, stop)
    return bases


def _features(lines: Iterator[str], kinds: tuple[str, ...]) -> Iterator[tuple[list[str], str]]:
    for line in lines:
        fields = line.split("\t")
        if len(fields) >= 9 and fields[2] in kinds and fields[3].isdigit() and fields[4].isdigit():
            yield fields, fields[8]


def _is_gtf(first: str) -> bool:
    fields = first.split("\t")
    return len(fields) >= 9 and fields[3].isdigit() and fields[4].isdigit()


def _lines(address: str) -> Iterator[str]:
    """The lines of a text file without empty ones and comments."""
    content = read_decompressed(address)
    text = first_text(address, content, "utf-8")
    return (line.rstrip("\r\n") for line in io.StringIO(text) if line.strip() and not line.startswith("#"))


def _peeked(lines: Iterator[str]) -> tuple[str, Iterator[str]]:
    first = next(lines, "")
    return first, itertools.chain([first] if first else [], lines)


def _delimiter(address: str, first: str) -> str:
    return "\t" if "\t" in first else "," if "," in first else delimiter_of(address)


def _positive(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 < number < float("inf") else None
