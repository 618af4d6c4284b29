"""``dataprep build`` in a process of its own, on a Ray cluster that outlives it, killed at random moments."""

import os
import random
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
from made_sources import build_settings, counts, write_source
from running_jobs import RayCluster, wait_until

from dataprep.corpus.replacement import STATE_FOLDER

SAMPLES = 40


def write_many_sources(folder: Path, studies: int) -> None:
    """Studies that take a few seconds to read, in many small tasks and shards, and ``build.yaml``."""
    sources = [write_source(folder, f"s{number}", counts(SAMPLES, seed=number)) for number in range(studies)]
    build_settings(folder, sources, samples_per_task=8, shard_bytes=16 * 88)


class RunningBuild:
    def __init__(self, folder: Path, corpus: str, cluster: RayCluster) -> None:
        self._log = folder / "build.log"
        command = [sys.executable, "-m", "dataprep", "build", "--config", str(folder / "build.yaml")]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--corpus", corpus],
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


def files_of_undisturbed(folder: Path, corpus: Path, cluster: RayCluster) -> dict[str, bytes]:
    """What a build that is left alone writes, which is then removed."""
    build = RunningBuild(folder, str(corpus), cluster)
    assert build.process.wait(300) == 0, build.output
    expected = files_of(corpus)
    shutil.rmtree(corpus)
    return expected


def build_with_kills(
    folder: Path, corpus: Path, cluster: RayCluster, kills: int, expected: dict[str, bytes], seed: int = 0
) -> tuple[dict[str, int], str]:
    """Build, with a SIGKILL for the command or for one of its workers at so many moments, most of them after it has got
    further. A corpus that is finished before has to have the expected files, and is begun anew.

    Returns how many were killed, and what the command said.
    """
    chance = random.Random(seed)
    killed = {"build": 0, "worker": 0}
    build = RunningBuild(folder, str(corpus), cluster)
    while sum(killed.values()) < kills:
        if chance.random() < 0.8:
            _wait_until_further(build, corpus)
            time.sleep(chance.uniform(0.0, 1.0))
        else:
            time.sleep(chance.uniform(0.5, 6.0))
        if not build.is_running:
            assert build.process.returncode == 0, build.output
            assert files_of(corpus) == expected
            shutil.rmtree(corpus)
            build = RunningBuild(folder, str(corpus), cluster)
            continue
        workers = _workers()
        if workers and chance.random() < 0.4:
            with suppress(psutil.NoSuchProcess):
                chance.choice(workers).kill()
            killed["worker"] += 1
        else:
            build.kill()
            killed["build"] += 1
            build = RunningBuild(folder, str(corpus), cluster)
    assert build.process.wait(300) == 0, build.output
    return killed, build.output


def _wait_until_further(build: RunningBuild, corpus: Path) -> None:
    done = len(_kept(corpus))
    wait_until(lambda: len(_kept(corpus)) != done or not build.is_running, 300, lambda: build.output)


def _kept(corpus: Path) -> list[Path]:
    """What a restart would find."""
    return [path for path in (corpus / STATE_FOLDER).glob("*/*/*") if path.suffix in (".parquet", ".json")]


def files_of(corpus: Path) -> dict[str, bytes]:
    return {str(path.relative_to(corpus)): path.read_bytes() for path in corpus.rglob("*") if path.is_file()}


def _workers() -> list[psutil.Process]:
    """Processes of this test's cluster that read or write."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if (process.cmdline() or [""])[0].startswith("ray::Map"):
                found.append(process)
    return found
