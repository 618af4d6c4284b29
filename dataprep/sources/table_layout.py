"""Where the names, the values and the annotation of a table are, found from its first lines."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dataprep.genes.row_names import is_summary
from dataprep.genes.vocabulary import gene_reference
from dataprep.runtime.command_line import UserError

# What a cell holds that has no value.
MISSING = (
    *("", "NA", "na", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NAN", "null", "NULL", "None"),
    *("-", "--", ".", "?"),
)
# Columns of numbers or text beside the gene ids, in lower case without anything but letters and digits.
_ANNOTATION = frozenset(
    (
        *(
            "length",
            "genelength",
            "effectivelength",
            "efflength",
            "txlength",
            "transcriptlength",
            "exonlength",
            "width",
        ),
        *("chr", "chrom", "chromosome", "chromosomename", "seqname", "seqnames", "start", "end", "strand", "position"),
        *("genestart", "geneend", "locus", "location", "cytoband", "gccontent", "gc", "exoncount", "exons"),
        *("entrez", "entrezid", "entrezgene", "entrezgeneid", "ncbigeneid", "geneid", "hgncid", "ensemblid", "ensg"),
        *("ensemblgeneid", "gene", "genename", "genesymbol", "symbol", "hgncsymbol", "name", "description", "biotype"),
        *("genebiotype", "genetype", "transcriptid", "transcriptids", "refseq", "uniprot", "unnamed0"),
        # what people compute of all samples, or DESeq2 and edgeR put beside them
        *("total", "sum", "mean", "average", "median", "basemean", "log2foldchange", "logfc", "logcpm", "lfcse"),
        *("stat", "pvalue", "padj", "fdr"),
    )
)
_GCT = ("#1.2", "#1.3")
_ENSEMBL = re.compile(r"ENS[A-Z]*[GT]R?\d{6,}(\.\d+)?(_\w+)?")
# Rows that are looked at: enough that a column of counts which begins with missing values has a number among them.
_ROWS = 200


@dataclass(frozen=True)
class TableLayout:
    """The columns of a table.

    ``columns`` names all of them, the first being that of the row names; ``kept`` numbers those with values;
    ``ignored`` names those that are taken for annotation. ``header_lines`` come before the first row; ``rows`` is how
    many there should be, where the file says so.
    """

    delimiter: str
    columns: tuple[str, ...]
    kept: tuple[int, ...]
    ignored: tuple[str, ...]
    header_lines: int
    rows: int | None = None

    @property
    def kept_names(self) -> tuple[str, ...]:
        return tuple(self.columns[column] for column in self.kept)


def find_layout(
    address: str,
    lines: Sequence[str],
    delimiter: str,
    drop_columns: Sequence[str],
    value_column: str | None,
    drop_annotation: bool,
    decimal: str,
) -> TableLayout:
    """The layout of a table with these first lines, whole ones.

    Raises :class:`UserError` where there is no header, nothing is divided, or a column of the settings is absent.
    """
    comments, gct = _comment_lines(lines, delimiter), _gct_size(lines)
    header, *rows = list(csv.reader(lines[comments : comments + 1 + _ROWS], delimiter=delimiter)) or [[]]
    # of GCT 1.3, rows about the samples and columns about the genes
    rows = rows[gct.sample_rows :]
    rows = [row for row in rows if row]
    if len(header) < 2 and (not rows or len(rows[0]) < 2):
        raise UserError(
            f"{address}: no columns in its first line, if {delimiter!r} divides them{_other(lines, delimiter)}"
        )
    columns = tuple(name.strip() for name in column_names(header, rows))
    _require_header(address, header, rows)
    _require_present(address, columns, [*drop_columns, *([value_column] if value_column else [])])
    if value_column is not None:
        kept = [columns.index(value_column, 1)]
        return TableLayout(delimiter, columns, tuple(kept), (), comments + 1 + gct.sample_rows, gct.rows)
    if drop_annotation:
        _require_samples(address, columns)
    candidates = [number for number, name in enumerate(columns) if number and name not in drop_columns]
    annotation = {n for n in candidates if n <= gct.gene_columns}
    annotation |= {n for n in candidates if drop_annotation and _is_annotation(columns[n], n, rows, decimal)}
    empty = {number for number in candidates if not columns[number] and _cells(rows, number) == []}
    kept = [number for number in candidates if number not in annotation | empty]
    _require_named(address, columns, kept)
    if not kept:
        text = next((cells[0] for number in candidates if (cells := _cells(rows, number))), "")
        raise UserError(f"{address}: no column holds numbers, e.g. {text!r}{decimal_hint(text, decimal)}")
    ignored = tuple(columns[number] for number in candidates if number in annotation)
    return TableLayout(delimiter, columns, tuple(kept), ignored, comments + 1 + gct.sample_rows, gct.rows)


class _GctSize(NamedTuple):
    rows: int | None = None
    gene_columns: int = 0
    sample_rows: int = 0


def _gct_size(lines: Sequence[str]) -> _GctSize:
    """What the second line of a GCT file says: rows and columns, and since version 1.3 how many describe the others."""
    if not lines[0].startswith(_GCT) or len(lines) < 2:
        return _GctSize()
    sizes = lines[1].split()
    if len(sizes) < 2 or not all(size.isascii() and size.isdigit() for size in sizes[:4]):
        return _GctSize()
    rows, _, genes, samples = [*map(int, sizes[:4]), 0, 0][:4]
    return _GctSize(rows, genes, samples)


def decimal_hint(text: str, decimal: str) -> str:
    """What to do about a number that is written with the other decimal mark."""
    other = "," if decimal == "." else "."
    if re.fullmatch(rf"-?\d{{1,3}}(\{other}\d{{3}})+", text.strip()):
        return f" (thousands must not be divided; if {other!r} is the decimal mark: setting decimal: {other!r})"
    return f" (setting decimal: {other!r})" if re.fullmatch(rf"-?\d+\{other}\d+", text.strip()) else ""


def _comment_lines(lines: Sequence[str], delimiter: str) -> int:
    """Lines before the header: comments with # as featureCounts writes one, or version and size of a GCT file."""
    if lines[0].startswith(_GCT) and len(lines) > 1:
        return 2
    count = 0
    while count < len(lines) - 1 and (lines[count].startswith("#") or not lines[count].strip()):
        fields, below = (len(next(csv.reader([lines[n]], delimiter=delimiter), [])) for n in (count, count + 1))
        if below - fields in (0, 1) and fields > 1 and not lines[count + 1].startswith("#"):
            break
        count += 1
    return count


