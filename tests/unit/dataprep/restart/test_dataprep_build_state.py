"""What a killed build left is used by the same build, and by no other."""

import os
from pathlib import Path
from typing import Any

import pytest
from made_corpora import make_profiles, make_vocabulary
from made_sources import build_settings, counts, write_source

from dataprep.corpus import manifest_text, open_corpus, write_shard
from dataprep.corpus.replacement import STATE_FOLDER, tidy_up
from dataprep.genes.vocabulary import read_vocabulary
from dataprep.pipeline.build import removed_after_mistakes
from dataprep.pipeline.gene_rows import gene_tables
from dataprep.pipeline.listing import list_files, samples_table
from dataprep.pipeline.restart.inputs import build_inputs
from dataprep.pipeline.restart.state import BuildState, finished_but_not_tidied, opened_state
from dataprep.runtime.command_line import UserError
from dataprep.runtime.ray_session import LostTaskError
from dataprep.runtime.storage import Folder, StorageError
from tests.made_corpora import make_corpus

INPUTS = {"settings": "a", "sources": "b", "genes": "c", "code": "d"}


def inputs_of(folder: Path, **changes: Any) -> dict[str, str]:
    sources = [write_source(folder, "a", counts(3)), write_source(folder, "bb", counts(4))]
    for path in folder.glob("*.gz"):
        os.utime(path, (1, 1))
    return of_settings(folder, sources, **changes)


def of_settings(folder: Path, sources: list[dict[str, Any]], **changes: Any) -> dict[str, str]:
    settings = build_settings(folder, sources, **changes)
    files = list_files(settings)
    assert settings.vocabulary is not None
    genes = gene_tables(settings, read_vocabulary(settings.address(settings.vocabulary)))
    return build_inputs(settings, files, samples_table(settings, files), genes)


def changed(one: dict[str, str], other: dict[str, str]) -> list[str]:
    return [name for name in one if one[name] != other[name]]


def test_the_same_sources_and_settings_are_the_same_inputs(tmp_path: Path) -> None:
    first = inputs_of(tmp_path)
    assert inputs_of(tmp_path) == first
    assert inputs_of(tmp_path, corpus=str(tmp_path / "elsewhere"), overwrite=True) == first


def test_what_changed_is_named(tmp_path: Path) -> None:
    first = inputs_of(tmp_path)
    assert changed(inputs_of(tmp_path, seed=1), first) == ["settings"]
    sources = [write_source(tmp_path, "a", counts(3)), write_source(tmp_path, "bb", counts(4))]
    assert changed(of_settings(tmp_path, sources), first) == ["sources"]
    written = tmp_path / "fewer.csv"
    written.write_text("\n".join((tmp_path / "genes.csv").read_text().splitlines()[:-1]) + "\n")
    assert changed(inputs_of(tmp_path, vocabulary="fewer.csv"), first) == ["settings", "genes"]


def test_a_state_of_other_inputs_is_removed_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = Folder(str(tmp_path))
    opened_state(corpus, INPUTS, 60).note_place_cleared()
    kept = opened_state(corpus, INPUTS, 60)
    assert kept.place_is_cleared
    assert capsys.readouterr().err == ""
    anew = opened_state(corpus, INPUTS | {"sources": "x", "code": "y"}, 60)
    assert not anew.place_is_cleared
    said = capsys.readouterr().err
    assert "left is of other sources and code and is removed: building anew" in said
    assert len(list((tmp_path / STATE_FOLDER).iterdir())) == 1


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    foreign = tmp_path / STATE_FOLDER / "notes"
    foreign.mkdir(parents=True)
    opened_state(Folder(str(tmp_path)), INPUTS, 60)
    assert foreign.exists()


def test_shards_count_as_written_while_they_are_there(tmp_path: Path) -> None:
    corpus, vocabulary = Folder(str(tmp_path)), make_vocabulary(60)
    state = opened_state(corpus, INPUTS, 60)
    for number in range(3):
        path = f"split=train/part-{number:05d}.parquet"
        profiles = make_profiles(10, 60, number)
        state.note_shard(number, write_shard(corpus, path, "train", 10 * number, profiles, vocabulary, 4))
    assert state.sound_shards(5, 4, vocabulary.fingerprint) == {0, 1, 2}
    corpus.remove("split=train/part-00000.parquet")
    write_shard(corpus, "split=train/part-00001.parquet", "train", 10, make_profiles(10, 60, 9), vocabulary, 4)
    assert state.sound_shards(5, 4, vocabulary.fingerprint) == {2}
    assert [entry.first_row_id for entry in state.shards(5).values()] == [0, 10, 20]


def test_a_build_killed_after_its_manifest_was_written_is_known_to_be_finished(tmp_path: Path) -> None:
    corpus = make_corpus(str(tmp_path))
    assert not finished_but_not_tidied(corpus.folder)
    state: BuildState = opened_state(corpus.folder, INPUTS, 60)
    assert not finished_but_not_tidied(corpus.folder)
    state.note_manifest(manifest_text(corpus.manifest))
    assert finished_but_not_tidied(corpus.folder)
    tidy_up(corpus.folder)
    assert not finished_but_not_tidied(corpus.folder)
    assert open_corpus(corpus.folder).fingerprint == corpus.fingerprint


@pytest.mark.parametrize(
    ("error", "left"),
    [(StorageError("no space"), 1), (LostTaskError("a task of the build died"), 1), (UserError("no counts"), 0)],
)
def test_wrong_sources_leave_no_state_and_a_store_or_a_task_that_is_lost_keeps_it(
    tmp_path: Path, error: UserError, left: int
) -> None:
    corpus = Folder(str(tmp_path / "corpus"))
    state = opened_state(corpus, INPUTS, 3)
    with pytest.raises(UserError), removed_after_mistakes(state):
        raise error
    assert len(corpus.files()) == left
    assert (tmp_path / "corpus" / STATE_FOLDER).exists() == bool(left)
