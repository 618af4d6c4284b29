"""Of many writers of one file, one wins: on a disk and in an object store. A run's lease stands on it."""

import multiprocessing
import threading
from pathlib import Path
from typing import Any

import pytest

from dataprep.runtime.storage import Folder


@pytest.fixture(params=["disk", "object store"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    if request.param == "disk":
        return Folder(str(tmp_path / "run"))
    return Folder(request.getfixturevalue("s3_server").prefix("conditional"))


def test_a_file_is_created_once(folder: Folder) -> None:
    assert folder.create("lease.json", b"first")
    assert not folder.create("lease.json", b"second")
    assert folder.read_bytes("lease.json") == b"first"
    assert folder.files() == ["lease.json"]


def test_a_writer_whose_answer_was_lost_recognises_its_content(folder: Folder) -> None:
    if folder.is_local:
        pytest.skip("a disk loses no answers")
    assert folder.create("lease.json", b"mine")
    assert folder.create("lease.json", b"mine")


def test_a_file_is_replaced_only_while_it_is_what_was_read(folder: Folder) -> None:
    folder.create("lease.json", b"first")
    content, version = folder.read_version("lease.json")
    assert content == b"first"
    assert folder.replace_if("lease.json", b"second", version)
    assert not folder.replace_if("lease.json", b"third", version)
    assert folder.read_bytes("lease.json") == b"second"
    assert folder.replace_if("lease.json", b"third", folder.read_version("lease.json")[1])


def test_what_is_not_there_is_neither_read_nor_replaced(folder: Folder) -> None:
    folder.create("lease.json", b"first")
    _, version = folder.read_version("lease.json")
    folder.remove("lease.json")
    assert not folder.replace_if("lease.json", b"second", version)
    assert not folder.exists("lease.json")
    with pytest.raises(FileNotFoundError):
        folder.read_version("lease.json")


def _in_threads(write: Any, writers: int = 8) -> list[bool]:
    outcomes: list[bool] = []
    start = threading.Barrier(writers)

    def run(number: int) -> None:
        start.wait()
        outcomes.append(write(number))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def test_of_writers_at_once_one_creates(folder: Folder) -> None:
    for repetition in range(2):
        name = f"lease-{repetition}.json"
        outcomes = _in_threads(lambda number, name=name: folder.create(name, f"writer {number}".encode()))
        assert sorted(outcomes) == [False] * 7 + [True]


def test_of_writers_at_once_one_replaces(folder: Folder) -> None:
    folder.create("lease.json", b"0")
    for repetition in range(2):
        _, version = folder.read_version("lease.json")
        outcomes = _in_threads(
            lambda number, version=version, repetition=repetition: folder.replace_if(
                "lease.json", f"{repetition} {number}".encode(), version
            )
        )
        assert sorted(outcomes) == [False] * 7 + [True]


def _create(uri: str, number: int, outcomes: Any) -> None:
    outcomes.put(Folder(uri).create("lease.json", f"process {number}".encode()))


def test_of_processes_at_once_one_creates(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    outcomes = context.Queue()
    processes = [context.Process(target=_create, args=(str(tmp_path), number, outcomes)) for number in range(6)]
    for process in processes:
        process.start()
    assert sorted(outcomes.get(timeout=60) for _ in processes) == [False] * 5 + [True]
    for process in processes:
        process.join()
