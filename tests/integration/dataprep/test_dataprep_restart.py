"""A build that is killed and started again ends with the bytes of one that was left alone."""

import shutil
from collections.abc import Callable
from pathlib import Path

from killed_builds import RunningBuild, build_with_kills, files_of, write_many_sources
from running_jobs import RayCluster


def test_a_build_killed_at_random_moments_ends_with_the_same_bytes(
    tmp_path: Path, start_cluster: Callable[..., RayCluster]
) -> None:
    write_many_sources(tmp_path, studies=8)
    cluster, corpus = start_cluster(1), tmp_path / "corpus"
    undisturbed = RunningBuild(tmp_path, str(corpus), cluster)
    assert undisturbed.process.wait(300) == 0, undisturbed.output
    expected = files_of(corpus)
    shutil.rmtree(corpus)
    killed, said = build_with_kills(tmp_path, corpus, cluster, 3, expected)
    assert killed["build"] > 0
    assert "going on with an interrupted build" in said
    assert files_of(corpus) == expected
