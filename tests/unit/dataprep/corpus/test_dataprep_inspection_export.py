"""What inspect says is true, and what export writes is the corpus."""

from pathlib import Path

import anndata
import numpy as np
import pytest

from dataprep.__main__ import COMMANDS
from dataprep.anndata_export import export
from dataprep.config import ExportSettings, InspectSettings
from dataprep.corpus import Corpus, read_split
from dataprep.corpus.manifest import SourceSummary
from dataprep.inspection.text import as_text, inspect_corpus
from dataprep.runtime.command_line import UserError, main
from tests.made_corpora import make_corpus


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return make_corpus(str(tmp_path / "corpus"), {"train": 100, "validation": 20, "test": 30}, rows_per_shard=48)


def export_settings(corpus: Corpus, output: Path, split: str = "all") -> ExportSettings:
    return ExportSettings.model_construct(corpus=corpus.folder.uri, output=str(output), split=split)


def test_inspect_counts_profiles_missing_values_and_edges(corpus: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
    report = inspect_corpus(InspectSettings.model_construct(corpus=corpus.folder.uri))
    values = np.concatenate([read_split(corpus, split)[1] for split in ("train", "validation", "test")])
    assert report["samples"]["kept"] == 150
    assert report["missing_share"] == pytest.approx(np.isnan(values).mean())
    assert report["zero_share"] == pytest.approx((values == 0).mean())
    assert report["largest"] == np.nanmax(values)
    assert report["graph_edges"] == corpus.graph().edges
    assert report["graph_fingerprint"] == corpus.graph().fingerprint
    text = capsys.readouterr().out
    assert "150 of 150 samples read" in text
    assert "every checksum right" in text


def test_inspect_shows_the_share_of_reads_outside_the_vocabulary(
    corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"samples": 9, "kept": 9, "genes": 60_000, "unknown_genes": 7, "merged_genes": 0, "vocabulary_genes": 20}
    sources = [SourceSummary(name="new", outside_share=0.254, **found), SourceSummary(name="old", **found)]
    report = inspect_corpus(InspectSettings.model_construct(corpus=corpus.folder.uri))
    lines = as_text(report | {"sources": [source.model_dump() for source in sources]}).splitlines()
    assert next(line for line in lines if line.startswith("source ")).endswith("reads outside")
    assert next(line for line in lines if line.startswith("new ")).split()[-1] == "25.4%"
    # corpora of earlier versions did not count it
    assert next(line for line in lines if line.startswith("old ")).split()[-1] == "20"


def test_inspect_of_a_damaged_corpus_ends_with_one_line_and_exit_code_1(
    corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    shard = corpus.shards("train")[1]
    content = bytearray(corpus.folder.read_bytes(shard.path))
    content[100] ^= 255
    corpus.folder.write_bytes(shard.path, bytes(content))
    assert main("dataprep", "", COMMANDS, ["inspect", corpus.folder.uri]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert f"{shard.path}: checksum should be {shard.sha256}" in said.err


def test_inspect_of_no_corpus_ends_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("dataprep", "", COMMANDS, ["inspect", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"error: {tmp_path} is not a corpus: it has no manifest.json\n"


@pytest.mark.parametrize(("split", "splits"), [("all", ("train", "validation", "test")), ("test", ("test",))])
def test_export_holds_profiles_metadata_genes_and_unit(
    corpus: Corpus, tmp_path: Path, split: str, splits: tuple[str, ...]
) -> None:
    export(export_settings(corpus, tmp_path / "x.h5ad", split))
    written = anndata.read_h5ad(tmp_path / "x.h5ad")
    parts = [read_split(corpus, name) for name in splits]
    assert written.obs["row_id"].tolist() == np.concatenate([ids for ids, _ in parts]).tolist()
    assert np.array_equal(written.X, np.concatenate([values for _, values in parts]), equal_nan=True)
    assert written.var_names.tolist() == list(corpus.vocabulary.ensembl_ids)
    assert written.uns["unit"] == "log1p(TPM), natural logarithm"
    by_id = dict(zip(*(corpus.samples().column(c).to_pylist() for c in ("sample_id", "row_id")), strict=True))
    assert [by_id[sample] for sample in written.obs_names] == written.obs["row_id"].tolist()


def test_a_label_that_no_exported_profile_has_is_exported_without_values(tmp_path: Path) -> None:
    labels = {"smoker": ["yes"] * 100 + [None] * 30, "sex": ["male", None] * 65}
    corpus = make_corpus(str(tmp_path / "corpus"), {"train": 100, "test": 30}, labels=labels)
    export(export_settings(corpus, tmp_path / "x.h5ad", "test"))
    written = anndata.read_h5ad(tmp_path / "x.h5ad")
    assert written.obs["smoker"].isna().all()
    assert set(written.obs["sex"].dropna()) == {"male"}


def test_an_export_replaces_nothing(corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "x.h5ad").write_text("mine")
    with pytest.raises(UserError, match=r"x\.h5ad exists"):
        export(export_settings(corpus, tmp_path / "x.h5ad"))
    with pytest.raises(UserError, match=r"does not end in \.h5ad"):
        export(export_settings(corpus, tmp_path / "x.csv"))
    assert (tmp_path / "x.h5ad").read_text() == "mine"


def test_a_full_disk_is_one_line_and_leaves_no_export(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dataprep.anndata_export._write", full)
    with pytest.raises(UserError, match=r"where the file is prepared, cannot be written: No space left on device$"):
        export(export_settings(corpus, tmp_path / "x.h5ad"))
    assert not (tmp_path / "x.h5ad").exists()
