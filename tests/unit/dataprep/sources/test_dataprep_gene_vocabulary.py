"""The default vocabulary is the documented one, and published gene lists can be read."""

import gzip
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from dataprep.genes import make_vocabulary as make_gene_vocabulary
from dataprep.genes.vocabulary import GeneVocabulary, default_vocabulary, gene_reference, read_vocabulary
from dataprep.runtime.command_line import UserError


def test_the_default_vocabulary_has_20_024_genes_in_ascending_order() -> None:
    vocabulary = default_vocabulary()
    assert vocabulary.size == 20_024
    assert list(vocabulary.ensembl_ids) == sorted(set(vocabulary.ensembl_ids))
    assert vocabulary.ensembl_ids[0] == "ENSG00000000003"
    assert vocabulary.ensembl_ids[-1] <= "ENSG00000290149"
    assert (vocabulary.lengths_bp > 0).all()


def test_the_default_vocabulary_never_changes_unnoticed() -> None:
    # models and corpora compare this fingerprint: a change makes every corpus and model foreign to one another
    expected = "b8207666ec874ad9877877f4815f2091e9f1d4a69145f4f910da7b8ebad09f25"
    assert default_vocabulary().fingerprint == expected


def test_the_reference_knows_genes_that_are_not_protein_coding() -> None:
    reference = gene_reference()
    assert len(reference.length_bp_of) == 62_754
    assert reference.ensembl_id_of["XIST"] == "ENSG00000229807"
    assert "ENSG00000229807" not in default_vocabulary().column_of


def test_a_vocabulary_survives_arrow() -> None:
    vocabulary = default_vocabulary()
    assert GeneVocabulary.from_arrow(vocabulary.to_arrow()) == vocabulary


def test_a_published_gene_list_is_read_in_its_own_order(tmp_path: Path) -> None:
    path = tmp_path / "genes.csv"
    path.write_text(
        "gene_symbol,ensg_id,gene_type,gene_length,ensp_id,protein_length\n"
        "TP53,ENSG00000141510,protein_coding,2512,ENSP00000269305,393\n"
        "TSPAN6,ENSG00000000003,protein_coding,2396,ENSP00000362111,245\n"
    )
    vocabulary = read_vocabulary(str(path))
    assert vocabulary.ensembl_ids == ("ENSG00000141510", "ENSG00000000003")
    assert vocabulary.symbols == ("TP53", "TSPAN6")
    assert vocabulary.lengths_bp.tolist() == [2512.0, 2396.0]


def test_ids_alone_are_enough(tmp_path: Path) -> None:
    path = tmp_path / "genes.csv.gz"
    path.write_bytes(gzip.compress(b"ensg_id\nENSG00000141510.18\nENSG99999999999\n"))
    vocabulary = read_vocabulary(str(path))
    assert vocabulary.ensembl_ids == ("ENSG00000141510", "ENSG99999999999")
    assert vocabulary.symbols == ("TP53", "")
    assert vocabulary.lengths_bp[1] == 1000.0


def test_a_parquet_gene_list_is_read(tmp_path: Path) -> None:
    pq.write_table(default_vocabulary().to_arrow().slice(0, 50), tmp_path / "genes.parquet")
    vocabulary = read_vocabulary(str(tmp_path / "genes.parquet"))
    assert vocabulary.ensembl_ids == default_vocabulary().ensembl_ids[:50]
    assert np.array_equal(vocabulary.lengths_bp, default_vocabulary().lengths_bp[:50])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("gene\nTP53\n", "no column ensembl_id or ensg_id or canonical_ensg; it has gene"),
        ("ensg_id\nENSG1\nENSG1\nENSG2\n", "1 duplicate gene ids, e.g. ENSG1"),
        ("ensg_id,gene_length\nENSG1,0\n", "1 gene lengths are not positive, e.g. 0"),
        ("ensg_id,gene_length\nENSG1,-5\n", "1 gene lengths are not positive, e.g. -5"),
        ("ensg_id,gene_length\nENSG1,inf\n", "1 gene lengths are not positive, e.g. inf"),
        ("ensg_id,gene_length\nENSG1,long\n", "column gene_length is not numeric"),
        ("ensg_id,gene_length\nENSG1,5\n,6\n", "1 of 2 rows have no gene id"),
        ("", "cannot be read as a table"),
    ],
)
def test_a_bad_gene_list_is_refused_in_one_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "genes.csv"
    path.write_text(content)
    with pytest.raises(UserError, match=message) as raised:
        read_vocabulary(str(path))
    assert "\n" not in str(raised.value)


def test_a_missing_gene_list_is_a_bad_argument(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such gene list") as raised:
        read_vocabulary(str(tmp_path / "none.csv"))
    assert raised.value.exit_code == 2


def test_the_packaged_table_is_made_the_same_every_time() -> None:
    gencode = (
        "ENSG00000000005,TNMD,6,873,protein_coding\n"
        "ENSG00000000003,TSPAN6,16,2396,protein_coding\n"
        "ENSG00000290150,NEW,1,500,protein_coding\n"
        "ENSG00000290825,DDX11L2_ENSG00000290825,1,1657,lncRNA\n"
        "ENSG00000100101,ENSG00000100101.15,15,4904,protein_coding\n"
    )
    rows = make_gene_vocabulary.gene_rows(gencode)
    assert rows == [
        ("ENSG00000000003", "TSPAN6", 2396, 1),
        ("ENSG00000000005", "TNMD", 873, 1),
        ("ENSG00000100101", "", 4904, 1),
        ("ENSG00000290150", "NEW", 500, 0),
        ("ENSG00000290825", "DDX11L2", 1657, 0),
    ]
    assert make_gene_vocabulary.packed(rows) == make_gene_vocabulary.packed(rows)


@pytest.mark.parametrize("content", ["ensg_id,symbol\nENSG1,caf\u00e9\n", "ensg_id,caf\u00e9\nENSG1,A\n"])
def test_a_gene_list_in_another_encoding_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "genes.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"genes\.csv (is not text in UTF-8|cannot be read as a table)"):
        read_vocabulary(str(tmp_path / "genes.csv"))
