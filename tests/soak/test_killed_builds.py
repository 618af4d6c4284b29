"""A build, and one that adds to a corpus, killed at 20 random moments: `make soak`."""

from collections.abc import Callable
from pathlib import Path

import pytest
from killed_builds import SAMPLES, build_with_kills, files_of, files_of_undisturbed, grow_with_kills, write_many_sources
from running_jobs import RayCluster

from dataprep.corpus import open_corpus
from dataprep.runtime.storage import Folder
from tests.conftest import S3Server

KILLS = 20


@pytest.mark.timeout(1800)
def test_a_build_killed_at_20_random_moments_ends_with_the_bytes_of_an_undisturbed_one(
    tmp_path: Path, start_cluster: Callable[..., RayCluster]
) -> None:
    write_many_sources(tmp_path, studies=30)
    cluster, corpus = start_cluster(1), Folder(str(tmp_path / "corpus"))
    expected = files_of_undisturbed(tmp_path, corpus, cluster)
    killed, said = build_with_kills(tmp_path, corpus, cluster, KILLS, expected)
    print(f"{killed}; {said.count('going on with an interrupted build')} times something was used again", flush=True)
    assert killed["build"] > 5
    assert "going on with an interrupted build" in said
    assert files_of(corpus) == expected


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_a_growth_killed_at_20_random_moments_ends_with_the_bytes_of_an_undisturbed_one(
    tmp_path: Path, s3_server: S3Server, start_cluster: Callable[..., RayCluster], place: str
) -> None:
    corpus = Folder(s3_server.prefix("soak") if place == "bucket" else str(tmp_path / "corpus"))
    killed, said = grow_with_kills(tmp_path, corpus, start_cluster(1), studies=40, kills=KILLS)
    first, second = (open_corpus(f"{corpus.uri}@{version}").manifest.samples.kept for version in (1, 2))
    assert (first, second) == (20 * SAMPLES, 40 * SAMPLES)
    print(f"{killed}; {said.count('going on with an interrupted build')} times something was used again", flush=True)
    assert killed["build"] > 5
