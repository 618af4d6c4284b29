"""The made-up cohort has the structure it claims to have, and is the same every time."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from dataprep.coexpression.correlation import correlation_edges
from dataprep.config import BuildSettings, GraphSettings, SimulateSettings
from dataprep.genes.identifiers import map_genes
from dataprep.genes.vocabulary import GeneVocabulary, default_vocabulary
from dataprep.pipeline.normalization import log1p_tpm
from dataprep.pipeline.quality_control import nonzero_genes
from dataprep.runtime.command_line import UserError, read_settings
from dataprep.simulate import Study, Truth, draw_studies, draw_truth, simulate
from tests.made_corpora import pairs_in_turn

GENES = 1500
SETTINGS = SimulateSettings.model_construct(
    output="", samples=240, genes=GENES, studies=6, tissues=4, programs=12, seed=3
)


@pytest.fixture(scope="module")
def vocabulary() -> GeneVocabulary:
    return GeneVocabulary.from_arrow(default_vocabulary().to_arrow().slice(0, GENES))


@pytest.fixture(scope="module")
def truth(vocabulary: GeneVocabulary) -> Truth:
    return draw_truth(SETTINGS, vocabulary)


@pytest.fixture(scope="module")
def studies(vocabulary: GeneVocabulary, truth: Truth) -> list[Study]:
    return list(draw_studies(SETTINGS, vocabulary, truth))


@pytest.fixture(scope="module")
def expression(studies: list[Study], vocabulary: GeneVocabulary) -> np.ndarray:
    genes = map_genes("x", vocabulary.ensembl_ids, "ensembl", vocabulary)
    counts = np.concatenate([study.counts for study in studies])
    return log1p_tpm(counts.astype(np.float32), "counts", genes, vocabulary.size)


@pytest.fixture(scope="module")
def labels(studies: list[Study]) -> pd.DataFrame:
    return pd.concat([study.labels for study in studies], ignore_index=True)


def test_programs_explain_most_of_the_variation_of_expressed_genes(
    studies: list[Study], expression: np.ndarray, truth: Truth
) -> None:
    expressed = truth.base > 2
    x = expression[:, expressed].astype(np.float64)
    x -= x.mean(axis=0)
    activities = np.concatenate([study.activities for study in studies])
    design = np.column_stack([activities, np.ones(len(x))])
    residual = x - design @ np.linalg.lstsq(design, x, rcond=None)[0]
    explained = 1 - residual.var() / x.var()
    assert 0.5 < explained < 0.95


def test_a_linear_model_of_the_activities_misses_part_of_what_they_do(
    studies: list[Study], expression: np.ndarray, labels: pd.DataFrame, truth: Truth
) -> None:
    """Even one that knows all activities and is fitted to the very profiles: responses bend, and tissues differ."""
    expressed = truth.base > 2
    x = expression[:, expressed].astype(np.float64)
    activities = np.concatenate([study.activities for study in studies])
    design = np.column_stack([activities, np.ones(len(x))])
    linear = design @ np.linalg.lstsq(design, x, rcond=None)[0]
    tissues = sorted(labels["tissue"].unique())
    expected = truth.log_tpm(activities, labels["tissue"].map(tissues.index).to_numpy())[:, expressed]
    expected -= (expected - x).mean(axis=1, keepdims=True)  # of each sample: log TPM is known up to a constant
    expected -= (expected - x).mean(axis=0)
    unexplained = [((part - x) ** 2).sum() for part in (linear, expected)]
    assert unexplained[0] > 1.5 * unexplained[1]


def test_genes_correlate_enough_for_a_graph(expression: np.ndarray) -> None:
    settings = GraphSettings.model_construct(
        min_correlation=0.4, max_neighbours=20, min_common_samples=20, genes_per_block=1000
    )
    assert len(correlation_edges(expression, settings, run=pairs_in_turn)) > 5 * GENES


def test_profiles_pass_the_quality_control_that_is_written_beside_them(expression: np.ndarray) -> None:
    assert nonzero_genes(expression).min() >= 0.7 * GENES
    assert nonzero_genes(expression).max() < 0.95 * GENES


def test_studies_differ_in_depth_and_in_single_genes(studies: list[Study], expression: np.ndarray) -> None:
    depth = np.array([np.log(study.counts.sum(axis=1)).mean() for study in studies])
    assert depth.std() > 0.05
    sizes = np.cumsum([len(study.labels) for study in studies])
    means = np.array([part.astype(np.float64).mean(axis=0) for part in np.split(expression, sizes[:-1])])
    assert means.std(axis=0).mean() > 0.1


def test_counts_vary_more_than_poisson(studies: list[Study]) -> None:
    counts = studies[0].counts.astype(np.float64)
    share = counts / counts.sum(axis=1, keepdims=True) * counts.sum(axis=1).mean()
    frequent = share.mean(axis=0) > 500
    assert np.median(share[:, frequent].var(axis=0) / share[:, frequent].mean(axis=0)) > 10


def test_every_study_has_several_tissues_and_both_states(labels: pd.DataFrame) -> None:
    assert (labels.groupby("study")["tissue"].nunique() >= 3).all()
    assert (labels.groupby("study")["disease"].nunique() == 2).all()


def test_the_disease_shortens_life(labels: pd.DataFrame) -> None:
    assert 0.3 < labels["os_event"].mean() < 0.9
    rate = labels.groupby("disease").apply(lambda g: g["os_event"].sum() / g["os_days"].sum(), include_groups=False)
    assert rate["disease"] > 1.3 * rate["healthy"]


def test_the_same_settings_give_the_same_bytes(tmp_path: Path) -> None:
    written = []
    for name in ("a", "b"):
        simulate(SETTINGS.model_copy(update={"output": str(tmp_path / name), "samples": 24, "genes": 200}))
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        written.append({str(path.relative_to(tmp_path / name)): path.read_bytes() for path in files})
    assert written[0] == written[1]
    simulate(SETTINGS.model_copy(update={"output": str(tmp_path / "c"), "samples": 24, "genes": 200, "seed": 4}))
    assert (tmp_path / "c/simulated_01/expression.tsv.gz").read_bytes() != written[0]["simulated_01/expression.tsv.gz"]


def test_a_file_in_the_layout_of_archs4_has_the_counts_of_the_tables(tmp_path: Path) -> None:
    small = SETTINGS.model_copy(update={"samples": 90, "genes": 200, "studies": 3})
    for name in ("a", "b"):
        simulate(small.model_copy(update={"output": str(tmp_path / name), "format": "archs4"}))
    written = (tmp_path / "a/human_gene.h5").read_bytes()
    assert written == (tmp_path / "b/human_gene.h5").read_bytes()
    assert not list((tmp_path / "a").glob("simulated_*"))

    settings = read_settings(BuildSettings, ["--config", str(tmp_path / "a/build.yaml"), "--corpus", "c"])
    (source,) = settings.sources
    address = str(tmp_path / "a" / source.path)
    simulate(small.model_copy(update={"output": str(tmp_path / "tables")}))
    table = pd.read_csv(tmp_path / "tables/simulated_01/expression.tsv.gz", sep="\t", index_col=0)
    (first, *_) = source.read_samples(address, 0, 30)
    assert list(first.sample_ids) == list(table.columns)
    assert list(first.gene_ids) == list(table.index)
    assert np.array_equal(first.values, table.to_numpy().T)

    metadata = source.read_metadata(address)
    assert metadata["study"].value_counts().to_dict() == dict.fromkeys(
        ("simulated_01", "simulated_02", "simulated_03"), 30
    )
    assert {settings.split.validation[0], settings.split.test[0]} < set(metadata["study"])
    listed = source.list_samples(address)
    assert 0 < len(listed.refusals) < 10
    assert {refusal.reason for refusal in listed.refusals.values()} == {"single_cell"}


def test_the_truth_is_written_beside_the_data(tmp_path: Path) -> None:
    simulate(SETTINGS.model_copy(update={"output": str(tmp_path), "samples": 24, "genes": 200}))
    genes = pq.read_table(tmp_path / "truth_genes.parquet").to_pandas()
    samples = pq.read_table(tmp_path / "truth_samples.parquet").to_pandas()
    assert len(genes) == 200
    assert set(genes["response"]) == {"proportional", "saturating", "threshold"}
    assert 0.2 < (genes["rewired_in"] != "").mean() < 0.5  # a tenth of them in each of four tissues
    assert len(samples) == 24
    programs = [f"program_{number:02d}" for number in range(1, 13)]
    assert set(programs) <= set(genes.columns) & set(samples.columns)


def test_the_build_file_is_valid_and_names_whole_studies(tmp_path: Path) -> None:
    simulate(SETTINGS.model_copy(update={"output": str(tmp_path), "samples": 24, "genes": 200}))
    settings = read_settings(BuildSettings, ["--config", str(tmp_path / "build.yaml"), "--corpus", "c"])
    assert settings.split.validation == ["simulated_05"]
    assert settings.split.test == ["simulated_06"]
    assert settings.min_nonzero_genes == 140
    assert len(settings.sources) == 6


def test_a_cohort_is_not_overwritten(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"output": str(tmp_path), "samples": 24, "genes": 200})
    simulate(settings)
    with pytest.raises(UserError, match="holds a cohort already"):
        simulate(settings)


def test_more_genes_than_there_are_is_a_bad_argument(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--genes 30000 is more than the 20,024 there are"):
        simulate(SETTINGS.model_copy(update={"output": str(tmp_path), "genes": 30_000}))


@pytest.mark.filterwarnings("error")
def test_a_thousand_programs_are_written_without_a_warning(tmp_path: Path) -> None:
    simulate(SimulateSettings(output=str(tmp_path), samples=20, studies=1, genes=100, programs=1000))
    truth = pq.read_table(tmp_path / "truth_samples.parquet")
    assert truth.column_names[-1] == "program_1000"
    assert len(truth.column_names) == len(set(truth.column_names))
