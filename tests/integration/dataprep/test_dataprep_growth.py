"""A corpus grows under a new version: what was there stays where it was, and is read as it was."""

from pathlib import Path

import anndata
import numpy as np
import pytest

from dataprep.anndata_export import export
from dataprep.config import BuildSettings, ExportSettings
from dataprep.corpus import Corpus, iterate_rows, open_corpus, read_split, replacement, verify
from dataprep.pipeline import build as build_module
from dataprep.pipeline.build import build
from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder
from tests.conftest import S3Server
from tests.made_sources import build_settings, counts, write_source

pytestmark = pytest.mark.usefixtures("ray_session")
STABLE = {"stable": True, "validation_fraction": 0.2, "test_fraction": 0.2}


def settings_of(folder: Path, studies: int, corpus: str | None = None, **more: object) -> BuildSettings:
    sources = [write_source(folder, f"s{number}", counts(9, seed=number)) for number in range(studies)]
    return build_settings(folder, sources, corpus, **{"split": STABLE, "shard_bytes": 8 * 88} | more)


def rows(corpus: Corpus) -> dict[str, tuple[int, str, bytes]]:
    """Row id, split and values of each sample."""
    samples = corpus.samples().to_pylist()
    values = np.concatenate([part for _, part in iterate_rows(corpus, np.arange(len(samples)))])
    return {row["sample_id"]: (row["row_id"], row["split"], values[row["row_id"]].tobytes()) for row in samples}


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_added_studies_leave_every_old_row_where_it_was(tmp_path: Path, s3_server: S3Server, place: str) -> None:
    address = s3_server.prefix("growth") if place == "bucket" else str(tmp_path / "corpus")
    build(settings_of(tmp_path, 8, address))
    before = open_corpus(address)
    old_rows = rows(before)
    contents = {name: before.folder.read_bytes(name) for name in before.folder.files()}
    build(settings_of(tmp_path, 12, address, grow=True))
    after = open_corpus(address)
    verify(after)
    assert (before.version, after.version) == (1, 2)
    new_rows = rows(after)
    assert {sample: new_rows[sample] for sample in old_rows} == old_rows
    assert len(new_rows) == 12 * 9
    assert sorted(row_id for row_id, _, _ in new_rows.values()) == list(range(12 * 9))
    for name, content in contents.items():
        if name != "manifest.json":
            assert before.folder.read_bytes(name) == content
    first = open_corpus(f"{address}@1")
    verify(first)
    assert first.fingerprint == before.fingerprint
    assert rows(first) == old_rows
    assert open_corpus(f"{address}@2").fingerprint == after.fingerprint
    with pytest.raises(UserError, match="has no version 3"):
        open_corpus(f"{address}@3")
    # what is there is the same as in a corpus built at once, but for the order
    build(settings_of(tmp_path, 12, str(tmp_path / "at-once")))
    at_once = rows(open_corpus(str(tmp_path / "at-once")))
    assert {name: row[1:] for name, row in new_rows.items()} == {name: row[1:] for name, row in at_once.items()}
    # all splits together, too, though row ids of the two versions alternate between them
    export(ExportSettings.model_construct(corpus=address, output=str(tmp_path / "all.h5ad"), split="all"))
    exported = anndata.read_h5ad(tmp_path / "all.h5ad")
    exported_values = dict(zip(exported.obs_names, exported.X.astype(np.float16), strict=True))
    assert {name: values.tobytes() for name, values in exported_values.items()} == {
        name: values for name, (_, _, values) in new_rows.items()
    }
    ids, _ = read_split(after, "train")
    assert ids.tolist() == sorted(row_id for row_id, split, _ in new_rows.values() if split == "train")
    assert after.manifest.samples.model_dump() == {"read": 108, "kept": 108, "rejected": {}}
    assert [source.name for source in after.manifest.sources] == [f"s{number}" for number in range(12)]


