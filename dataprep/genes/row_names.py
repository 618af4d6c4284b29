"""What the rows of a table are that are no current gene: summaries of a counting program, blanks, dates, old names.

A row that names no gene at all must not enter the sum that TPM divides by; a gene that no table knows should.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# HTSeq (two underscores, before 2013 none), STAR, featureCounts' summary, spike-ins of the ERCC.
_SUMMARY = re.compile(r"__\w+|N_(unmapped|multimapping|noFeature|ambiguous)|(Una|A)ssigned(_\w+)?|ERCC[-_]\d{5}", re.I)
# Letters and digits only, in lower case: rows that people or programs put under their tables.
_SUMMARY_WORDS = frozenset(
    (
        *("total", "totals", "totalcount", "totalcounts", "totalreads", "grandtotal", "sum", "sums", "sumofcounts"),
        *("librarysize", "libsize", "mean", "median", "nofeature", "ambiguous", "toolowaqual", "notaligned"),
        *("alignmentnotunique", "unmapped", "unmappedreads", "mapped", "mappedreads", "multimapped", "multimapping"),
        *("unassigned", "intergenic", "intronic", "exonic", "rrnareads", "spikein", "spikeins"),
    )
)
_BLANK = frozenset(("", "nan", "na", "n/a", "#n/a", "<na>", "null", "none", "-", "--", "---", "?", "."))
# Symbols of HGNC and Ensembl (TP53, C1orf112, HLA-A, RP11-34P13.7, LA16c-306E5.2, 5S_rRNA), Entrez numbers, Ensembl
# ids: they begin with a capital or a digit, and are all capitals or have a digit.
_LIKE_A_GENE = re.compile(
    r"(?=[^a-z]+$|.*\d)[A-Z0-9][A-Za-z0-9]*([-._:@/][A-Za-z0-9]+)*@?|hsa-\w+-[\w-]+|snoU\w+|Y_RNA"
)

_MONTHS = {"jan": 1, "feb": 2, "mar": 3, "apr": 4, "may": 5, "jun": 6, "jul": 7, "aug": 8, "sep": 9, "sept": 9}
_MONTHS |= {"oct": 10, "nov": 11, "dec": 12}
# 1-Mar, Mar-01, 2023-03-01, 3/1/2023
_DATES = (
    re.compile(r"(?P<day>\d{1,2})[-/ ](?P<month>[A-Za-z]{3,4})([-/ ]\d{2,4})?"),
    re.compile(r"(?P<month>[A-Za-z]{3,4})[-/ ](?P<day>\d{1,2})([-/, ]+\d{2,4})?"),
    re.compile(r"\d{4}-(?P<month>\d\d)-(?P<day>\d\d)( 00:00:00)?"),
    re.compile(r"(?P<month>\d{1,2})/(?P<day>\d{1,2})/\d{2,4}"),
)


def is_blank(row_name: str) -> bool:
    """Whether a row has no name."""
    return row_name.lower() in _BLANK


def is_summary(row_name: str) -> bool:
    """Whether a row holds reads that were assigned to no gene, a total, or a spike-in."""
    return bool(_SUMMARY.fullmatch(row_name)) or re.sub(r"[^a-z0-9]", "", row_name.lower()) in _SUMMARY_WORDS


def looks_like_gene(row_name: str) -> bool:
    """Whether a name that no table knows is written like that of a gene."""
    return bool(_LIKE_A_GENE.fullmatch(row_name)) or date_of(row_name) is not None


def date_of(row_name: str) -> tuple[int, int] | None:
    """Month and day, where a spreadsheet has turned a symbol into a date (MARCH1 is 1-Mar)."""
    for pattern in _DATES:
        if match := pattern.fullmatch(row_name):
            month, day = match["month"].lower(), int(match["day"])
            number = int(month) if month.isdigit() else _MONTHS.get(month, 0)
            if 1 <= number <= 12 and 1 <= day <= 31:
                return number, day
    return None


def symbols_of_date(month: int, day: int) -> Sequence[tuple[str, str]]:
    """Pairs of current and former symbol that a spreadsheet turns into this date."""
    if month == 3:
        return (f"MARCHF{day}", f"MARCH{day}"), (f"MTARC{day}", f"MARC{day}")
    if month == 9:
        return (("SELENOF", "SEP15"),) if day == 15 else ((f"SEPTIN{day}", f"SEPT{day}"),)
    return (("DELEC1", "DEC1"),) if (month, day) == (12, 1) else ()
