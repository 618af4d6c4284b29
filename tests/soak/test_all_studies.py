"""Every published study becomes part of one corpus by settings alone, and comes out as TPM that are computed here.

The tables are read by pandas, and genes, lengths and sums are worked out once more, from the packaged table of genes.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import yaml

from dataprep.anndata_export import export
from dataprep.config import BuildSettings, ExportSettings
from dataprep.corpus import Corpus, open_corpus, verify
from dataprep.pipeline.build import build
from dataprep.runtime.command_line import read_settings

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("BULKFORMER_REAL_DATA", ROOT.parent / "shared" / "data"))
GENES = pd.read_csv(ROOT / "dataprep/genes/gene_vocabulary.csv.gz").set_index("ensembl_id")
VOCABULARY = GENES.index[GENES["in_vocabulary"] == 1]
# below the published limit, so that a part of every study passes
MIN_NONZERO_GENES = 5_000
UNKNOWN_LENGTH_BP = 1_000

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.usefixtures("ray_session"),
    pytest.mark.skipif(
        not (DATA / "studies").is_dir(), reason=f"no real studies in {DATA}: set BULKFORMER_REAL_DATA to their folder"
    ),
]


def example(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / "examples" / f"{name}.yaml").read_text())


SOURCES = {
    source["name"]: source for name in ("real_studies", "further_studies") for source in example(name)["sources"]
}


def gene_of_symbol() -> pd.Series:
    """Ensembl id by symbol; one that several genes share is the vocabulary's."""
    named = GENES[GENES["symbol"].notna()].sort_values("in_vocabulary", ascending=False, kind="stable")
    return named.reset_index().drop_duplicates("symbol").set_index("symbol")["ensembl_id"]


def gene_of_entrez() -> pd.Series:
    """Ensembl id by Entrez id, from the rows of TCGA, which have symbol and Entrez id."""
    rows = pd.read_csv(DATA / "studies/TCGA_UCS/expression.tsv.gz", sep="\t", usecols=[0]).iloc[:, 0]
    pairs = rows.str.split("|", expand=True)
    return pairs.set_index(1)[0].map(gene_of_symbol()).dropna()


def gene_of_transcript() -> pd.Series:
    """The transcripts of Salmon's files dealt out to genes in turn: what a build adds up is seen by any table."""
    path = next(DATA.glob("studies/macrophage_salmon/quants/*/quant.sf.gz"))
    names = pd.read_csv(path, sep="\t", usecols=["Name"])["Name"].str.partition(".")[0]
    return pd.Series(VOCABULARY[np.arange(len(names)) % len(VOCABULARY)], names)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """The studies of the first example, grown by those of the second."""
    folder = tmp_path_factory.mktemp("all")
    gene_of_entrez().rename_axis("name").reset_index(name="ensembl_id").to_csv(folder / "aliases.csv", index=False)
    gene_of_transcript().to_csv(folder / "transcripts.tsv", sep="\t", header=False)
    for name in ("real_studies", "further_studies"):
        content = example(name)
        for source in content["sources"]:
            if "transcripts" in source:
                source["transcripts"] = str(folder / "transcripts.tsv")
        content |= {"grow": name == "further_studies", "min_nonzero_genes": MIN_NONZERO_GENES}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
        arguments = ["--config", str(folder / f"{name}.yaml"), "--root", str(DATA), "--corpus", str(folder / "corpus")]
        build(read_settings(BuildSettings, [*arguments, "--gene-aliases", str(folder / "aliases.csv")]))
    opened = open_corpus(str(folder / "corpus"))
    verify(opened)
    return opened


