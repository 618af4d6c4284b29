"""From the gene ids of a source to columns of the vocabulary."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np

from dataprep.genes.vocabulary import UNKNOWN_LENGTH_BP, GeneVocabulary, gene_reference
from dataprep.runtime.command_line import UserError

GeneId = Literal["ensembl", "symbol", "symbol_entrez"]

_ENSEMBL = re.compile(r"ENS([A-Z]*)G\d{6,}")
_MOUSE_SYMBOL = re.compile(r"[A-Z][a-z]+[a-z0-9-]*")


@dataclass(frozen=True)
class GeneMapping:
    """Where the S genes of a source go.

    ``columns`` int64 [S] is the vocabulary column or -1; ``lengths_bp`` float64 [S], 1,000 where nobody knows it.
    ``unknown`` genes are in no table; ``merged`` ones share their vocabulary gene with an earlier row and are summed
    with it (pseudo-autosomal copies such as ENSG00000182378.15_PAR_Y, or two names of one gene).
    """

    columns: np.ndarray
    lengths_bp: np.ndarray
    unknown: int
    merged: int

    @property
    def measured(self) -> int:
        """Vocabulary genes that the source measures."""
        return int((self.columns >= 0).sum()) - self.merged


def map_genes(
    where: str,
    gene_ids: Sequence[str],
    kind: GeneId,
    vocabulary: GeneVocabulary,
    aliases: Mapping[str, str] = MappingProxyType({}),
) -> GeneMapping:
    """Map the ids of the source ``where`` to the vocabulary.

    ``aliases`` gives Ensembl ids of names that are no current symbols: former symbols and Entrez numbers.
    Raises :class:`UserError` where ids repeat, are those of a mouse, or are unknown for more than half.
    """
    _require_unique(where, gene_ids)
    known_ids = _ensembl_ids(gene_ids, kind, vocabulary)
    if kind != "ensembl":
        known_ids = _with_aliases(gene_ids, known_ids, aliases)
    unknown = sum(gene is None for gene in known_ids)
    if 2 * unknown > len(gene_ids):
        raise UserError(f"{where}: {_why_unknown(gene_ids, known_ids, kind)}")
    columns = np.array([-1 if gene is None else vocabulary.column_of.get(gene, -1) for gene in known_ids])
    in_vocabulary = columns[columns >= 0]
    return GeneMapping(
        columns=columns,
        lengths_bp=np.array([_length_bp(gene, vocabulary) for gene in known_ids]),
        unknown=unknown,
        merged=len(in_vocabulary) - len(np.unique(in_vocabulary)),
    )


def strip_version(gene_id: str) -> str:
    """ENSG00000141510 from ENSG00000141510.18 and from ENSG00000141510.18_PAR_Y."""
    return gene_id.partition(".")[0].partition("_")[0]


def _ensembl_ids(gene_ids: Sequence[str], kind: GeneId, vocabulary: GeneVocabulary) -> list[str | None]:
    reference = gene_reference()
    if kind == "ensembl":
        stripped = [strip_version(gene) for gene in gene_ids]
        return [gene if gene in reference.length_bp_of or gene in vocabulary.column_of else None for gene in stripped]
    own = {symbol: gene for symbol, gene in zip(vocabulary.symbols, vocabulary.ensembl_ids, strict=True) if symbol}
    symbols = [gene.partition("|")[0] if kind == "symbol_entrez" else gene for gene in gene_ids]
    return [own.get(symbol) or reference.ensembl_id_of.get(symbol) for symbol in symbols]


def _with_aliases(
    gene_ids: Sequence[str], known_ids: Sequence[str | None], aliases: Mapping[str, str]
) -> list[str | None]:
    """Look up what is unknown by its Entrez number, then by its symbol as a former one. A gene that the source also
    has under another name keeps that one: the alias is then more likely to mean something else."""
    taken = {gene for gene in known_ids if gene is not None}
    found = list(known_ids)
    for row, gene_id in enumerate(gene_ids):
        symbol, _, entrez = gene_id.partition("|")
        gene = aliases.get(entrez) or aliases.get(symbol)
        if found[row] is None and gene is not None and gene not in taken:
            found[row] = gene
            taken.add(gene)
    return found


def _length_bp(gene: str | None, vocabulary: GeneVocabulary) -> float:
    if gene is None:
        return UNKNOWN_LENGTH_BP
    column = vocabulary.column_of.get(gene)
    if column is not None:
        return float(vocabulary.lengths_bp[column])
    return gene_reference().length_bp_of.get(gene, UNKNOWN_LENGTH_BP)


def _require_unique(where: str, gene_ids: Sequence[str]) -> None:
    repeated = [gene for gene, times in Counter(gene_ids).items() if times > 1]
    if repeated:
        raise UserError(
            f"{where}: {len(repeated):,} of {len(gene_ids):,} gene ids occur more than once, "
            f"e.g. {', '.join(map(repr, repeated[:3]))}"
        )


def _why_unknown(gene_ids: Sequence[str], known_ids: Sequence[str | None], kind: GeneId) -> str:
    unknown = [gene for gene, known in zip(gene_ids, known_ids, strict=True) if known is None]
    text = (
        f"{len(unknown):,} of {len(gene_ids):,} gene ids are not human genes as {kind}, "
        f"e.g. {', '.join(map(repr, unknown[:3]))}"
    )
    ensembl = [match for gene in unknown if (match := _ENSEMBL.match(gene))]
    mouse = sum(match.group(1) == "MUS" for match in ensembl)
    mouse_cased = sum(bool(_MOUSE_SYMBOL.fullmatch(gene.partition("|")[0])) for gene in unknown)
    if 2 * mouse > len(unknown):
        return f"{text}: these are mouse genes (ENSMUSG); only human profiles are read"
    if kind != "ensembl" and 2 * mouse_cased > len(unknown):
        return f"{text}: written like mouse symbols; only human profiles are read"
    if kind != "ensembl" and 2 * len(ensembl) > len(unknown):
        return f"{text}: these look like Ensembl ids (gene_id: ensembl)"
    reference = gene_reference()
    symbols = sum(gene.partition("|")[0] in reference.ensembl_id_of for gene in unknown)
    if kind == "ensembl" and 2 * symbols > len(unknown):
        return f"{text}: these look like symbols (gene_id: symbol or symbol_entrez)"
    if kind == "symbol" and 2 * symbols > len(unknown):
        return f"{text}: these look like SYMBOL|Entrez (gene_id: symbol_entrez)"
    return text
