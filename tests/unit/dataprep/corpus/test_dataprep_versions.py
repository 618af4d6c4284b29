"""Addresses of a corpus and of its versions."""

from pathlib import Path

import pytest
from made_corpora import grow, make_corpus, make_graph, make_vocabulary

from dataprep.corpus import GRAPH_FILE, SAMPLES_FILE, open_corpus
from dataprep.runtime.command_line import UserError


def test_every_version_is_read_under_its_number(tmp_path: Path) -> None:
    first = make_corpus(str(tmp_path / "corpus"))
    address = first.folder.uri
    assert open_corpus(f"{address}@1").fingerprint == first.fingerprint
    second = grow(first)
    third = grow(second)
    found = [open_corpus(f"{address}@{number}").fingerprint for number in (1, 2, 3)]
    assert found == [first.fingerprint, second.fingerprint, third.fingerprint]
    assert open_corpus(address).versioned_address == f"{address}@3"
    assert open_corpus(f"{address}@2").folder == first.folder
    with pytest.raises(UserError, match="has no version 4"):
        open_corpus(f"{address}@4")
    with pytest.raises(UserError, match="is not a corpus"):
        open_corpus(f"{tmp_path}/nothing@1")


def test_a_folder_may_be_called_as_a_version_is(tmp_path: Path) -> None:
    corpus = make_corpus(str(tmp_path / "corpus@2"))
    assert open_corpus(f"{tmp_path}/corpus@2").fingerprint == corpus.fingerprint
    assert open_corpus(f"{tmp_path}/corpus@2@1").fingerprint == corpus.fingerprint


def test_a_version_has_its_own_graph_or_that_of_the_one_before(tmp_path: Path) -> None:
    first = make_corpus(str(tmp_path))
    second = grow(first)
    assert second.graph().fingerprint == first.graph().fingerprint
    make_graph(make_vocabulary(60), neighbours=5).write(second.folder, second.own_file(GRAPH_FILE))
    assert open_corpus(f"{tmp_path}@2").graph().edges == 59 * 5
    assert open_corpus(f"{tmp_path}@1").graph().edges == 59 * 3


def test_tables_are_those_of_the_version(tmp_path: Path) -> None:
    first = make_corpus(str(tmp_path))
    second = grow(first)
    second.folder.write_bytes(f"versions/2/{SAMPLES_FILE}", b"other")
    assert open_corpus(f"{tmp_path}@1").samples().num_rows == 140
    with pytest.raises(UserError, match=r"versions/2/samples.parquet is not the one that the manifest names"):
        second.samples()