@pytest.fixture(scope="module")
def exported(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> anndata.AnnData:
    path = tmp_path_factory.mktemp("exported") / "all.h5ad"
    export(ExportSettings.model_construct(corpus=corpus.folder.uri, output=str(path), split="all"))
    # with which scanpy reads, too
    return anndata.read_h5ad(path)


def test_every_study_is_in_the_corpus_and_every_refusal_has_its_reason(corpus: Corpus) -> None:
    summaries = {source.name: source for source in corpus.manifest.sources}
    assert set(summaries) == set(SOURCES)
    assert not [name for name, source in summaries.items() if source.kept == 0]
    assert corpus.version == 2
    rejected = corpus.read_rejected().to_pandas()
    refused = {name: source.samples - source.kept for name, source in summaries.items() if source.kept < source.samples}
    assert rejected["source"].value_counts().to_dict() == refused
    assert rejected["reason"].notna().all()
    assert corpus.manifest.samples.read == corpus.manifest.samples.kept + len(rejected)


def test_labels_are_in_obs_and_genes_in_var(exported: anndata.AnnData) -> None:
    assert exported.var_names.tolist() == VOCABULARY.tolist()
    assert exported.var["symbol"].loc["ENSG00000141510"] == "TP53"
    assert exported.obs_names.is_unique
    assert {"study_id", "source", "split", "cancer_type", "response", "os_days", "tissue"} <= set(exported.obs)
    assert set(exported.obs["split"]) == {"train", "validation", "test"}
    gide = exported.obs[exported.obs["source"] == "gide_melanoma"]
    assert set(gide["response"].dropna()) == {"R", "NR"}


def raw_table(name: str) -> pd.DataFrame:
    """Genes x samples under the names of the corpus, rows as they are named in the file."""
    source = SOURCES[name]
    table = pd.read_csv(DATA / source["path"], sep="\t", index_col=0).drop(columns=source.get("drop_columns", []))
    # spike-ins are no transcripts of a sample
    table = table[~table.index.astype(str).str.contains("ERCC-")]
    if "replicates" in source:
        samples = pd.read_csv(DATA / source["samples"], sep="\t", index_col=0)
        table = table.T.groupby(samples[source["replicates"]]).sum().T
    return table.add_prefix(source.get("sample_prefix", ""), axis="columns")


def genes_of(rows: pd.Index, kind: str) -> pd.Index:
    """The gene of each row by its id, symbol or Entrez id, in this order; the row's own name where no table has it."""
    if kind == "ensembl":
        # genes on both sex chromosomes had ids of their own for their copy on Y
        return rows.str.partition(".").get_level_values(0).str.replace("ENSGR", "ENSG0")
    parts = rows.str.removeprefix("entrez:").str.partition("|")
    symbols, numbers = {
        "symbol": (rows, [None] * len(rows)),
        "symbol_entrez": (parts.get_level_values(0), parts.get_level_values(2)),
        "entrez": ([None] * len(rows), parts.get_level_values(0)),
    }[kind]
    known = pd.Series(symbols).map(gene_of_symbol())
    by_number = pd.Series(numbers).map(gene_of_entrez())
    by_number = by_number.mask(by_number.isin(known.dropna()) | by_number.duplicated())
    return pd.Index(known.fillna(by_number).fillna("unknown " + pd.Series(rows)))


def shared_symbols() -> pd.Index:
    """Genes of the vocabulary with a symbol of several of them, which names none."""
    symbols = GENES.loc[VOCABULARY, "symbol"]
    return VOCABULARY[symbols.notna() & symbols.duplicated(keep=False)]


def tpm_of_table(name: str) -> pd.DataFrame:
    """TPM of a table over all of its genes: samples x vocabulary, NaN where there is no such gene."""
    source, table = SOURCES[name], raw_table(name)
    genes = genes_of(table.index, source["gene_id"])
    lengths = GENES["length_bp"].reindex(genes).fillna(UNKNOWN_LENGTH_BP).to_numpy()
    per_length = source["units"] in ("tpm", "fpkm")
    rate = table.to_numpy(np.float64) / (1 if per_length else lengths[:, None])
    tpm = pd.DataFrame(rate / np.nansum(rate, axis=0) * 1e6, genes, table.columns)
    tpm = tpm.groupby(level=0).sum(min_count=1).reindex(VOCABULARY).T
    if source["gene_id"].startswith("symbol"):
        tpm[shared_symbols()] = np.nan
    return tpm


def tpm_of_salmon(name: str) -> pd.DataFrame:
    genes, found = gene_of_transcript(), {}
    for path in DATA.glob(SOURCES[name]["path"]):
        table = pd.read_csv(path, sep="\t")
        tpm = table["TPM"].groupby(genes[table["Name"].str.partition(".")[0]].to_numpy()).sum()
        found[path.parent.name] = tpm / tpm.sum() * 1e6
    return pd.DataFrame(found).reindex(VOCABULARY).T


@pytest.mark.parametrize(
    ("name", "computed"),
    [
        ("lcl_pickrell", tpm_of_table),
        ("gtex_skin", tpm_of_table),
        ("gtex_brain", tpm_of_table),
        ("t47d", tpm_of_table),
        ("k562_srp009615", tpm_of_table),
        ("blood_hiv_tb", tpm_of_table),
        ("srp029880", tpm_of_table),
        ("TCGA_UCS", tpm_of_table),
        ("seqc_coh_lanes", tpm_of_table),
        ("hpa_tissue_means", tpm_of_table),
        ("gide_melanoma", tpm_of_table),
        ("macrophage_salmon", tpm_of_salmon),
    ],
)
def test_profiles_are_the_tpm_that_pandas_computes(
    exported: anndata.AnnData, name: str, computed: Callable[[str], pd.DataFrame]
) -> None:
    profiles = exported[exported.obs["source"] == name]
    assert profiles.n_obs > 5
    expected = np.log1p(computed(name).loc[profiles.obs_names].to_numpy())
    found = np.asarray(profiles.X)
    assert np.isfinite(expected).mean() > 0.6
    # float16 has eleven bits
    np.testing.assert_allclose(found, expected, rtol=2**-10, atol=2**-14)
