"""`evaluation embed` and `evaluation run` end to end: a small corpus, a small model with random weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from made_corpora import make_corpus
from safetensors.torch import save_file

from dataprep.corpus import (
    GENES_FILE,
    MANIFEST_FILE,
    REJECTED_FILE,
    SAMPLES_FILE,
    GeneGraph,
    Manifest,
    SampleCounts,
    SplitSummary,
    manifest_text,
    open_corpus,
    read_split,
    table_bytes,
    write_shard,
)
from dataprep.genes.vocabulary import GeneVocabulary
from dataprep.runtime.command_line import main
from dataprep.runtime.storage import Folder
from evaluation.__main__ import COMMANDS
from pretrain.model.bulkformer import BulkFormer
from pretrain.model.export_file import write_export
from pretrain.shape import ModelShape

GENES = 120
ROWS = {"train": 60, "validation": 20, "test": 30}


def vocabulary(genes=GENES, first=0):
    ids = tuple(f"ENSG{number:011d}" for number in range(first, first + genes))
    return GeneVocabulary(ids, tuple(f"SYM{number}" for number in range(first, first + genes)), np.full(genes, 1000.0))


def write_corpus(where, genes):
    """Profiles of rank 4 and two tissues; five studies per split; some genes missing in some studies."""
    generator, folder = np.random.default_rng(0), Folder(str(where))
    total = sum(ROWS.values())
    tissue = np.arange(total) % 2
    latent = generator.normal(0, 1, (total, 4)) + 2 * tissue[:, None]
    loading = np.random.default_rng(1).normal(0, 0.5, (4, genes.size))
    expression = np.abs(3 + latent @ loading + generator.normal(0, 0.2, (total, genes.size))).astype(np.float16)
    expression[::5, :10] = np.nan
    splits = np.repeat(list(ROWS), list(ROWS.values()))
    entries, first = [], 0
    for split, rows in ROWS.items():
        part = expression[first : first + rows]
        entries.append(write_shard(folder, f"split={split}/part-00000.parquet", split, first, part, genes, 8))
        first += rows
    samples = pa.table(
        {
            "sample_id": [f"sample{row}" for row in range(total)],
            "study_id": [f"{split}{row % 5}" for row, split in enumerate(splits)],
            "split": splits.tolist(),
            "row_id": pa.array(range(total), pa.int64()),
            "source": ["synthetic"] * total,
            "tissue": np.where(tissue, "liver", "brain").tolist(),
            "donor": [f"donor{row}" for row in range(total)],
        }
    )
    for name, table in ((GENES_FILE, genes.to_arrow()), (SAMPLES_FILE, samples)):
        folder.write_bytes(name, table_bytes(table))
    folder.write_bytes(REJECTED_FILE, table_bytes(pa.table({"sample_id": pa.array([], pa.string())})))
    manifest = Manifest(
        genes=genes.size,
        vocabulary_sha256=genes.fingerprint,
        rows_per_row_group=8,
        splits={split: SplitSummary(rows=rows, studies=[]) for split, rows in ROWS.items()},
        shards=entries,
        tables_sha256={},
        samples=SampleCounts(read=total, kept=total, rejected={}),
        sources=[],
        settings={},
    )
    folder.write_text(MANIFEST_FILE, manifest_text(manifest))


def write_model(where, genes, dim=16, heads=4):
    torch.manual_seed(0)
    shape = ModelShape(genes=genes.size, dim=dim, performer_layers=1, heads=heads)
    ring = np.arange(genes.size, dtype=np.int32)
    graph = GeneGraph(ring, np.roll(ring, 1), np.full(genes.size, 0.5, np.float32), genes.fingerprint)
    write_export(Folder(str(where)), shape, BulkFormer(shape, graph).state_dict(), genes, graph, {"step": 0})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a corpus, a model that fits it, and one over other genes."""
    folder = tmp_path_factory.mktemp("evaluation")
    write_corpus(folder / "corpus", vocabulary())
    write_model(folder / "model", vocabulary())
    write_model(folder / "stranger", vocabulary(first=20))
    write_model(folder / "foreign", vocabulary(first=80))
    return folder


