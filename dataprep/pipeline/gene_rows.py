"""From the rows of a source, genes or transcripts, to columns of the vocabulary, by the tables of the settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from dataprep.config import BuildSettings
from dataprep.corpus import TpmOver
from dataprep.genes.identifiers import GeneMapping, map_genes
from dataprep.genes.row_names import is_summary
from dataprep.genes.vocabulary import GeneVocabulary, read_aliases
from dataprep.runtime.command_line import UserError
from dataprep.sources import RawProfiles, Source
from dataprep.sources.gene_annotation import plain_transcript, read_gene_lengths, read_transcripts


@dataclass(frozen=True)
class GeneTables:
    """The vocabulary, what else is known of genes, and over which of them TPM sums. ``gene_of_transcript`` and
    ``length_bp_of`` have an entry for each source that names such a table."""

    vocabulary: GeneVocabulary
    tpm_over: TpmOver = "source"
    aliases: Mapping[str, str] = field(default_factory=dict)
    gene_of_transcript: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    length_bp_of: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    # by source, what was last mapped: files of a source mostly have the same rows
    _rows: dict[str, GeneRows] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True)
class GeneRows:
    """The rows ``given`` by a file: how they are summed to genes (``gene_of_row``, int64 [S], and their ``gene_ids``;
    None where rows are genes), and where those go."""

    given: tuple[str, ...]
    mapping: GeneMapping
    gene_ids: tuple[str, ...] = ()
    gene_of_row: np.ndarray | None = None

    def summed(self, raw: RawProfiles) -> RawProfiles:
        """The profiles with one row per gene. A gene is not measured where one of its transcripts is not."""
        if self.gene_of_row is None:
            return raw
        # takes a quarter of a second of each process that reads, and only transcripts need it
        import scipy.sparse

        rows = len(self.gene_of_row)
        ones = np.ones(rows, np.float32)
        sums = scipy.sparse.csr_array((ones, (self.gene_of_row, np.arange(rows))), (len(self.gene_ids), rows))
        return replace(raw, gene_ids=self.gene_ids, values=np.ascontiguousarray((sums @ raw.values.T).T))


def gene_tables(settings: BuildSettings, vocabulary: GeneVocabulary) -> GeneTables:
    """The tables that the settings name, each read once. Raises UserError for files that are none."""
    aliases = read_aliases(settings.address(settings.gene_aliases)) if settings.gene_aliases is not None else {}
    transcripts = {source.name: source.transcripts for source in settings.sources if source.transcripts is not None}
    lengths = {source.name: source.gene_lengths for source in settings.sources if source.gene_lengths is not None}
    gene_of = {path: read_transcripts(settings.address(path)) for path in set(transcripts.values())}
    length_of = {path: read_gene_lengths(settings.address(path)) for path in set(lengths.values())}
    return GeneTables(
        vocabulary,
        settings.tpm_over,
        aliases,
        {name: gene_of[path] for name, path in transcripts.items()},
        {name: length_of[path] for name, path in lengths.items()},
    )


def rows_of(where: str, given: tuple[str, ...], source: Source, genes: GeneTables) -> GeneRows:
    """Where the rows of a file of a source go, found once for files and tasks with the same rows.

    Raises UserError as :func:`map_genes` does, and where more than half of the transcripts are in no table.
    """
    known = genes._rows.get(source.name)
    if known is not None and known.given == given:
        return known
    gene_ids, gene_of_row = given, None
    if (gene_of := genes.gene_of_transcript.get(source.name)) is not None:
        gene_ids, gene_of_row = _genes_of_transcripts(where, given, source, gene_of)
    mapping = map_genes(
        where,
        gene_ids,
        source.gene_id,
        genes.vocabulary,
        genes.aliases,
        source.repeats,
        genes.length_bp_of.get(source.name, {}),
    )
    genes._rows[source.name] = GeneRows(given, mapping, gene_ids, gene_of_row)
    return genes._rows[source.name]


def _genes_of_transcripts(
    where: str, given: Sequence[str], source: Source, gene_of: Mapping[str, str]
) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of genes in order of their first transcript, and the number of each row's; rows that are in no table stay
    rows of their own."""
    names = [gene_of.get(plain_transcript(name)) for name in given]
    unknown = [row for row, name in zip(given, names, strict=True) if name is None and not is_summary(row)]
    if 2 * len(unknown) > len(given):
        raise UserError(
            f"{where}: {len(unknown):,} of {len(given):,} rows are no transcripts of {source.transcripts}, "
            f"e.g. {', '.join(map(repr, unknown[:3]))}"
        )
    number_of: dict[str, int] = {}
    numbers = [number_of.setdefault(name or row, len(number_of)) for row, name in zip(given, names, strict=True)]
    return tuple(number_of), np.array(numbers, np.int64)