def column_names(header: list[str], rows: list[list[str]]) -> list[str]:
    """Names of all columns; a delimiter at the end of lines makes one without name and values, which is left out."""
    if not rows:
        return header
    fields = Counter(map(len, rows)).most_common(1)[0][0]
    if fields == len(header) + 1:
        if all(row[-1] == "" for row in rows if len(row) == fields):
            return [*header, ""]
        # R's write.table names the columns but not the row names
        return ["", *header]
    if fields == len(header) - 1 and header[-1] == "":
        return header[:-1]
    return header


def is_annotation_name(name: str) -> bool:
    """Whether a column is called as annotation is (Length, Chr, ...)."""
    return re.sub(r"[^a-z0-9]", "", name.lower()) in _ANNOTATION


def _is_annotation(name: str, number: int, rows: list[list[str]], decimal: str) -> bool:
    if is_annotation_name(name):
        return True
    cells = _cells(rows, number)
    return bool(cells) and not any(_is_number(cell, decimal) for cell in cells)


def holds_numbers(rows: list[list[str]], number: int) -> bool:
    """Whether a column has numbers in these rows; what is wrong with the others, reading it will say."""
    return any(_is_number(cell) for cell in _cells(rows, number))


def _cells(rows: list[list[str]], number: int) -> list[str]:
    """What a column holds in these rows, without missing values."""
    return [row[number].strip() for row in rows if len(row) > number and row[number].strip() not in MISSING]


def _is_number(text: str, decimal: str = ".") -> bool:
    try:
        float(text.strip().replace(decimal, "."))
    except ValueError:
        return False
    return True


def _require_header(address: str, header: list[str], rows: list[list[str]]) -> None:
    """Refuse a table that begins with a gene: its values would become the names of samples."""
    if len(header) < 2 or (rows and len(rows[0]) == len(header) + 1):
        return
    first, *others = header
    if not all(_is_number(name) for name in others if name):
        return
    gene = (
        _ENSEMBL.fullmatch(first) or is_summary(first) or first in gene_reference().ensembl_id_of or _is_number(first)
    )
    if not gene:
        return
    what = " (STAR's ReadsPerGene)" if first == "N_unmapped" and len(header) == 4 else ""
    raise UserError(
        f"{address} has no header{what}: its first line is {first!r} with {', '.join(others[:3])}; put the names of "
        f"the samples above"
    )


def _require_samples(address: str, columns: tuple[str, ...]) -> None:
    """Refuse a table whose columns are genes."""
    symbols = gene_reference().ensembl_id_of
    genes = [name for name in columns[1:] if _ENSEMBL.fullmatch(name) or name in symbols]
    if len(genes) > 2 and 2 * len(genes) > len(columns) - 1:
        raise UserError(
            f"{address}: {len(genes):,} of its {len(columns) - 1:,} columns are genes, e.g. {genes[0]!r} "
            f"(orientation: samples_x_genes)"
        )


def _require_present(address: str, columns: tuple[str, ...], wanted: list[str]) -> None:
    absent = sorted(set(wanted) - set(columns[1:]))
    if absent:
        raise UserError(
            f"{address} has no column {', '.join(map(repr, absent))}; it has {', '.join(map(repr, columns[1:6]))}"
            + (f" and {len(columns) - 6:,} more" if len(columns) > 6 else "")
        )


def _require_named(address: str, columns: tuple[str, ...], kept: list[int]) -> None:
    unnamed = [number for number in kept if not columns[number]]
    if unnamed:
        raise UserError(f"{address}: {len(unnamed):,} columns with values have no name, e.g. number {unnamed[0] + 1}")


def _other(lines: Sequence[str], delimiter: str) -> str:
    """Another character that divides the first lines."""
    for other in ("\t", ",", ";", " ", "|"):
        fields = [len(next(csv.reader([line], delimiter=other), [])) for line in lines[:3]]
        if other != delimiter and min(fields) > 1 and max(fields) - min(fields) <= 1:
            return f"; {other!r} does (setting delimiter)"
    return " (setting delimiter)"