@pytest.fixture
def evaluation(monkeypatch, capsys):
    """Run a command; returns (exit code, standard output, standard error)."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def call(*arguments):
        code = main("evaluation", "", COMMANDS, [str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def embed_arguments(folder, output, *more):
    return ("embed", "--model", folder / "model", "--input", folder / "corpus", "--output", output, *more)


def vectors(path, column="embedding"):
    table = pq.read_table(path)
    values = table.column(column).combine_chunks()
    return table.column("sample_id").to_pylist(), values.flatten().to_numpy().reshape(len(values), -1)


def one_shot(folder, split="test"):
    """The model's output for a whole split at once."""
    model = BulkFormer.from_pretrained(str(folder / "model"))
    _, expression = read_split(open_corpus(str(folder / "corpus")), split)
    with torch.inference_mode():
        return model(torch.from_numpy(expression.astype(np.float32)))


@pytest.mark.parametrize("pooling", ["mean", "max", "median", "all"])
def test_streamed_sample_embeddings_equal_one_forward_pass(folder, evaluation, tmp_path, pooling):
    output = tmp_path / "embedding.parquet"
    more = ("--split", "test", "--pooling", pooling, "--batch-size", 3, "--json")
    code, out, err = evaluation(*embed_arguments(folder, output, *more))
    assert code == 0, err
    assert json.loads(out) == {"output": str(output), "profiles": 30, "level": "sample", "width": 19}
    genes = one_shot(folder).gene_embedding.numpy()
    parts = {"mean": genes.mean(1), "max": genes.max(1), "median": np.median(genes, axis=1)}
    expected = sum(parts.values()) if pooling == "all" else parts[pooling]
    names, found = vectors(output)
    assert names == [f"sample{row}" for row in range(80, 110)]
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("level", ["sample", "expression"])
def test_memory_does_not_grow_with_the_cohort(tmp_path, level):
    """800 profiles more, which take 32 MB as they are stored and 64 MB as the model reads them, or as results."""
    genes, peaks = 20_000, []
    for profiles in (100, 900):
        place = tmp_path / str(profiles)
        corpus = make_corpus(str(place / "corpus"), {"train": 0, "validation": 0, "test": profiles}, genes)
        write_model(place / "model", corpus.vocabulary, dim=4, heads=1)
        peaks.append(peak_bytes_of_embedding(place, level, profiles))
    assert peaks[1] - peaks[0] < 20e6


def peak_bytes_of_embedding(place, level, profiles):
    """Of the command in a process of its own (getrusage would tell of this one's too, from which that is forked).

    In small batches: two runs of the same differ by some of a batch's tensors, as the allocator finds room for them.
    With one thread, since two that wait for each other take far longer; results are written in small parts, so that
    the smaller cohort fills more than one.
    """
    arguments = embed_arguments(place, place / "out.parquet", "--level", level, "--batch-size", 2)
    code = (
        "import sys; from pathlib import Path;"
        "from evaluation.embed import embedding_file; embedding_file._ROW_GROUP_BYTES = 2 * 1024**2;"
        "from dataprep.runtime.command_line import main; from evaluation.__main__ import COMMANDS;"
        "sys.exit(main('evaluation', '', COMMANDS, sys.argv[1:])"
        " or print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]))"
    )
    line = [sys.executable, "-c", code, *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=True)
    assert pq.read_metadata(place / "out.parquet").num_rows == profiles
    return int(done.stdout.split()[-1]) * 1024


def test_all_splits_are_written_in_order_of_row_id(folder, evaluation, tmp_path):
    assert evaluation(*embed_arguments(folder, tmp_path / "all.parquet"))[0] == 0
    assert vectors(tmp_path / "all.parquet")[0] == [f"sample{row}" for row in range(110)]


def test_gene_level_has_one_vector_per_profile_and_chosen_gene(folder, evaluation, tmp_path):
    output = tmp_path / "genes.parquet"
    more = ("--split", "test", "--level", "gene", "--genes", "SYM7,ENSG00000000002.1", "--batch-size", 7)
    assert evaluation(*embed_arguments(folder, output, *more))[0] == 0
    table = pq.read_table(output)
    assert table.column("ensembl_id").to_pylist()[:4] == ["ENSG00000000007", "ENSG00000000002"] * 2
    assert table.column("sample_id").to_pylist()[:4] == ["sample80"] * 2 + ["sample81"] * 2
    expected = one_shot(folder).gene_embedding[:, [7, 2]].reshape(60, -1).numpy()
    np.testing.assert_allclose(vectors(output)[1], expected, atol=1e-4)


