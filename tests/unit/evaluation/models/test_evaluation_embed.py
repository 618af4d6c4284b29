"""`evaluation embed`: inputs are what they are said to be, settings have an effect, other people's files stay."""

import resource
from contextlib import contextmanager

import anndata
import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from made_corpora import make_corpus
from made_exports import write_model

from dataprep.genes.vocabulary import gene_reference
from dataprep.runtime.command_line import UserError, main
from evaluation.__main__ import COMMANDS
from evaluation.embed.embedding_file import AnnDataWriter, ParquetWriter, whole_file


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A corpus of eight profiles and a model that fits it."""
    place = tmp_path_factory.mktemp("embed")
    corpus = make_corpus(str(place / "corpus"), {"train": 0, "validation": 0, "test": 8}, genes=150)
    write_model(place / "model", corpus.vocabulary)
    write_model(place / "latest", corpus.vocabulary, "latest")
    return place


@pytest.fixture
def embed(folder, capsys, tmp_path):
    """Run the command; returns (exit code, last line of standard error)."""

    def call(source, *more, output=None):
        given = ["embed", "--model", folder / "model", "--input", source, "--output", output or tmp_path / "x.parquet"]
        code = main("evaluation", "", COMMANDS, [str(argument) for argument in (*given, *more)])
        return code, capsys.readouterr().err.splitlines()[-1]

    return call


def write_h5ad(path, genes, counts=None, samples=None):
    counts = np.random.default_rng(0).poisson(50, (4, 150)).astype(np.float32) if counts is None else counts
    obs = pd.DataFrame(index=samples or [f"line {number}" for number in range(len(counts))])
    anndata.AnnData(counts, obs=obs, var=pd.DataFrame(index=list(genes))).write_h5ad(path)
    return path


def ensembl_ids():
    return [f"ENSG{number:011d}" for number in range(150)]


def vectors(path):
    values = pq.read_table(path).column("embedding").combine_chunks()
    return values.flatten().to_numpy().reshape(len(values), -1)


def test_genes_named_by_symbols_give_the_same_embeddings(embed, tmp_path):
    by_id = write_h5ad(tmp_path / "ids.h5ad", ensembl_ids())
    by_symbol = write_h5ad(tmp_path / "symbols.h5ad", [f"G{number}" for number in range(150)])
    code, line = embed(by_id, "--units", "counts", output=tmp_path / "ids.parquet")
    assert (code, line) == (0, f"{tmp_path / 'ids.parquet'}: 4 profiles written")
    more = ("--units", "counts", "--gene-id", "symbol")
    assert embed(by_symbol, *more, output=tmp_path / "symbols.parquet")[0] == 0
    np.testing.assert_array_equal(vectors(tmp_path / "ids.parquet"), vectors(tmp_path / "symbols.parquet"))


def test_a_model_of_the_latest_family_embeds_samples_by_their_observed_genes(embed, folder, tmp_path):
    """A gene that the source does not measure does not count, and has its own embedding at the level of genes."""
    counts = np.random.default_rng(0).poisson(50, (3, 150)).astype(np.float32)
    source = write_h5ad(tmp_path / "in.h5ad", [*ensembl_ids()[:149], "ENSG90000000001"], counts)
    given = ("--units", "counts", "--model", folder / "latest")
    assert embed(source, *given, output=tmp_path / "samples.parquet")[0] == 0
    assert embed(source, *given, "--level", "gene", output=tmp_path / "genes.parquet")[0] == 0
    genes = vectors(tmp_path / "genes.parquet").reshape(3, 150, -1)
    assert genes.shape[2] == 16
    np.testing.assert_allclose(vectors(tmp_path / "samples.parquet"), genes[:, :149].mean(axis=1), atol=1e-5)


def test_the_advice_for_symbols_is_a_setting_that_there_is(embed, tmp_path):
    symbols = sorted(gene_reference().ensembl_id_of)[:150]
    code, line = embed(write_h5ad(tmp_path / "in.h5ad", symbols), "--units", "counts")
    assert code == 1
    assert "these look like symbols (gene_id: symbol" in line
    _, line = embed(tmp_path / "in.h5ad", "--units", "counts", "--gene_id", "symbol")
    assert "measures 0 of the model's 150 genes" in line


def test_profiles_without_any_expression_are_refused_by_name(embed, tmp_path):
    counts = np.random.default_rng(0).poisson(50, (4, 150)).astype(np.float32)
    counts[2] = 0
    code, line = embed(write_h5ad(tmp_path / "in.h5ad", ensembl_ids(), counts), "--units", "counts")
    assert code == 1
    assert "1 of the 4 samples from line 0 to line 3 express none of the model's genes, e.g. line 2" in line
    assert not (tmp_path / "x.parquet").exists()


def test_samples_of_one_name_are_refused(embed, tmp_path):
    write_h5ad(tmp_path / "in.h5ad", ensembl_ids(), samples=["a", "b", "a", "c"])
    code, line = embed(tmp_path / "in.h5ad", "--units", "counts")
    assert (code, "1 names in obs belong to several samples, e.g. a" in line) == (1, True)


@pytest.mark.parametrize("name", ["x.parquet", "x.h5ad"])
def test_a_file_of_somebody_else_is_not_overwritten_and_one_of_embeddings_is(folder, embed, tmp_path, name):
    output = tmp_path / name
    output.write_text("a thesis")
    code, line = embed(folder / "corpus", output=output)
    assert (code, "exists and holds no embeddings" in line) == (2, True)
    assert output.read_text() == "a thesis"
    write_h5ad(output, ensembl_ids()) if name == "x.h5ad" else pq.write_table(pq.read_table(folder / SAMPLES), output)
    before = output.read_bytes()
    assert embed(folder / "corpus", output=output)[0] == 2
    assert output.read_bytes() == before
    output.unlink()
    for pooling in ("mean", "max"):
        assert embed(folder / "corpus", "--pooling", pooling, output=output)[0] == 0


SAMPLES = "corpus/samples.parquet"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--units", "tpm"), "--units would have no effect"),
        (("--gene-id", "symbol", "--layer", "counts"), "--layer and --gene-id would have no effect"),
        (("--level", "gene", "--pooling", "max"), "--pooling would have no effect for level gene"),
        (("--kernel", "reference", "--compile"), "--compile would have no effect with kernel reference"),
    ],
)
def test_a_setting_that_would_have_no_effect_is_refused(folder, embed, more, message):
    code, line = embed(folder / "corpus", *more)
    assert (code, message in line) == (2, True), line


def test_a_split_of_an_h5ad_is_refused(embed, tmp_path):
    assert embed(tmp_path / "in.h5ad", "--units", "counts", "--split", "test")[0] == 2


def test_results_are_not_written_over_a_file_of_somebody_else(folder, capsys, tmp_path):
    given = ["run", "--model", folder / "model", "--corpus", folder / "corpus", "--output"]
    for name, content in (("x.json", '{"name": "a package"}'), ("y.json", "[1]"), ("x.parquet", "a thesis")):
        (tmp_path / name).write_text(content)
        assert main("evaluation", "", COMMANDS, [str(argument) for argument in (*given, tmp_path / name)]) == 2
        assert "exists and holds no results" in capsys.readouterr().err
        assert (tmp_path / name).read_text() == content


def test_mlflow_names_a_deleted_experiment_and_prints_nothing_among_the_results(monkeypatch, tmp_path, capsys):
    import mlflow

    from evaluation.tracking.mlflow_results import send_results

    address = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    client = mlflow.MlflowClient(address)
    client.delete_experiment(client.create_experiment("old"))
    assert send_results("old", "run", {}, {}, [], "{}") is None
    assert "the MLflow experiment 'old' is deleted: restore it, or name another one" in capsys.readouterr().err
    assert send_results("new", "run", {}, {}, [], "{}")
    assert capsys.readouterr().out == ""


def test_counts_said_to_be_tpm_are_refused(embed, tmp_path):
    counts = np.random.default_rng(0).poisson(2700, (4, 150)).astype(np.float32)  # 400,000 a sample
    code, line = embed(write_h5ad(tmp_path / "in.h5ad", ensembl_ids(), counts), "--units", "tpm")
    assert (code, "4 of 4 samples do not add up to a million TPM" in line) == (1, True), line
    assert "look like counts" in line


def test_rows_that_are_no_genes_change_no_embedding(embed, tmp_path):
    counts = np.random.default_rng(0).poisson(50, (4, 150)).astype(np.float32)
    write_h5ad(tmp_path / "in.h5ad", ensembl_ids(), counts)
    with_summary = np.concatenate([counts, np.full((4, 1), 8000, np.float32)], axis=1)
    write_h5ad(tmp_path / "htseq.h5ad", [*ensembl_ids(), "__no_feature"], with_summary)
    for name in ("in", "htseq"):
        assert embed(tmp_path / f"{name}.h5ad", "--units", "counts", output=tmp_path / f"{name}.parquet")[0] == 0
    np.testing.assert_array_equal(vectors(tmp_path / "in.parquet"), vectors(tmp_path / "htseq.parquet"))


def test_an_h5ad_without_values_is_one_line(embed, tmp_path):
    write_h5ad(tmp_path / "in.h5ad", ensembl_ids())
    with h5py.File(tmp_path / "in.h5ad", "r+") as file:
        del file["X"]
    code, line = embed(tmp_path / "in.h5ad", "--units", "counts")
    assert (code, "has no X" in line) == (1, True), line


def test_an_output_with_a_name_that_no_disk_takes_is_one_line_and_a_long_one_is_written(folder, embed, tmp_path):
    code, line = embed(folder / "corpus", output=tmp_path / f"{'x' * 300}.parquet")
    assert code == 2
    assert "File name too long" in line
    assert embed(folder / "corpus", output=tmp_path / f"{'x' * 245}.parquet")[0] == 0


@contextmanager
def little_disk():
    """No file of this process grows beyond 20 kB, which the system says as it says that a disk is full.

    No fixture: pytest's own output may be such a file, and is written before a fixture is torn down.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", ["x.parquet", "x.h5ad"])
def test_a_full_disk_is_one_line_and_leaves_no_part(tmp_path, name):
    names, values = [f"s{number}" for number in range(200)], np.random.default_rng(0).random((200, 64), np.float32)

    def write() -> None:
        with whole_file(str(tmp_path / name)) as path:
            if name.endswith(".parquet"):
                writer = ParquetWriter(path, "embedding", 64, {})
            else:
                writer = AnnDataWriter(path, names, [f"e{column}" for column in range(64)], {})
            with writer:
                writer.write(names, values)

    with little_disk(), pytest.raises(UserError, match=rf"{name} cannot be written: File too large$"):
        write()
    assert list(tmp_path.iterdir()) == []
