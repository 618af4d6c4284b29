"""A real object store behind a proxy that throttles, breaks off and refuses expired credentials."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import s3fs
from made_corpora import make_corpus
from s3_proxy import (
    ANSWER_LOST,
    CLOSED,
    EXPIRED_TOKEN,
    INTERNAL_ERROR,
    SLOW_DOWN,
    THROTTLED,
    TOO_MANY_REQUESTS,
    Fault,
    FaultyProxy,
)

from dataprep.corpus import ReplacedShardError, iterate_rows, open_corpus, verify
from dataprep.runtime import storage
from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder
from tests.conftest import S3Server


@pytest.fixture
def proxy(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    with FaultyProxy(os.environ["AWS_ENDPOINT_URL"]) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.address)
        monkeypatch.setattr(storage, "_FIRST_PAUSE_SECONDS", 0.02)
        s3fs.S3FileSystem.clear_instance_cache()
        yield running
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def folder(proxy: FaultyProxy, s3_server: S3Server) -> Folder:
    return Folder(s3_server.prefix("faults"), patience_seconds=60)


@pytest.mark.parametrize(
    "fault", [SLOW_DOWN, THROTTLED, TOO_MANY_REQUESTS, INTERNAL_ERROR, EXPIRED_TOKEN, CLOSED], ids=lambda f: f.code
)
def test_reads_and_writes_outlive_a_store_that_fails_for_a_while(
    fault: Fault, folder: Folder, proxy: FaultyProxy, tmp_path: Path
) -> None:
    (tmp_path / "source").write_bytes(b"content")
    acts: list[Callable[[], object]] = [
        lambda: folder.write_bytes("a", b"content"),
        lambda: folder.upload(tmp_path / "source", "b"),
        lambda: folder.read_bytes("a"),
        lambda: folder.download("b", tmp_path / "copy"),
        lambda: folder.exists("a"),
        lambda: folder.files(),
        lambda: folder.sha256("a"),
    ]
    for number, act in enumerate(acts, start=1):
        proxy.inject(fault)
        act()
        assert len(proxy.injected) == number
    assert folder.files() == ["a", "b"]
    assert folder.read_bytes("b") == (tmp_path / "copy").read_bytes() == b"content"


def test_credentials_that_stay_expired_are_one_line(folder: Folder, proxy: FaultyProxy) -> None:
    folder.write_bytes("a", b"content")
    proxy.inject(EXPIRED_TOKEN, times=1000)
    with pytest.raises(UserError, match="the credentials have expired") as gave_up:
        folder.patient(1.0).read_bytes("a")
    assert "\n" not in str(gave_up.value)
    # answers to HEAD name no reason
    with pytest.raises(UserError, match="the credentials have expired"):
        folder.patient(1.0).size_bytes("a")


def test_new_credentials_in_the_file_are_used_while_a_run_goes_on(
    folder: Folder, proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write_bytes("a", b"content")
    key, secret = (os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    credentials = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    credentials.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = old\n")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(UserError, match="access denied"):
        folder.patient(1.0).read_bytes("a")
    credentials.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")
    assert folder.read_bytes("a") == b"content"


def test_a_conditional_write_whose_answer_is_lost_is_known_to_have_succeeded(
    folder: Folder, proxy: FaultyProxy
) -> None:
    proxy.inject(ANSWER_LOST, method="PUT")
    assert folder.create("lease", b"mine")
    proxy.inject(ANSWER_LOST, method="PUT")
    assert folder.replace_if("lease", b"mine, later", folder.read_version("lease")[1])
    assert len(proxy.injected) == 2
    assert not folder.create("lease", b"another's")


def test_a_corpus_is_read_through_faults_and_never_after_a_rebuild(folder: Folder, proxy: FaultyProxy) -> None:
    make_corpus(folder.uri, {"train": 40, "validation": 8, "test": 8})
    corpus = open_corpus(folder)
    proxy.inject(SLOW_DOWN, times=5)
    proxy.inject(CLOSED, times=5)
    verify(corpus)
    proxy.inject(THROTTLED, times=6)
    assert [len(ids) for ids, _ in iterate_rows(corpus, corpus.samples().column("row_id").to_numpy())] == [8] * 7
    make_corpus(folder.uri, {"train": 40, "validation": 8, "test": 8}, seed=3)
    with pytest.raises(ReplacedShardError, match="the corpus was rebuilt"):
        list(iterate_rows(corpus, np.arange(8)))


def test_removing_takes_a_name_for_a_name_and_not_for_a_pattern(folder: Folder) -> None:
    for name in ("run[1]/x", "run1/x", "run*/x", "run2/y", "run/x", "runs/x"):
        folder.write_text(name, "kept")
    for name in ("run[1]", "run*", "run", "absent"):
        folder.remove(name)
    assert folder.files() == ["run1/x", "run2/y", "runs/x"]
    folder.remove("run1/x")
    assert folder.files() == ["run2/y", "runs/x"]


@pytest.mark.parametrize("name", ["a#b", "a?b", "a%20b", "a b", "a+b&c=d", "äβ", "a[1]", "a*", "a.", "~a"])
def test_names_that_mean_something_elsewhere_are_names_of_objects(folder: Folder, name: str) -> None:
    (folder / name).write_text(name, "content")
    assert (folder / name).read_text(name) == "content"
    assert folder.files() == [f"{name}/{name}"]
    assert folder.children() == [name]
    assert (folder / name).exists(name)
    folder.remove(name)
    assert folder.files() == []


def test_whether_a_bucket_takes_a_file_is_tried_without_leaving_one(folder: Folder) -> None:
    folder.require_writable("scores.json")
    assert folder.files() == []
    with pytest.raises(UserError, match="bucket"):
        Folder("s3://no-such-bucket/x").require_writable("scores.json")
