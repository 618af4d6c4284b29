"""A growth that is killed and started again ends with the bytes of one that was left alone, on disk and in a bucket."""

from collections.abc import Callable
from pathlib import Path

import pytest
from killed_builds import (
    build_with_kills,
    files_of,
    files_of_undisturbed,
    require_old_rows,
    write_growing_sources,
)
from running_jobs import RayCluster

from dataprep.corpus import open_corpus, verify
from dataprep.runtime.storage import Folder
from tests.conftest import S3Server


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_a_growth_killed_at_random_moments_ends_with_the_same_bytes(
    tmp_path: Path, s3_server: S3Server, start_cluster: Callable[..., RayCluster], place: str
) -> None:
    corpus = Folder(s3_server.prefix("growth") if place == "bucket" else str(tmp_path / "corpus"))
    cluster = start_cluster(1)
    write_growing_sources(tmp_path, corpus, cluster, studies=16)
    before = files_of(corpus)
    expected = files_of_undisturbed(tmp_path, corpus, cluster, ["--grow"])
    killed, said = build_with_kills(tmp_path, corpus, cluster, 4, expected, ["--grow"])
    assert killed["build"] > 0
    assert "going on with an interrupted build" in said
    assert files_of(corpus) == expected
    require_old_rows(corpus, before)
    verify(open_corpus(corpus))
    assert (open_corpus(f"{corpus.uri}@1").manifest.samples.kept, open_corpus(corpus).manifest.samples.kept) == (
        320,
        640,
    )
