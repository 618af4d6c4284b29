"""Gene ids of every published form find their vocabulary gene; foreign ones are recognised for what they are."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from dataprep.genes import make_aliases as make_gene_aliases
from dataprep.genes.identifiers import GeneId, map_genes, strip_version
from dataprep.genes.make_aliases import unambiguous
from dataprep.genes.vocabulary import default_vocabulary, read_aliases
from dataprep.runtime.command_line import UserError

TP53, XIST = "ENSG00000141510", "ENSG00000229807"


@pytest.mark.parametrize(
    ("gene_id", "kind"),
    [
        *((TP53, "ensembl"), (f"{TP53}.18", "ensembl"), ("TP53", "symbol"), (" TP53 ", "symbol")),
        *(("TP53|7157", "symbol_entrez"), ("TP53 (7157)", "symbol_entrez"), (f"{TP53}.18", "mixed"), ("TP53", "mixed")),
    ],
)
def test_every_form_of_id_finds_its_gene(gene_id: str, kind: GeneId) -> None:
    genes = map_genes("x", [gene_id], kind, default_vocabulary())
    assert genes.columns.tolist() == [default_vocabulary().column_of[TP53]]
    assert (genes.unknown, genes.merged, genes.measured) == (0, 0, 1)


@pytest.mark.parametrize(
    "gene_id", ["ENSG00000182378.15", "ENSG00000182378.15_PAR_Y", "ENSG00000182378_PAR_Y", "ENSGR0000182378.10"]
)
def test_versions_and_pseudo_autosomal_marks_are_stripped(gene_id: str) -> None:
    assert strip_version(gene_id) == "ENSG00000182378"


def test_a_pseudo_autosomal_copy_is_merged_with_its_gene() -> None:
    genes = map_genes("x", ["ENSG00000182378.15", "ENSG00000182378.15_PAR_Y"], "ensembl", default_vocabulary())
    assert genes.columns[0] == genes.columns[1] >= 0
    assert (genes.merged, genes.measured) == (1, 1)


def test_genes_that_are_not_protein_coding_have_a_length_but_no_column() -> None:
    genes = map_genes("x", [TP53, XIST], "ensembl", default_vocabulary())
    assert genes.columns[1] == -1
    assert genes.lengths_bp[1] > 1000
    assert genes.unknown == 0


def test_an_unknown_gene_counts_as_1000_bp() -> None:
    genes = map_genes("x", ["TP53|7157", "?|100130426"], "symbol_entrez", default_vocabulary())
    assert genes.lengths_bp[1] == 1000
    assert (genes.columns[1], genes.unknown) == (-1, 1)


@pytest.mark.parametrize(
    ("gene_ids", "kind", "message"),
    [
        (["ENSMUSG00000059552", "ENSMUSG00000022346"], "ensembl", r"2 of 2 gene ids .* mouse genes \(ENSMUSG\)"),
        (["Trp53", "Gapdh", "Actb"], "symbol", "3 of 3 gene ids .* written like mouse symbols"),
        (["one", "two", TP53], "ensembl", r"2 of 3 gene ids are not human genes as ensembl, e\.g\. 'one', 'two'"),
        ([TP53, XIST], "symbol", r"look like Ensembl ids \(gene_id: ensembl\)"),
        (["TP53", "XIST"], "ensembl", r"look like symbols \(gene_id: symbol or symbol_entrez\)"),
        (["TP53|7157", "XIST|7503"], "symbol", r"look like SYMBOL\|Entrez \(gene_id: symbol_entrez\)"),
        (["TP53 (7157)", "XIST (7503)"], "symbol", r"look like SYMBOL\|Entrez \(gene_id: symbol_entrez\)"),
        (["7157", "7503", "1"], "ensembl", "look like Entrez ids"),
        (["0", "1", "2"], "symbol", "these number the rows; the gene ids have to be in the first column"),
        (["7157", "7503", "1"], "symbol", r"look like Entrez ids \(gene_id: entrez, and gene_aliases with them\)"),
        (["ENST00000269305", "ENST00000420246"], "ensembl", "these are transcripts"),
        (["", "NA", "__no_feature"], "symbol", "3 of 3 gene ids are not human genes"),
        (["TP53", "TP53", "XIST"], "symbol", r"1 of 3 gene ids occur more than once, e\.g\. 'TP53'"),
    ],
)
def test_foreign_ids_are_refused_with_the_likely_reason(gene_ids: list[str], kind: GeneId, message: str) -> None:
    with pytest.raises(UserError, match=message):
        map_genes("x", gene_ids, kind, default_vocabulary())


ALIASES = {"7157": TP53, "P53": TP53, "OLD": XIST}


@pytest.mark.parametrize(
    ("gene_id", "kind"),
    [("P53|7157", "symbol_entrez"), ("?|7157", "symbol_entrez"), ("P53", "symbol"), ("7157", "symbol")],
)
def test_a_former_symbol_or_entrez_number_finds_its_gene(gene_id: str, kind: GeneId) -> None:
    genes = map_genes("x", [gene_id], kind, default_vocabulary(), ALIASES)
    assert genes.columns.tolist() == [default_vocabulary().column_of[TP53]]


def test_an_alias_gives_way_to_the_current_symbol_of_the_same_source() -> None:
    genes = map_genes("x", ["P53", "TP53", "OLD"], "symbol", default_vocabulary(), ALIASES)
    assert (genes.columns[0], genes.unknown, genes.merged) == (-1, 1, 0)
    assert genes.columns[1] == default_vocabulary().column_of[TP53]


@pytest.mark.parametrize("name", ["7157", "entrez:7157", "GeneID:7157", "EntrezGene_7157"])
@pytest.mark.parametrize("kind", ["entrez", "mixed"])
def test_entrez_ids_as_people_write_them(name: str, kind: GeneId) -> None:
    genes = map_genes("x", [name, "entrez:1"], kind, default_vocabulary(), ALIASES | {"7157": TP53})
    assert genes.columns.tolist() == [default_vocabulary().column_of[TP53], -1]
    assert genes.counted.all()


def test_names_that_mean_several_genes_or_are_current_symbols_are_no_aliases() -> None:
    pairs = [("P53", TP53), ("BOTH", TP53), ("BOTH", XIST), ("XIST", TP53), ("7157", TP53), ("HAPLOTYPE", "ENSG9")]
    assert unambiguous(pairs) == {"P53": TP53, "7157": TP53}


def test_aliases_are_made_from_a_database_and_read_again(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "org.sqlite")) as database:
        database.executescript(
            f"""
            create table genes (_id integer, gene_id text);
            create table ensembl (_id integer, ensembl_id text);
            create table alias (_id integer, alias_symbol text);
            insert into genes values (1, '7157');
            insert into ensembl values (1, '{TP53}');
            insert into alias values (1, 'P53'), (1, 'TP53');
            """
        )
    output = tmp_path / "aliases.csv.gz"
    make_gene_aliases.main(["--orgdb", str(tmp_path / "org.sqlite"), "--output", str(output)])
    assert read_aliases(str(output)) == {"7157": TP53, "P53": TP53}


def test_a_table_without_aliases_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("name,gene\nP53,TP53\n")
    with pytest.raises(UserError, match="no column ensembl_id; it has name, gene"):
        read_aliases(str(tmp_path / "a.csv"))


def test_symbols_that_are_empty_or_shared_by_genes_of_the_vocabulary_match_none() -> None:
    vocabulary = default_vocabulary()
    assert len(vocabulary.shared_symbols) == 6
    genes = map_genes("x", ["TP53", "GAPDH", "ACTB", *sorted(vocabulary.shared_symbols), ""], "symbol", vocabulary)
    assert (genes.columns[:3] >= 0).all()
    assert (genes.columns[3:] == -1).all()
    assert genes.counted.tolist() == [True] * 9 + [False]


def test_symbols_of_no_vocabulary_gene_may_repeat() -> None:
    genes = map_genes("x", ["TP53", "GAPDH", "ACTB", "Y_RNA", "Y_RNA"], "symbol", default_vocabulary())
    assert (genes.repeated, genes.measured) == (0, 3)


@pytest.mark.parametrize(
    ("gene_ids", "recovered"),
    [
        (["1-Mar", "MTARC1"], "MARCHF1"),
        (["1-Mar", "MARC1"], "MARCHF1"),
        (["Mar-01", "MARCHF1"], "MTARC1"),
        (["2-Sep"], "SEPTIN2"),
        (["2019-09-02 00:00:00"], "SEPTIN2"),
        (["9/2/2019"], "SEPTIN2"),
        (["15-Sep"], "SELENOF"),
        (["1-Mar"], None),
        (["1-Mar", "1-Mar", "MTARC1"], None),
        (["2-Sep", "SEPTIN2"], None),
        (["2-Sep", "SEPT2"], None),
    ],
)
def test_dates_that_were_symbols_are_recovered_where_they_can_be_one_gene(
    gene_ids: list[str], recovered: str | None
) -> None:
    genes = map_genes("x", [*gene_ids, "TP53", "GAPDH", "ACTB"], "symbol", default_vocabulary())
    symbol = default_vocabulary().symbols[genes.columns[0]] if genes.columns[0] >= 0 else None
    assert symbol == recovered
    assert genes.dates >= 1
    assert genes.recovered == (recovered is not None)
    assert genes.counted[0]
