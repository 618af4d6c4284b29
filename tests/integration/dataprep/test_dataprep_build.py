"""Sources become a corpus: every kept sample once, in the right split, the same every time."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest

from dataprep.__main__ import COMMANDS
from dataprep.coexpression.command import build_gene_graph
from dataprep.config import BuildSettings, GraphSettings, SimulateSettings
from dataprep.corpus import Corpus, open_corpus, read_split, verify
from dataprep.corpus.replacement import BEGUN_FILE
from dataprep.pipeline.build import build
from dataprep.runtime.command_line import UserError, main
from dataprep.simulate import simulate
from tests.made_sources import GENES, build_settings, counts, delimited, gene_ids, names, write_source

pytestmark = pytest.mark.usefixtures("ray_session")


def built(settings: BuildSettings) -> Corpus:
    build(settings)
    corpus = open_corpus(settings.corpus)
    verify(corpus)
    return corpus


def by_sample(corpus: Corpus) -> dict[str, np.ndarray]:
    """The profile of every sample."""
    values = np.concatenate([read_split(corpus, split)[1] for split in ("train", "validation", "test")])
    samples = corpus.samples()
    rows = zip(samples.column("sample_id").to_pylist(), samples.column("row_id").to_pylist(), strict=True)
    return {sample: values[row_id] for sample, row_id in rows}


def rejected(corpus: Corpus) -> dict[str, tuple[str, str]]:
    return {row["sample_id"]: (row["reason"], row["value"]) for row in corpus.read_rejected().to_pylist()}


def tpm_by_hand(values: np.ndarray, columns: Sequence[int], corpus: Corpus) -> np.ndarray:
    rate = values / corpus.vocabulary.lengths_bp[list(columns)]
    return np.log1p(rate / rate.sum(axis=1, keepdims=True) * 1e6)


def test_every_sample_is_there_once_with_its_own_profile(tmp_path: Path) -> None:
    sources = [write_source(tmp_path, name, counts(9, seed=seed)) for seed, name in enumerate(["a", "bb", "ccc"])]
    corpus = built(build_settings(tmp_path, sources, samples_per_task=4))
    profiles = by_sample(corpus)
    assert sorted(profiles) == sorted(sample for name in ("a", "bb", "ccc") for sample in names(name, 9))
    for seed, name in enumerate(["a", "bb", "ccc"]):
        found = np.stack([profiles[sample] for sample in names(name, 9)])
        assert np.allclose(found, tpm_by_hand(counts(9, seed=seed), range(GENES), corpus), rtol=2e-3)


def test_a_sample_that_another_study_has_nearly_the_same_is_refused(tmp_path: Path) -> None:
    again = counts(5, seed=1)
    again[2] = counts(9)[4]
    again[2, 0] += 1
    sources = [write_source(tmp_path, "a", counts(9)), write_source(tmp_path, "bb", again)]
    corpus = built(build_settings(tmp_path, sources, max_correlation_between_studies=0.9999))
    ((sample, (reason, value)),) = rejected(corpus).items()
    assert (sample, reason) == ("bb_002", "near_duplicate")
    assert value.startswith("a: a_004, r ")
    assert corpus.manifest.samples.rejected == {"near_duplicate": 1}


def test_a_study_is_in_one_split(tmp_path: Path) -> None:
    sources = [write_source(tmp_path, f"s{number}", counts(5, seed=number)) for number in range(8)]
    samples = built(build_settings(tmp_path, sources)).samples().to_pandas()
    assert (samples.groupby("study_id")["split"].nunique() == 1).all()
    assert set(samples["split"]) == {"train", "validation", "test"}
    assert samples["row_id"].tolist() == list(range(40))


def test_profiles_are_shuffled_between_sources(tmp_path: Path) -> None:
    sources = [write_source(tmp_path, f"s{number}", counts(20, seed=number)) for number in range(3)]
    corpus = built(build_settings(tmp_path, sources, split={"validation_fraction": 0, "test_fraction": 0}))
    assert corpus.samples().slice(0, 20).column("source").to_pandas().nunique() == 3


def test_the_same_settings_give_the_same_corpus_however_the_work_is_cut(tmp_path: Path) -> None:
    sources = [write_source(tmp_path, f"s{number}", counts(11, seed=number)) for number in range(4)]
    first = built(build_settings(tmp_path, sources, corpus=str(tmp_path / "one"), samples_per_task=3))
    second = built(build_settings(tmp_path, sources, corpus=str(tmp_path / "two"), samples_per_task=100))
    assert first.manifest.shards == second.manifest.shards
    assert first.manifest.tables_sha256 == second.manifest.tables_sha256
    other = built(build_settings(tmp_path, sources, corpus=str(tmp_path / "three"), seed=1))
    assert first.samples().column("sample_id") != other.samples().column("sample_id")


def test_shards_and_row_groups_have_the_sizes_asked_for(tmp_path: Path) -> None:
    sources = [write_source(tmp_path, "a", counts(30))]
    row_bytes = 2 * GENES + 8
    corpus = built(build_settings(tmp_path, sources, shard_bytes=8 * row_bytes))
    assert [shard.rows for shard in corpus.shards("train")] == [8, 8, 8, 6]
    assert corpus.shards("train")[3].row_group_rows == (4, 2)


def test_genes_a_source_lacks_are_missing_and_not_zero(tmp_path: Path) -> None:
    values = counts(5)
    values[:, 3] = 0
    source = write_source(tmp_path, "a", values[:, :30], gene_ids(30))
    profiles = np.stack(list(by_sample(built(build_settings(tmp_path, [source]))).values()))
    assert np.isnan(profiles[:, 30:]).all()
    assert not np.isnan(profiles[:, :30]).any()
    assert (profiles[:, 3] == 0).all()


def test_genes_outside_the_vocabulary_count_in_the_sum(tmp_path: Path) -> None:
    values = counts(5, GENES + 20)
    corpus = built(build_settings(tmp_path, [write_source(tmp_path, "a", values, gene_ids(GENES + 20))]))
    totals = np.expm1(np.stack(list(by_sample(corpus).values())).astype(float)).sum(axis=1)
    assert (totals < 0.95e6).all()


def test_orientations_and_formats_agree(tmp_path: Path) -> None:
    values, genes, samples = counts(6), gene_ids(), names("s", 6)
    sources = [write_source(tmp_path, "table", values, samples=samples, sample_prefix="table/")]
    (tmp_path / "rows.csv").write_text(delimited(values.T, samples, genes, ","))
    sources.append(
        {**sources[0], "name": "rows", "path": "rows.csv", "orientation": "samples_x_genes", "sample_prefix": "rows/"}
    )
    obs = pd.DataFrame({"tissue": ["liver"] * 6, "study": ["anndata"] * 6}, index=samples)
    anndata.AnnData(values.astype(np.float32), obs, pd.DataFrame(index=genes)).write_h5ad(tmp_path / "x.h5ad")
    sources.append(
        {"name": "h5ad", "path": "x.h5ad", "format": "h5ad", "gene_id": "ensembl", "units": "counts"}
        | {"study_column": "study", "sample_prefix": "h5ad/"}
    )
    # the same profiles three times: all but one would be refused, so each is built alone
    built_alone = []
    for source in sources:
        corpus = built(build_settings(tmp_path, [source], corpus=str(tmp_path / source["name"])))
        built_alone.append({sample.partition("/")[2]: row for sample, row in by_sample(corpus).items()})
    for sample in samples:
        assert np.array_equal(built_alone[0][sample], built_alone[1][sample])
        assert np.array_equal(built_alone[0][sample], built_alone[2][sample])
    assert corpus.samples().column("tissue").to_pylist() == ["liver"] * 6


def test_labels_of_all_sources_are_kept_and_null_where_a_source_has_none(tmp_path: Path) -> None:
    (tmp_path / "a.samples.tsv").write_text(
        "sample\ttissue\tos_days\n" + "".join(f"{name}\tliver\t0{name[-1]}.50\n" for name in names("a", 6))
    )
    sources = [write_source(tmp_path, "a", samples=names("a", 6)), write_source(tmp_path, "bb")]
    sources[0]["samples"] = "a.samples.tsv"
    samples = built(build_settings(tmp_path, sources)).samples().to_pandas().set_index("sample_id")
    assert samples.loc["a_003", "tissue"] == "liver"
    assert samples.loc["a_003", "os_days"] == "03.50"
    assert samples.loc["bb_003", "tissue"] is None


def test_a_glob_reads_all_files_of_a_source(tmp_path: Path) -> None:
    for number in range(3):
        write_source(tmp_path, f"part{number}", counts(4, seed=number))
    source = write_source(tmp_path, "other") | {"name": "parts", "path": "part*.tsv.gz", "study": "parts"}
    corpus = built(build_settings(tmp_path, [source]))
    assert corpus.manifest.samples.kept == 12


def test_refused_samples_are_listed_with_reason_and_value(tmp_path: Path) -> None:
    values = counts(8)
    values[1] = 0
    values[2, 9:] = 0
    first = write_source(tmp_path, "a", values, exclude_samples=["a_005"])
    # one sample of the same name, one of the same profile under another name
    second = write_source(tmp_path, "bb", np.stack([counts(8)[7], counts(1, seed=9)[0]]), samples=["b_x", "a_000"])
    corpus = built(build_settings(tmp_path, [first, second]))
    assert rejected(corpus) == {
        "a_001": ("no_expression", "0"),
        "a_002": ("too_few_nonzero_genes", "9"),
        "a_005": ("excluded_by_settings", None),
        "a_000": ("duplicate_sample_id", "a: a_000"),
        "b_x": ("duplicate_profile", "a: a_007"),
    }
    counted = corpus.manifest.samples
    assert counted.read == counted.kept + sum(counted.rejected.values()) == 10


def test_a_finished_corpus_is_replaced_only_when_asked(tmp_path: Path) -> None:
    settings = build_settings(tmp_path, [write_source(tmp_path, "a", counts(30))], shard_bytes=400)
    built(settings)
    (tmp_path / "corpus" / "gene_graph.parquet").write_bytes(b"of the old corpus")
    with pytest.raises(UserError, match="is a finished corpus already; --overwrite replaces it"):
        build(settings)
    smaller = [write_source(tmp_path, "a", counts(7))]
    corpus = built(build_settings(tmp_path, smaller, overwrite=True))
    assert corpus.rows("train") == 7
    left = sorted(path.name for path in (tmp_path / "corpus").rglob("*") if path.is_file())
    assert left == ["genes.parquet", "manifest.json", "part-00000.parquet", "rejected.parquet", "samples.parquet"]


def test_what_an_interrupted_build_left_is_no_corpus_and_is_cleared(tmp_path: Path) -> None:
    left = tmp_path / "corpus" / "split=train"
    left.mkdir(parents=True)
    (left / "part-00077.parquet").write_bytes(b"half")
    (tmp_path / "corpus" / BEGUN_FILE).touch()
    with pytest.raises(UserError, match="is not a corpus"):
        open_corpus(str(tmp_path / "corpus"))
    built(build_settings(tmp_path, [write_source(tmp_path, "a")]))
    assert [path.name for path in left.iterdir()] == ["part-00000.parquet"]
    assert not (tmp_path / "corpus" / BEGUN_FILE).exists()


def test_a_failed_rebuild_leaves_the_old_corpus_as_it_was(tmp_path: Path) -> None:
    before = built(build_settings(tmp_path, [write_source(tmp_path, "a")]))
    with pytest.raises(UserError, match="negative"):
        build(build_settings(tmp_path, [write_source(tmp_path, "a", -counts(3))], overwrite=True))
    after = open_corpus(str(tmp_path / "corpus"))
    verify(after)
    assert after.fingerprint == before.fingerprint


def test_a_simulated_cohort_builds_with_its_own_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = SimulateSettings.model_construct(
        output=str(tmp_path / "cohort"), samples=80, genes=300, studies=4, tissues=3, programs=8, seed=0
    )
    simulate(settings)
    arguments = ["build", "--config", str(tmp_path / "cohort/build.yaml"), "--corpus", str(tmp_path / "corpus")]
    assert main("dataprep", "", COMMANDS, [*arguments, "--json"]) == 0
    said = capsys.readouterr()
    report: dict[str, Any] = json.loads(said.out.splitlines()[-1])
    assert report["samples"] == {"read": 80, "kept": 80, "rejected": {}}
    assert "simulated_01: 20 samples read, 20 pass, 0 refused" in said.err
    assert f"{report['corpus']}: 80 profiles written (train " in said.err
    corpus = open_corpus(str(tmp_path / "corpus"))
    assert {"tissue", "disease", "os_days", "os_event"} <= set(corpus.samples().column_names)
    graph = GraphSettings.model_construct(
        corpus=corpus.folder.uri,
        min_correlation=0.4,
        max_neighbours=20,
        max_samples=1000,
        min_common_samples=20,
        genes_per_block=100,
    )
    assert build_gene_graph(graph)["edges"] > 300
