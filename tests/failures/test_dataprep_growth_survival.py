"""A growth that is killed and started again ends with the bytes of one that was left alone, on disk and in a bucket."""

from collections.abc import Callable
from pathlib import Path

import pytest
from killed_builds import grow_with_kills
from running_jobs import RayCluster

from dataprep.corpus import open_corpus
from dataprep.runtime.storage import Folder
from tests.conftest import S3Server


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_a_growth_killed_at_random_moments_ends_with_the_same_bytes(
    tmp_path: Path, s3_server: S3Server, start_cluster: Callable[..., RayCluster], place: str
) -> None:
    corpus = Folder(s3_server.prefix("growth") if place == "bucket" else str(tmp_path / "corpus"))
    killed, _ = grow_with_kills(tmp_path, corpus, start_cluster(1), studies=16, kills=4)
    assert killed["build"] > 0
    assert (open_corpus(f"{corpus.uri}@1").manifest.samples.kept, open_corpus(corpus).manifest.samples.kept) == (
        320,
        640,
    )