def test_protein_embeddings_stand_beside_those_of_genes(folder, evaluation, tmp_path):
    proteins = torch.randn(GENES, 6, generator=torch.Generator().manual_seed(0))
    save_file({"gene_embedding": proteins}, tmp_path / "esm2.safetensors")
    output = tmp_path / "joined.parquet"
    more = ("--split", "test", "--level", "gene", "--genes", "SYM7,SYM2", "--protein-embeddings")
    assert evaluation(*embed_arguments(folder, output, *more, tmp_path / "esm2.safetensors"))[0] == 0
    genes = one_shot(folder).gene_embedding[:, [7, 2]]
    expected = torch.cat([genes, proteins[[7, 2]].expand(30, 2, 6)], dim=2).reshape(60, -1)
    np.testing.assert_allclose(vectors(output)[1], expected.numpy(), atol=1e-4)
    save_file({"gene_embedding": proteins[:-1].clone()}, tmp_path / "short.safetensors")
    code, _, err = evaluation(*embed_arguments(folder, output, *more, tmp_path / "short.safetensors"))
    assert (code, err.count("\n")) == (1, 1)
    assert "(119, 6) is not one row for each of the model's 120 genes" in err


def test_workers_find_what_a_relative_path_names(folder, evaluation, tmp_path, ray_session, monkeypatch):
    """They have working directories of their own."""
    monkeypatch.chdir(folder)
    (tmp_path / "genes.txt").write_text("SYM3\nSYM5\n")
    genes = os.path.relpath(tmp_path / "genes.txt")
    code, _, err = evaluation(
        "embed", "--model", "model", "--input", "corpus", "--output", tmp_path / "embedding.parquet",
        "--genes", genes, "--workers", 1,
    )  # fmt: skip
    assert code == 0, err


@pytest.mark.parametrize("level", ["sample", "gene", "expression"])
def test_many_workers_write_what_one_writes(folder, evaluation, tmp_path, ray_session, level):
    more = ("--level", level, "--batch-size", 4)
    for name, workers in (("one", 0), ("two", 2)):
        output = tmp_path / f"{name}.parquet"
        code, _, err = evaluation(*embed_arguments(folder, output, *more, "--workers", workers))
        assert code == 0, err
    column = "expression" if level == "expression" else "embedding"
    names, expected = vectors(tmp_path / "one.parquet", column)
    found_names, found = vectors(tmp_path / "two.parquet", column)
    assert found_names == names
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_expression_level_is_the_corrected_expression_also_as_anndata(folder, evaluation, tmp_path):
    expected = one_shot(folder).expression.numpy()
    for name in ("expression.parquet", "expression.h5ad"):
        more = ("--split", "test", "--level", "expression", "--batch-size", 4)
        assert evaluation(*embed_arguments(folder, tmp_path / name, *more))[0] == 0
    np.testing.assert_allclose(vectors(tmp_path / "expression.parquet", "expression")[1], expected, atol=1e-4)
    written = anndata.read_h5ad(tmp_path / "expression.h5ad")
    np.testing.assert_allclose(written.X, expected, atol=1e-4)
    assert written.var_names.tolist() == list(vocabulary().ensembl_ids)
    assert written.obs_names[0] == "sample80"
    metadata = pq.read_schema(tmp_path / "expression.parquet").metadata
    assert json.loads(metadata[b"genes"]) == list(vocabulary().ensembl_ids)


def write_counts(path, gene_ids, samples=5):
    counts = np.random.default_rng(0).poisson(50, (samples, len(gene_ids))).astype(np.float32)
    obs = pd.DataFrame(index=[f"cell line {number}" for number in range(samples)])
    anndata.AnnData(counts, obs=obs, var=pd.DataFrame(index=list(gene_ids))).write_h5ad(path)
    return counts