def test_a_corpus_grows_again_and_does_not_where_nothing_is_new(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build(settings_of(tmp_path, 6))
    build(settings_of(tmp_path, 7, grow=True))
    build(settings_of(tmp_path, 8, grow=True))
    corpus = open_corpus(str(tmp_path / "corpus"))
    verify(corpus)
    assert corpus.version == 3
    content = corpus.folder.read_bytes("manifest.json")
    build(settings_of(tmp_path, 8, grow=True))
    assert "has all 72 samples already: nothing to add" in capsys.readouterr().err
    assert corpus.folder.read_bytes("manifest.json") == content
    # a file with the new source alone is enough
    only = build_settings(tmp_path, [write_source(tmp_path, "late", counts(4, seed=99))], split=STABLE, grow=True)
    build(only.model_copy(update={"shard_bytes": 8 * 88}))
    corpus = open_corpus(str(tmp_path / "corpus"))
    assert (corpus.version, corpus.manifest.samples.kept) == (4, 76)
    assert len(corpus.manifest.settings["sources"]) == 9


def test_samples_that_are_added_to_a_source_join_its_study(tmp_path: Path) -> None:
    build(settings_of(tmp_path, 6))
    before = rows(open_corpus(str(tmp_path / "corpus")))
    grown = settings_of(tmp_path, 6, grow=True)
    write_source(tmp_path, "s3", np.concatenate([counts(9, seed=3), counts(4, seed=77)]))
    build(grown)
    after = rows(open_corpus(str(tmp_path / "corpus")))
    assert sorted(set(after) - set(before)) == [f"s3_{number:03d}" for number in range(9, 13)]
    assert {after[name][1] for name in after if name.startswith("s3_")} == {before["s3_000"][1]}


@pytest.mark.parametrize("bound", [None, 0.9999])
def test_duplicates_of_old_profiles_are_refused(tmp_path: Path, bound: float | None) -> None:
    build(settings_of(tmp_path, 6, max_correlation_between_studies=bound))
    again = counts(5, seed=55)
    again[1] = counts(9, seed=2)[4]
    again[3] = counts(9, seed=4)[0]
    again[3, 0] += 1
    sources = [write_source(tmp_path, "more", again, samples=["x0", "x1", "x2", "x3", "s0_001"])]
    more = {"split": STABLE, "shard_bytes": 8 * 88, "max_correlation_between_studies": bound}
    build(build_settings(tmp_path, sources, grow=True, **more))
    refused = {row["sample_id"]: (row["reason"], row["value"]) for row in _rejected(tmp_path)}
    assert refused["x1"] == ("duplicate_profile", "s2: s2_004")
    assert refused["s0_001"] == ("duplicate_sample_id", "s0: s0_001")
    if bound is None:
        assert set(refused) == {"x1", "s0_001"}
    else:
        assert refused["x3"][0] == "near_duplicate"
        assert refused["x3"][1].startswith("s4: s4_000, r ")


def _rejected(folder: Path) -> list[dict[str, str]]:
    return open_corpus(str(folder / "corpus")).read_rejected().to_pylist()


def test_what_growth_cannot_keep_is_refused_and_the_corpus_stays(tmp_path: Path) -> None:
    build(settings_of(tmp_path, 6))
    content = Folder(str(tmp_path / "corpus")).read_bytes("manifest.json")
    for more, said in (
        ({"min_nonzero_genes": 20}, "min_nonzero_genes was 10 when it was built and is 20"),
        ({"tpm_over": "vocabulary"}, "tpm_over was 'source' when it was built and is 'vocabulary'"),
        ({"split": STABLE | {"test_fraction": 0.3}}, "split.test_fraction was 0.2"),
        ({"seed": 4}, "seed was 0"),
        ({"vocabulary": "fewer.csv"}, "its 40 genes are other ones than those given"),
    ):
        settings = settings_of(tmp_path, 7, grow=True, **more)
        listed = (tmp_path / "genes.csv").read_text().splitlines()
        (tmp_path / "fewer.csv").write_text("\n".join(listed[:-1]) + "\n")
        with pytest.raises(UserError, match=said):
            build(settings)
    changed = settings_of(tmp_path, 7, grow=True)
    sources = [changed.sources[0].model_copy(update={"sample_prefix": "x"}), *changed.sources[1:]]
    with pytest.raises(UserError, match="source s0: sample_prefix was '' when it was built and is 'x'"):
        build(changed.model_copy(update={"sources": sources}))
    assert Folder(str(tmp_path / "corpus")).read_bytes("manifest.json") == content


def test_growth_that_would_move_a_study_is_refused(tmp_path: Path) -> None:
    fractions = {"validation_fraction": 0.2, "test_fraction": 0.2}
    build(settings_of(tmp_path, 5, split=fractions))
    with pytest.raises(UserError, match=r"profiles would change their split, e\.g\. .* split\.stable, stay when"):
        build(settings_of(tmp_path, 15, split=fractions, grow=True))


def test_a_growth_that_was_cut_off_leaves_the_old_version_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build(settings_of(tmp_path, 6))
    before = open_corpus(str(tmp_path / "corpus"))
    undisturbed = settings_of(tmp_path, 9, grow=True)

    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build_module, "finish_growth", cut_off)
        with pytest.raises(KeyboardInterrupt):
            build(undisturbed)
    there = open_corpus(str(tmp_path / "corpus"))
    verify(there)
    assert there.fingerprint == before.fingerprint
    with monkeypatch.context() as patch:
        # the manifest is written, and what the build kept is still there
        patch.setattr(replacement, "tidy_up", cut_off)
        with pytest.raises(KeyboardInterrupt):
            build(undisturbed)
    said = capsys.readouterr().err
    assert "27 samples were read already" in said
    assert "shards were written already" in said
    grown = open_corpus(str(tmp_path / "corpus"))
    verify(grown)
    assert grown.version == 2
    build(undisturbed)
    assert open_corpus(str(tmp_path / "corpus")).fingerprint == grown.fingerprint
    assert not (tmp_path / "corpus" / replacement.STATE_FOLDER).exists()


def test_there_has_to_be_a_corpus(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a corpus"):
        build(settings_of(tmp_path, 3, grow=True))
