"""What a command replaces or removes is its own: files that were there before it stay, or are named in a refusal."""

import shutil
from pathlib import Path

import pytest

from dataprep.config import SimulateSettings
from dataprep.corpus import begin_corpus, finish_corpus, open_corpus, require_free, verify
from dataprep.corpus.replacement import BEGUN_FILE
from dataprep.pipeline.build import LEASE_FILE, build
from dataprep.runtime.command_line import UserError
from dataprep.runtime.lease import Lease
from dataprep.runtime.storage import Folder
from dataprep.simulate import simulate
from tests.made_corpora import make_corpus
from tests.made_sources import build_settings, write_source


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_rebuild_removes_the_corpus_and_nothing_beside_it(tmp_path: Path) -> None:
    corpus = make_corpus(str(tmp_path))
    own = {"notes.txt", "split=train/figures.png", "split=train/deeper/part-00000.parquet", "results/x.csv"}
    for name in own:
        corpus.folder.write_text(name, "mine")
    begin_corpus(corpus.folder)
    assert files(tmp_path) == own | {BEGUN_FILE}
    finish_corpus(corpus.folder, corpus.manifest)
    assert files(tmp_path) == own | {"manifest.json"}


def test_a_finished_corpus_is_replaced_only_when_asked(tmp_path: Path) -> None:
    corpus = make_corpus(str(tmp_path))
    with pytest.raises(UserError, match="is a finished corpus already; --overwrite replaces it"):
        require_free(corpus.folder, overwrite=False)
    require_free(corpus.folder, overwrite=True)
    open_corpus(str(tmp_path))


@pytest.mark.parametrize("name", ["split=train/mine.csv", "samples.parquet", "gene_graph.parquet"])
def test_a_folder_that_no_build_has_marked_is_left_alone(tmp_path: Path, name: str) -> None:
    folder = Folder(str(tmp_path))
    folder.write_text(name, "mine")
    for check in (lambda: require_free(folder, overwrite=True), lambda: begin_corpus(folder)):
        with pytest.raises(UserError, match=f"holds {name.partition('/')[0]}, which a build would replace"):
            check()
    assert files(tmp_path) == {name}


def test_a_manifest_of_something_else_is_left_alone(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    folder.write_text("manifest.json", '{"name": "my web application"}')
    with pytest.raises(UserError, match="is not the manifest of a corpus"):
        require_free(folder, overwrite=True)
    assert files(tmp_path) == {"manifest.json"}


def test_what_an_interrupted_build_left_is_cleared(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    begin_corpus(folder)
    folder.write_text("split=train/part-00003.parquet", "half")
    folder.write_text("split=train/.part-00004.parquet.host-1-ab.partial", "half")
    folder.write_text("samples.parquet", "half")
    require_free(folder, overwrite=False)
    begin_corpus(folder)
    assert files(tmp_path) == {BEGUN_FILE}


def settings(output: Path) -> SimulateSettings:
    return SimulateSettings.model_construct(output=str(output), samples=20, genes=100, studies=2, tissues=2, programs=2)


def test_a_simulation_leaves_what_it_has_not_made(tmp_path: Path) -> None:
    mine = tmp_path / "simulated_01" / "expression.tsv.gz"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(UserError, match="holds simulated_01, which a simulation would replace"):
        simulate(settings(tmp_path))
    assert files(tmp_path) == {"simulated_01/expression.tsv.gz"}


def test_an_interrupted_simulation_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with monkeypatch.context() as patch:
        patch.setattr("dataprep.simulate.GENES_FILE", "/not a name")
        with pytest.raises(UserError):
            simulate(settings(tmp_path))
    assert "unfinished_simulation.txt" in files(tmp_path)
    simulate(settings(tmp_path))
    assert {"build.yaml", "notes.txt"} < files(tmp_path)
    assert "unfinished_simulation.txt" not in files(tmp_path)


def test_a_corpus_that_is_being_built_is_not_built_by_another_at_once(tmp_path: Path) -> None:
    settings = build_settings(tmp_path, [write_source(tmp_path, "a")])
    with (
        Lease(Folder(settings.corpus), LEASE_FILE, "the corpus"),
        pytest.raises(UserError, match="is in the hands of process"),
    ):
        build(settings)


def test_a_build_that_fails_leaves_no_lease(tmp_path: Path) -> None:
    settings = build_settings(tmp_path, [write_source(tmp_path, "a") | {"path": "nowhere.tsv"}])
    for _ in range(2):
        with pytest.raises(UserError, match="nowhere"):
            build(settings)
    assert files(Path(settings.corpus)) == set()


def test_a_corpus_that_was_finished_meanwhile_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = build_settings(tmp_path, [write_source(tmp_path, "a")])
    acquire = Lease.acquire

    def late(lease: Lease) -> None:
        make_corpus(settings.corpus)
        acquire(lease)

    monkeypatch.setattr(Lease, "acquire", late)
    with pytest.raises(UserError, match="is a finished corpus already"):
        build(settings)


def test_a_rebuild_removes_a_link_and_not_what_it_points_to(tmp_path: Path) -> None:
    """Two corpora may share a split, or have it on another disk."""
    shared = make_corpus(str(tmp_path / "shared"))
    corpus = make_corpus(str(tmp_path / "corpus"))
    shutil.rmtree(tmp_path / "corpus" / "split=train")
    (tmp_path / "corpus" / "split=train").symlink_to(tmp_path / "shared" / "split=train")
    begin_corpus(corpus.folder)
    assert not (tmp_path / "corpus" / "split=train").exists()
    verify(shared)
