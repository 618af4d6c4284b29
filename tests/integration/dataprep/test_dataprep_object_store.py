"""A corpus in an object store is the same as one in a folder, and what the store refuses is said in one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import s3fs
import scipy.sparse

from dataprep.__main__ import COMMANDS
from dataprep.anndata_export import export
from dataprep.config import ExportSettings, SimulateSettings
from dataprep.corpus import open_corpus, read_row_groups, read_split, verify
from dataprep.pipeline.build import build
from dataprep.probing.recognise import recognise
from dataprep.runtime.command_line import UserError, main
from dataprep.runtime.storage import Folder
from dataprep.simulate import simulate
from tests.conftest import S3Server
from tests.made_sources import build_settings, counts, gene_ids, names, write_source

pytestmark = pytest.mark.usefixtures("ray_session")


def test_sources_and_corpus_in_a_bucket(tmp_path: Path, s3_server: S3Server) -> None:
    sources = [write_source(tmp_path, f"s{number}", counts(9, seed=number)) for number in range(4)]
    local = build_settings(tmp_path, sources)
    build(local)
    bucket = Folder(s3_server.prefix("dataprep"))
    for path in tmp_path.glob("*.tsv.gz"):
        bucket.upload(path, f"raw/{path.name}")
    bucket.upload(tmp_path / "genes.csv", "raw/genes.csv")
    remote = build_settings(tmp_path, sources, corpus=f"{bucket.uri}/corpus", root=f"{bucket.uri}/raw")
    build(remote)
    there, here = open_corpus(remote.corpus), open_corpus(local.corpus)
    verify(there)
    assert there.manifest.shards == here.manifest.shards
    assert there.samples() == here.samples()
    shard = there.shards("train")[0]
    assert read_row_groups(there.folder, shard, [1, 0]) == read_row_groups(here.folder, shard, [1, 0])
    export(ExportSettings.model_construct(corpus=remote.corpus, output=f"{bucket.uri}/x.h5ad", split="all"))
    assert bucket.exists("x.h5ad")


def test_a_glob_in_a_bucket(tmp_path: Path, s3_server: S3Server) -> None:
    bucket = Folder(s3_server.prefix("glob"))
    source = write_source(tmp_path, "a") | {"path": "*/a.tsv.gz"}
    bucket.upload(tmp_path / "a.tsv.gz", "one/a.tsv.gz")
    settings = build_settings(tmp_path, [source]).model_copy(update={"root": bucket.uri, "vocabulary": None})
    vocabulary = str(tmp_path / "genes.csv")
    build(settings.model_copy(update={"vocabulary": vocabulary}))
    assert open_corpus(settings.corpus).manifest.samples.kept == 6


@pytest.mark.parametrize("form", [np.asarray, scipy.sparse.csr_matrix, scipy.sparse.csc_matrix])
def test_anndata_in_zarr_in_a_bucket_gives_the_corpus_of_the_folder(
    tmp_path: Path, s3_server: S3Server, form: Callable[[np.ndarray], Any]
) -> None:
    bucket, values = Folder(s3_server.prefix("zarr")), counts(9)
    data = anndata.AnnData(form(values.astype(np.float32)), pd.DataFrame(index=names("s", 9)))
    data.var_names = gene_ids()
    data.write_zarr(tmp_path / "one" / "x.zarr")
    for path in (tmp_path / "one").rglob("*"):
        if path.is_file():
            bucket.upload(path, str(path.relative_to(tmp_path)))
    source = {"name": "z", "format": "zarr", "path": "*/x.zarr", "gene_id": "ensembl", "units": "counts", "study": "z"}
    local = build_settings(tmp_path, [source])
    build(local)
    remote = build_settings(tmp_path, [source], corpus=f"{bucket.uri}/corpus", root=bucket.uri)
    build(remote.model_copy(update={"vocabulary": str(tmp_path / "genes.csv")}))
    assert open_corpus(remote.corpus).manifest.shards == open_corpus(local.corpus).manifest.shards
    assert recognise(f"{bucket.uri}/one/x.zarr").form == "AnnData in Zarr"
    # a copy that ended early is no matrix with zeros
    chunks = [name for name in bucket.files() if name.startswith("one/x.zarr/X/") and "/." not in name]
    bucket.remove(chunks[-1])
    with pytest.raises(UserError, match=r"one/x\.zarr: chunk X/.* is missing, as of a copy that was interrupted"):
        build(remote.model_copy(update={"vocabulary": str(tmp_path / "genes.csv"), "overwrite": True}))


def test_a_cohort_simulated_into_a_bucket_builds_from_there(tmp_path: Path, s3_server: S3Server) -> None:
    cohort = Folder(s3_server.prefix("cohort"))
    simulate(
        SimulateSettings.model_construct(
            output=cohort.uri, samples=30, genes=200, studies=3, tissues=2, programs=4, seed=0
        )
    )
    cohort.download("build.yaml", tmp_path / "build.yaml")
    arguments = ["build", "--config", str(tmp_path / "build.yaml"), "--corpus", f"{cohort.uri}/corpus"]
    assert main("dataprep", "", COMMANDS, arguments) == 0
    _, values = read_split(open_corpus(f"{cohort.uri}/corpus"), "test")
    assert values.shape == (10, 200)


def test_only_the_row_groups_asked_for_are_fetched(
    tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = Folder(s3_server.prefix("ranges"))
    settings = build_settings(
        tmp_path, [write_source(tmp_path, "a", counts(4000))], corpus=bucket.uri, rows_per_row_group=64
    )
    build(settings)
    corpus = open_corpus(bucket)
    shard = corpus.shards("train")[0]
    fetched: list[int] = []
    original = s3fs.S3File._fetch_range

    def counting(file: s3fs.S3File, start: int, end: int) -> bytes:
        fetched.append(end - start)
        return original(file, start, end)

    monkeypatch.setattr(s3fs.S3File, "_fetch_range", counting)
    table = read_row_groups(bucket, shard, [5])
    assert table.num_rows == 64
    # the footer, and pieces so near to one another that one request is cheaper
    assert sum(fetched) < shard.bytes / 3


def test_a_bucket_that_does_not_exist(tmp_path: Path, s3_server: S3Server, capsys: pytest.CaptureFixture[str]) -> None:
    build_settings(tmp_path, [write_source(tmp_path, "a")], corpus="s3://no-such-bucket/corpus")
    assert main("dataprep", "", COMMANDS, ["build", "--config", str(tmp_path / "build.yaml")]) == 1
    assert capsys.readouterr().err == "error: s3://no-such-bucket/corpus: the bucket does not exist\n"
    assert main("dataprep", "", COMMANDS, ["inspect", "s3://no-such-bucket/corpus"]) == 1
    assert capsys.readouterr().err == "error: s3://no-such-bucket/corpus: the bucket does not exist\n"


def test_wrong_credentials(
    s3_server: S3Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    # connections are kept by their credentials' source, not by their content
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        assert main("dataprep", "", COMMANDS, ["inspect", f"s3://{s3_server.bucket}/corpus"]) == 1
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
    said = capsys.readouterr().err
    assert said.startswith(f"error: s3://{s3_server.bucket}/corpus: access denied")
    assert said.count("\n") == 1
