"""A build that is killed and started again ends with the bytes of one that was left alone."""

from collections.abc import Callable
from pathlib import Path

from killed_builds import build_with_kills, files_of, files_of_undisturbed, write_many_sources
from running_jobs import RayCluster

from dataprep.runtime.storage import Folder


def test_a_build_killed_at_random_moments_ends_with_the_same_bytes(
    tmp_path: Path, start_cluster: Callable[..., RayCluster]
) -> None:
    write_many_sources(tmp_path, studies=8)
    cluster, corpus = start_cluster(1), Folder(str(tmp_path / "corpus"))
    expected = files_of_undisturbed(tmp_path, corpus, cluster)
    killed, said = build_with_kills(tmp_path, corpus, cluster, 3, expected)
    assert killed["build"] > 0
    assert "going on with an interrupted build" in said
    assert files_of(corpus) == expected