def test_anndata_input_is_normalised_and_aligned_by_id_without_version(folder, evaluation, tmp_path):
    shuffled = np.random.default_rng(1).permutation(GENES)[:100]  # 20 genes are not measured
    counts = write_counts(tmp_path / "in.h5ad", [f"{vocabulary().ensembl_ids[gene]}.4" for gene in shuffled])
    arguments = ("embed", "--model", folder / "model", "--input", tmp_path / "in.h5ad", "--units", "counts")
    code, _, err = evaluation(*arguments, "--output", tmp_path / "out.parquet", "--batch-size", 2)
    assert code == 0, err
    assert "20 of the model's 120 genes are not measured" in err
    expression = np.full((5, GENES), np.nan, np.float32)
    tpm = counts / counts.sum(axis=1, keepdims=True) * 1e6  # all genes have the same length
    expression[:, shuffled] = np.log1p(tpm).astype(np.float16)
    with torch.inference_mode():
        expected = BulkFormer.from_pretrained(str(folder / "model"))(torch.from_numpy(expression)).gene_embedding.mean(
            dim=1
        )
    np.testing.assert_allclose(vectors(tmp_path / "out.parquet")[1], expected.numpy(), atol=1e-3)


def test_values_that_are_not_what_they_are_declared_leave_nothing_behind(folder, evaluation, tmp_path):
    write_counts(tmp_path / "in.h5ad", vocabulary().ensembl_ids)
    with h5py.File(tmp_path / "in.h5ad", "r+") as file:
        file["X"][4, 3] = 0.5
    arguments = ("embed", "--model", folder / "model", "--input", tmp_path / "in.h5ad", "--units", "counts")
    for name in ("out.parquet", "out.h5ad"):
        code, _, err = evaluation(*arguments, "--output", tmp_path / name)
        assert code == 1
        assert "1 of 600 values are fractional" in err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["in.h5ad"]


def test_failing_keeps_the_file_that_was_there(folder, evaluation, tmp_path):
    output = tmp_path / "out.parquet"
    assert evaluation(*embed_arguments(folder, output, "--split", "test"))[0] == 0
    earlier = output.read_bytes()
    write_counts(tmp_path / "in.h5ad", [f"ENSG{900 + number:011d}" for number in range(10)])
    arguments = ("embed", "--model", folder / "model", "--input", tmp_path / "in.h5ad", "--units", "counts")
    assert evaluation(*arguments, "--output", output)[0] == 1
    assert output.read_bytes() == earlier


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("embed", "--model", "stranger", "--input", "corpus", "--output", "x.parquet"), 1, "20 of the model's 120"),
        (("run", "--model", "foreign", "--corpus", "corpus"), 1, "over another vocabulary than the model"),
        (("run", "--model", "corpus", "--corpus", "corpus"), 1, "is not a model export"),
        (("run", "--model", "model", "--corpus", "model"), 1, "is not a corpus"),
        (("run", "--model", "model", "--corpus", "corpus", "--label", "colour"), 1, "it has tissue, donor"),
        (("run", "--model", "model", "--corpus", "corpus", "--label", "donor"), 1, "2 are needed"),
        (("run", "--model", "model", "--corpus", "corpus", "--split", "train"), 2, "split"),
        (("run", "--model", "model", "--corpus", "corpus", "--tasks", "palmistry"), 2, "tasks"),
        (("run", "--model", "model", "--corpus", "corpus", "--output", "x.txt"), 2, "must end in .json or .parquet"),
        (("embed", "--model", "model", "--input", "corpus", "--output", "x.csv"), 2, "must end in .parquet"),
        (("embed", "--model", "model", "--input", "in.h5ad", "--output", "x.parquet"), 2, "give units"),
        (
            ("embed", "--model", "model", "--input", "in.h5ad", "--units", "counts", "--output", "x.parquet"),
            1,
            "no such file",
        ),
        (
            ("embed", "--model", "model", "--input", "corpus", "--output", "x.parquet", "--units", "counts"),
            2,
            "--units would have no effect for corpus",
        ),
        (
            ("embed", "--model", "model", "--input", "corpus", "--output", "x.h5ad", "--level", "gene"),
            2,
            "ends in .parquet",
        ),
        (
            ("embed", "--model", "model", "--input", "corpus", "--output", "x.parquet", "--genes", "NOGENE"),
            1,
            "1 of 1 genes are not in the model's vocabulary",
        ),
    ],
)
def test_mistakes_get_one_line_and_leave_nothing(folder, evaluation, monkeypatch, arguments, code, message):
    monkeypatch.chdir(folder)
    before = sorted(path.name for path in folder.iterdir())
    found, _, err = evaluation(*arguments)
    assert (found, len(err.splitlines())) == (code, 1), err
    assert message in err
    assert sorted(path.name for path in folder.iterdir()) == before


