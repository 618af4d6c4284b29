"""Make a table of former gene symbols and Entrez ids, for sources that are older than the vocabulary.

    python -m dataprep.genes.make_aliases --orgdb org.Hs.eg.sqlite --output aliases.csv.gz

The input is the SQLite file of Bioconductor's org.Hs.eg.db (Debian package r-bioc-org.hs.eg.db; Artistic-2.0, so the
table is made by whoever needs it and not shipped). `dataprep build` takes the output as its setting ``gene_aliases``.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from dataprep.genes.vocabulary import gene_reference

_NAMES = """
    select alias.alias_symbol, ensembl.ensembl_id from alias join ensembl using (_id)
    union select genes.gene_id, ensembl.ensembl_id from genes join ensembl using (_id)
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Read ``--orgdb`` and write ``--output``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orgdb", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    with closing(sqlite3.connect(f"file:{options.orgdb}?mode=ro", uri=True)) as database:
        aliases = unambiguous(database.execute(_NAMES))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("name", "ensembl_id"))
    writer.writerows(sorted(aliases.items()))
    options.output.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))
    print(f"{len(aliases):,} names -> {options.output}")


def unambiguous(pairs: Iterable[tuple[str, str]]) -> Mapping[str, str]:
    """Names that mean one gene of GENCODE and are no current symbol of another."""
    reference = gene_reference()
    genes_of: dict[str, set[str]] = defaultdict(set)
    for name, gene in pairs:
        if gene in reference.length_bp_of and name not in reference.ensembl_id_of:
            genes_of[name].add(gene)
    return {name: next(iter(genes)) for name, genes in genes_of.items() if len(genes) == 1}


if __name__ == "__main__":
    main()
