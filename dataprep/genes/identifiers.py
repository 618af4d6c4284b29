"""From the gene ids of a source to columns of the vocabulary."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np

from dataprep.genes.gene_sets import is_mitochondrial, is_ribosomal
from dataprep.genes.row_names import date_of, is_blank, is_summary, looks_like_gene, symbols_of_date
from dataprep.genes.vocabulary import UNKNOWN_LENGTH_BP, GeneVocabulary, gene_reference
from dataprep.runtime.command_line import UserError

GeneId = Literal["ensembl", "symbol", "symbol_entrez", "entrez", "mixed"]
RepeatedGenes = Literal["refuse", "sum", "first"]

_ENSEMBL = re.compile(r"ENS([A-Z]*)G\d{6,}")
_HUMAN_ENSEMBL = re.compile(r"ENSG\d{11}")
# pseudo-autosomal copies on chromosome Y, as GENCODE named them until version 24
_OLD_PAR_Y = re.compile(r"ENSGR(\d{10})")
# TCGA's TP53|7157, DepMap's TP53 (7157)
_SYMBOL_ENTREZ = re.compile(r"(?P<symbol>[^|(]*?)(?:\||\s*\()(?P<entrez>\d+)\)?")
# 7157, entrez:7157, GeneID:7157
_ENTREZ = re.compile(r"(?:(?:entrez(?:gene|id)?|geneid|ncbigene)[:_ ])?(?P<entrez>\d+)", re.IGNORECASE)
_MOUSE_SYMBOL = re.compile(r"[A-Z][a-z]+[a-z0-9-]*")
# Fields of a mapping that have an entry per row.
_OF_ROWS = ("columns", "lengths_bp", "counted", "unrecognised", "mitochondrial", "ribosomal")


@dataclass(frozen=True)
class GeneMapping:
    """Where the S rows of a source go.

    ``columns`` int64 [S] is the vocabulary column or -1; ``lengths_bp`` float64 [S], 1,000 where nobody knows it.
    ``counted`` bool [S] says which rows enter the sum that TPM divides by: every gene, in the vocabulary or not; no
    summaries, spike-ins, rows without a name, or names that are not written like those of genes. ``unrecognised``
    bool [S] are named rows that are in no table of genes, whether counted or not, without summaries and spike-ins;
    ``mitochondrial`` and ``ribosomal`` bool [S] the rows of such genes.
    ``merged`` rows share their vocabulary gene with an earlier row and are summed with it (pseudo-autosomal copies such
    as ENSG00000182378.15_PAR_Y, or two names of one gene); ``repeated`` ones have the very name of an earlier row.
    ``dates`` are symbols that a spreadsheet turned into dates, ``recovered`` the ones that can only be one gene.
    """

    columns: np.ndarray
    lengths_bp: np.ndarray
    counted: np.ndarray
    unrecognised: np.ndarray
    mitochondrial: np.ndarray
    ribosomal: np.ndarray
    merged: int
    repeated: int = 0
    dates: int = 0
    recovered: int = 0
    left_out_examples: tuple[str, ...] = ()
    unrecognised_examples: tuple[str, ...] = ()

    def rows(self, chosen: np.ndarray) -> GeneMapping:
        """The mapping of some rows, by number, in their order."""
        return replace(self, **{name: getattr(self, name)[chosen] for name in _OF_ROWS})

    @property
    def unknown(self) -> int:
        """Rows whose name is in no table of genes."""
        return int(self.unrecognised.sum())

    @property
    def left_out(self) -> int:
        """Rows that do not enter the sum."""
        return int((~self.counted).sum())

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
    repeated_genes: RepeatedGenes = "refuse",
    length_bp_of: Mapping[str, float] = MappingProxyType({}),
) -> GeneMapping:
    """Map the ids of the source ``where`` to the vocabulary.

    ``aliases`` gives Ensembl ids of names that are no current symbols: former symbols and Entrez numbers.
    ``repeated_genes`` says what becomes of a vocabulary gene with several rows of the same name: all are summed, or the
    first one counts, or the source is refused. ``length_bp_of`` gives lengths of genes, by Ensembl id without version
    or by the name of the row, that go before those of the vocabulary. Raises :class:`UserError` where ids repeat, are
    those of a mouse, or are unknown for more than half.
    """
    rows = [_Row.of(gene_id, kind) for gene_id in gene_ids]
    known = _known_genes(rows, vocabulary)
    by_date: dict[int, str] = {}
    if kind != "ensembl":
        known = _with_aliases(rows, known, aliases)
        by_date = _genes_of_dates(rows, known)
    known = [by_date.get(number, gene) for number, gene in enumerate(known)]
    unknown = np.array([gene is None for gene in known], bool)
    no_gene = _where(unknown, lambda number: is_blank(rows[number].name) or is_summary(rows[number].name))
    unrecognised = unknown & ~no_gene
    if 2 * unrecognised.sum() > len(rows) - no_gene.sum() or no_gene.all():
        raise UserError(f"{where}: {_why_unknown(rows, known, kind)}")
    counted = ~unknown | _where(unrecognised, lambda number: rows[number].looks_like_gene)
    columns = np.array([_column(row, gene, vocabulary) for row, gene in zip(rows, known, strict=True)])
    repeats = _repeated_rows(rows, known if kind == "ensembl" else columns.tolist())
    if len(repeats) and repeated_genes == "refuse":
        raise UserError(f"{where}: {_why_repeated(rows, repeats)}")
    if repeated_genes == "first":
        columns[repeats], counted[repeats] = -1, False
    in_vocabulary = columns[columns >= 0]
    symbols = [gene_reference().symbol_of.get(gene or "", "") for gene in known]
    return GeneMapping(
        columns=columns,
        lengths_bp=np.array(
            [_length_bp(row, gene, vocabulary, length_bp_of) for row, gene in zip(rows, known, strict=True)]
        ),
        counted=counted,
        unrecognised=unrecognised,
        mitochondrial=np.array([is_mitochondrial(symbol) for symbol in symbols]),
        ribosomal=np.array([is_ribosomal(symbol) for symbol in symbols]),
        merged=len(in_vocabulary) - len(np.unique(in_vocabulary)),
        repeated=len(repeats),
        dates=len(by_date) + sum(rows[number].date is not None for number in np.flatnonzero(unrecognised)),
        recovered=len(by_date),
        left_out_examples=_examples(rows, ~counted),
        unrecognised_examples=_examples(rows, unrecognised),
    )


def strip_version(gene_id: str) -> str:
    """ENSG00000141510 from ENSG00000141510.18, and from ENSG00000141510.18_PAR_Y, ENSGR0000141510 and
    ENSG00000141510|TP53."""
    plain = gene_id.partition(".")[0].partition("_")[0].partition("|")[0]
    return _OLD_PAR_Y.sub(r"ENSG0\1", plain) if plain.startswith("ENSGR") else plain


class _Row(NamedTuple):
    """A row of a source: its name, and the parts of it that may identify a gene, empty where it has none."""

    name: str
    ensembl_id: str
    symbol: str
    entrez: str

    @classmethod
    def of(cls, gene_id: str, kind: GeneId) -> _Row:
        name = gene_id.strip()
        if kind == "ensembl" or (kind == "mixed" and _ENSEMBL.match(name)):
            return cls(name, strip_version(name), "", "")
        if kind in ("entrez", "mixed") and (number := _ENTREZ.fullmatch(name)):
            return cls(name, "", "", number["entrez"])
        pair = _SYMBOL_ENTREZ.fullmatch(name) if kind != "symbol" else None
        return cls(name, "", pair["symbol"], pair["entrez"]) if pair else cls(name, "", name, "")

    @property
    def looks_like_gene(self) -> bool:
        if self.ensembl_id:
            return bool(_HUMAN_ENSEMBL.fullmatch(self.ensembl_id))
        return bool(self.entrez) or looks_like_gene(self.symbol)

    @property
    def date(self) -> tuple[int, int] | None:
        return date_of(self.symbol) if self.symbol else None


def _known_genes(rows: Sequence[_Row], vocabulary: GeneVocabulary) -> list[str | None]:
    """The Ensembl id of each row, None where neither the vocabulary nor GENCODE has its id or symbol."""
    reference = gene_reference()

    def known(row: _Row) -> str | None:
        if row.ensembl_id:
            listed = row.ensembl_id in reference.length_bp_of or row.ensembl_id in vocabulary.column_of
            return row.ensembl_id if listed else None
        return vocabulary.gene_of_symbol.get(row.symbol) or reference.ensembl_id_of.get(row.symbol)

    return [known(row) for row in rows]


def _with_aliases(rows: Sequence[_Row], known: Sequence[str | None], aliases: Mapping[str, str]) -> list[str | None]:
    """Look up what is unknown by its Entrez number, then by its symbol as a former one. A gene that the source also
    has under another name keeps that one: the alias is then more likely to mean something else."""
    taken = {gene for gene in known if gene is not None}
    found = list(known)
    for number, row in enumerate(rows):
        gene = aliases.get(row.entrez) or aliases.get(row.symbol)
        if found[number] is None and gene is not None and gene not in taken:
            found[number] = gene
            taken.add(gene)
    return found


def _genes_of_dates(rows: Sequence[_Row], known: Sequence[str | None]) -> dict[int, str]:
    """Genes, by row, of symbols that a spreadsheet turned into dates: where a date occurs once, and all genes that it
    can stand for but one are in the source under their own names."""
    dates = {number: row.date for number, row in enumerate(rows) if known[number] is None and row.date}
    if not dates:
        return {}
    times, symbols, taken = Counter(dates.values()), {row.symbol for row in rows}, set(known)
    ensembl_id_of = gene_reference().ensembl_id_of
    genes: dict[int, str] = {}
    for number, date in dates.items():
        free = [
            ensembl_id_of[current]
            for current, former in symbols_of_date(*date)
            if current in ensembl_id_of and ensembl_id_of[current] not in taken and former not in symbols
        ]
        if times[date] == 1 and len(free) == 1:
            genes[number] = free[0]
    return genes


def _where(rows: np.ndarray, holds: Callable[[int], bool]) -> np.ndarray:
    """Those of some rows, bool [S], for whose number something holds; the others are not looked at."""
    chosen = np.zeros_like(rows)
    chosen[[number for number in np.flatnonzero(rows).tolist() if holds(number)]] = True
    return chosen


def _column(row: _Row, gene: str | None, vocabulary: GeneVocabulary) -> int:
    """A symbol that several genes of the vocabulary share says of none of them that it is measured."""
    if gene is None or row.symbol in vocabulary.shared_symbols:
        return -1
    return vocabulary.column_of.get(gene, -1)


def _repeated_rows(rows: Sequence[_Row], genes: Sequence[str | int | None]) -> np.ndarray:
    """Rows that have the very name of an earlier one and mean a gene. Symbols that mean no gene of the vocabulary
    (column -1) may repeat: Y_RNA does hundreds of times."""
    seen: set[str] = set()
    repeats = []
    for number, (row, gene) in enumerate(zip(rows, genes, strict=True)):
        if gene is None or gene == -1:
            continue
        if row.name in seen:
            repeats.append(number)
        seen.add(row.name)
    return np.array(repeats, np.int64)


def _examples(rows: Sequence[_Row], chosen: np.ndarray) -> tuple[str, ...]:
    return tuple(rows[number].name for number in np.flatnonzero(chosen)[:3])


def _length_bp(row: _Row, gene: str | None, vocabulary: GeneVocabulary, length_bp_of: Mapping[str, float]) -> float:
    own = length_bp_of.get(row.ensembl_id or row.symbol) or length_bp_of.get(gene or "")
    if own is not None:
        return own
    if gene is None:
        return UNKNOWN_LENGTH_BP
    column = vocabulary.column_of.get(gene)
    if column is not None:
        return float(vocabulary.lengths_bp[column])
    return gene_reference().length_bp_of.get(gene, UNKNOWN_LENGTH_BP)


def _why_repeated(rows: Sequence[_Row], repeats: np.ndarray) -> str:
    names = list(dict.fromkeys(rows[number].name for number in repeats))
    return (
        f"{len(names):,} of {len(rows):,} gene ids occur more than once, e.g. {', '.join(map(repr, names[:3]))} "
        f"(setting repeated_genes: sum or first)"
    )


def _why_unknown(rows: Sequence[_Row], known: Sequence[str | None], kind: GeneId) -> str:
    unknown = [row for row, gene in zip(rows, known, strict=True) if gene is None]
    text = (
        f"{len(unknown):,} of {len(rows):,} gene ids are not human genes as {kind}, "
        f"e.g. {', '.join(repr(row.name) for row in unknown[:3])}"
    )
    first = rows[0].name
    if first in ("0", "1") and all(row.name == str(int(first) + number) for number, row in enumerate(rows)):
        return f"{text}: these number the rows; the gene ids have to be in the first column"
    reason = next((reason for belongs, reason in _reasons(kind) if 2 * sum(map(belongs, unknown)) > len(unknown)), "")
    return text + reason


def _reasons(kind: GeneId) -> list[tuple[Callable[[_Row], bool], str]]:
    """What most of the unknown ids may be, and what to do then."""
    symbols = gene_reference().ensembl_id_of
    reasons: list[tuple[Callable[[_Row], bool], str]] = [
        (lambda row: row.name.startswith("ENSMUSG"), ": these are mouse genes (ENSMUSG); only human profiles are read"),
        (
            lambda row: row.name.startswith("ENST"),
            ": these are transcripts (ENST); sum them to genes (in a build file: setting transcripts)",
        ),
        (
            lambda row: bool(_ENTREZ.fullmatch(row.name)),
            ": these look like Entrez ids (gene_id: entrez, and gene_aliases with them)",
        ),
    ]
    if kind == "ensembl":
        return [
            *reasons,
            (lambda row: _symbol(row.name) in symbols, ": these look like symbols (gene_id: symbol or symbol_entrez)"),
        ]
    reasons += [
        (lambda row: bool(_ENSEMBL.match(row.name)), ": these look like Ensembl ids (gene_id: ensembl)"),
        (
            lambda row: bool(_MOUSE_SYMBOL.fullmatch(_symbol(row.name))),
            ": written like mouse symbols; only human profiles are read",
        ),
    ]
    if kind == "symbol":
        pair = ": these look like SYMBOL|Entrez (gene_id: symbol_entrez)"
        reasons.append((lambda row: _symbol(row.name) in symbols, pair))
    return reasons


def _symbol(name: str) -> str:
    pair = _SYMBOL_ENTREZ.fullmatch(name)
    return pair["symbol"] if pair else name