FAST = ("--imputation.resamples", 100, "--imputation.ranks", "2,4", "--classification.trees", 10, "--batch-size", 8)


def test_run_scores_the_model_beside_baselines_on_every_task(folder, evaluation, tmp_path):
    output = tmp_path / "results.json"
    arguments = ("run", "--model", folder / "model", "--corpus", folder / "corpus", "--output", output, "--json", *FAST)
    code, out, err = evaluation(*arguments)
    assert code == 0, err
    results = {result["task"]: result for result in json.loads(output.read_text())["results"]}
    assert results["imputation"]["facts"]["pca_rank"] == 4
    assert results["imputation"]["facts"]["profiles"] == ROWS["test"]
    assert "over 5 studies" in results["imputation"]["facts"]["intervals"]
    pearson = {s["method"]: s for s in results["imputation"]["scores"] if s["metric"] == "pearson"}
    # untrained weights know nothing; the linear baseline knows the rank of these profiles
    assert pearson["probabilistic PCA"]["low"] > pearson["gene mean"]["high"] > pearson["BulkFormer"]["value"]
    # donor names are no classes
    assert results["classification"]["subject"] == "tissue"
    accuracy = {s["method"]: s["value"] for s in results["classification"]["scores"] if s["metric"] == "accuracy"}
    assert accuracy["raw expression"] > 0.9
    assert accuracy["BulkFormer mean embedding"] > 0.7 > accuracy["class frequencies"]
    assert "over 15 studies" in results["classification"]["facts"]["intervals"]
    for result in results.values():
        assert result["verdict"].startswith("by ")
        assert all(s["p_corrected"] >= s["p"] for s in result["scores"] if s.get("p_corrected") is not None)
    assert out.count(": difference to each baseline") == 2
    assert "probabilistic PCA" in out
    assert "imputation/gene_mean/mse" in json.loads(out.splitlines()[-1])["scores"]


def test_scores_can_be_written_as_a_flat_table_and_are_the_same_each_time(folder, evaluation, tmp_path):
    arguments = ("run", "--model", folder / "model", "--corpus", folder / "corpus", "--tasks", "imputation", *FAST)
    for name in ("one.parquet", "two.parquet"):
        assert evaluation(*arguments, "--split", "validation", "--output", tmp_path / name)[0] == 0
    table = pq.read_table(tmp_path / "one.parquet")
    names = ["task", "subject", "method", "metric", "baseline", "value", "low", "high", "p", "p_corrected"]
    assert table.column_names == names
    assert table.equals(pq.read_table(tmp_path / "two.parquet"))


def test_a_tracking_server_that_is_unavailable_costs_one_line_only(folder, evaluation, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    output = tmp_path / "results.json"
    arguments = ("run", "--model", folder / "model", "--corpus", folder / "corpus", "--tasks", "imputation", *FAST)
    code, _, err = evaluation(*arguments, "--output", output)
    assert code == 0
    assert sum("MLflow did not take the results" in line for line in err.splitlines()) == 1
    assert output.is_file()


def test_results_reach_mlflow(folder, evaluation, monkeypatch, tmp_path):
    import mlflow

    address = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("A_SECRET_OF_THE_ENVIRONMENT", "hunter2hunter2")
    arguments = ("run", "--model", folder / "model", "--corpus", folder / "corpus", "--tasks", "imputation", *FAST)
    code, out, err = evaluation(*arguments, "--json")
    assert code == 0, err
    client = mlflow.MlflowClient(address)
    run = client.get_run(json.loads(out.splitlines()[-1])["mlflow_run_id"])
    assert client.get_experiment(run.info.experiment_id).name == "evaluation"
    assert run.info.status == "FINISHED"
    assert run.data.metrics["imputation/probabilistic_PCA/pearson"] > 0.5
    assert run.data.params["imputation.mask_rate"] == "0.15"
    assert run.data.tags["bulkformer.corpus_sha256"] == open_corpus(str(folder / "corpus")).fingerprint
    assert "hunter2hunter2" not in str(run.to_dictionary())
    path = client.download_artifacts(run.info.run_id, "results.json", str(tmp_path))
    assert json.loads(Path(path).read_text())["results"][0]["task"] == "imputation"
