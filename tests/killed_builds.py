"""``dataprep build`` in a process of its own, on a Ray cluster that outlives it, killed at random moments."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from made_sources import build_settings, counts, write_source
from running_jobs import RayCluster, wait_until

from dataprep.corpus import open_corpus, verify
from dataprep.corpus.replacement import STATE_FOLDER
from dataprep.runtime.storage import Folder

SAMPLES = 40


def write_many_sources(folder: Path, studies: int, **more: Any) -> None:
    """Studies that take a few seconds to read, in many small tasks and shards, and ``build.yaml``."""
    sources = [write_source(folder, f"s{number}", counts(SAMPLES, seed=number)) for number in range(studies)]
    build_settings(folder, sources, samples_per_task=8, shard_bytes=16 * 88, **more)


class RunningBuild:
    def __init__(self, folder: Path, corpus: Folder, cluster: RayCluster, arguments: Sequence[str] = ()) -> None:
        self._log = folder / "build.log"
        command = [sys.executable, "-m", "dataprep", "build", "--config", str(folder / "build.yaml")]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--corpus", corpus.uri, *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {"RAY_ADDRESS": cluster.address},
            )

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    @property
    def output(self) -> str:
        return self._log.read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def require_success(self) -> None:
        assert self.process.wait(300) == 0, self.output


def files_of_undisturbed(
    folder: Path, corpus: Folder, cluster: RayCluster, arguments: Sequence[str] = ()
) -> dict[str, bytes]:
    """What a build that is left alone makes of a place, which is then as it was."""
    before = files_of(corpus)
    RunningBuild(folder, corpus, cluster, arguments).require_success()
    expected = files_of(corpus)
    restore(corpus, before)
    return expected


def build_with_kills(
    folder: Path,
    corpus: Folder,
    cluster: RayCluster,
    kills: int,
    expected: dict[str, bytes],
    arguments: Sequence[str] = (),
    seed: int = 0,
) -> tuple[dict[str, int], str]:
    """Build, with a SIGKILL for the command or for one of its workers at so many moments, most of them after it has got
    further. A corpus that is finished before has to have the expected files, and is begun anew from what was there.

    Returns how many were killed, and what the command said.
    """
    chance = random.Random(seed)
    killed = {"build": 0, "worker": 0}
    before = files_of(corpus)
    build = RunningBuild(folder, corpus, cluster, arguments)
    while sum(killed.values()) < kills:
        if chance.random() < 0.8:
            _wait_until_further(build, corpus)
            time.sleep(chance.uniform(0.0, 1.0))
        else:
            time.sleep(chance.uniform(0.5, 6.0))
        if not build.is_running:
            build.require_success()
            assert files_of(corpus) == expected
            restore(corpus, before)
            build = RunningBuild(folder, corpus, cluster, arguments)
            continue
        workers = _workers()
        if workers and chance.random() < 0.4:
            with suppress(psutil.NoSuchProcess):
                chance.choice(workers).kill()
            killed["worker"] += 1
        else:
            build.kill()
            killed["build"] += 1
            build = RunningBuild(folder, corpus, cluster, arguments)
    build.require_success()
    return killed, build.output


def _wait_until_further(build: RunningBuild, corpus: Folder) -> None:
    done = len(_kept(corpus))
    wait_until(lambda: len(_kept(corpus)) != done or not build.is_running, 300, lambda: build.output)


def _kept(corpus: Folder) -> list[str]:
    """What a restart would find."""
    return [name for name in (corpus / STATE_FOLDER).files() if name.endswith((".parquet", ".json"))]


def files_of(corpus: Folder) -> dict[str, bytes]:
    return {name: corpus.read_bytes(name) for name in corpus.files()}


def restore(corpus: Folder, files: Mapping[str, bytes]) -> None:
    # folders without files, too, which a build would take for somebody else's
    for name in corpus.children():
        corpus.remove(name)
    for name, content in files.items():
        corpus.write_bytes(name, content)


def _workers() -> list[psutil.Process]:
    """Processes of this test's cluster that read or write."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if (process.cmdline() or [""])[0].startswith("ray::Map"):
                found.append(process)
    return found


# ---- growth ----------------------------------------------------------------------------------------------------------

# With a bound, the profiles that are there are read as well.
_GROWING = {
    "split": {"stable": True, "validation_fraction": 0.2, "test_fraction": 0.2},
    "max_correlation_between_studies": 0.9999,
}


def write_growing_sources(folder: Path, corpus: Folder, cluster: RayCluster, studies: int) -> None:
    """A corpus of half of the studies, and ``build.yaml`` with all of them."""
    write_many_sources(folder, studies // 2, **_GROWING)
    RunningBuild(folder, corpus, cluster).require_success()
    write_many_sources(folder, studies, **_GROWING)


def require_old_rows(corpus: Folder, before: Mapping[str, bytes]) -> None:
    """All files of the first version are as they were, but for the manifest of the newest."""
    after = files_of(corpus)
    assert {name: after[name] for name in before if name != "manifest.json"} == {
        name: content for name, content in before.items() if name != "manifest.json"
    }
    assert after["versions/1/manifest.json"] == before["manifest.json"]


def grow_with_kills(
    folder: Path, corpus: Folder, cluster: RayCluster, studies: int, kills: int
) -> tuple[dict[str, int], str]:
    """Grow a corpus, killed so many times: its files have to be those of a growth that was left alone, with every old
    row where it was.

    Returns how many were killed, and what the command said.
    """
    write_growing_sources(folder, corpus, cluster, studies)
    before = files_of(corpus)
    expected = files_of_undisturbed(folder, corpus, cluster, ["--grow"])
    killed, said = build_with_kills(folder, corpus, cluster, kills, expected, ["--grow"])
    assert "going on with an interrupted build" in said
    assert files_of(corpus) == expected
    require_old_rows(corpus, before)
    verify(open_corpus(corpus))
    return killed, said
