"""One run that meets the faults of `docs/long-runs.md`, one after the other: `make soak`.

A store that throttles and whose credentials expire, a clock that is set back, a second driver of the same name,
damaged newest checkpoints, a graph and a corpus that change under the run, answers and errors that nobody expects.
After all of it the run has used every profile once per epoch, and its losses are those of a run that met nothing.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_corpora import make_corpus
from running_jobs import (
    RunningJob,
    node_settings,
    require_every_profile_once_per_epoch,
    require_no_process_of_jobs,
    training_rows,
)
from s3_proxy import CLOSED, EXPIRED_TOKEN, INTERNAL_ERROR, SLOW_DOWN, THROTTLED, TOO_MANY_REQUESTS, Fault, FaultyProxy

from dataprep.corpus import GRAPH_FILE, MANIFEST_FILE
from dataprep.runtime.storage import Folder
from pretrain.artifacts.checkpoint import CheckpointStore

PROFILES = 70
EPOCHS = 60
STEPS = 6 * EPOCHS
CLOCK_STEP_SECONDS = 3
# A module that Python imports at its start. `time.time` is behind by as many seconds as one file says; where there is
# another file, the thread that writes checkpoints meets an error that no store raises.
FAULTS = """
import hashlib, os, threading, time
_true_time, _true_sha256 = time.time, hashlib.sha256
_folder = os.environ["FAULTS"]
def _time():
    try:
        with open(os.path.join(_folder, "behind")) as file:
            return _true_time() - float(file.read() or 0)
    except OSError:
        return _true_time()
def _sha256(*content, **options):
    writing = threading.current_thread().name.endswith("checkpoint-writer")
    if writing and os.path.exists(os.path.join(_folder, "no-memory")):
        raise MemoryError("no memory for a checksum")
    return _true_sha256(*content, **options)
time.time, hashlib.sha256 = _time, _sha256
"""


@pytest.fixture
def inner_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder whose files say what processes that are yet to start meet inside."""
    folder = tmp_path / "inner-faults"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(FAULTS)
    before = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("FAULTS", str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(folder), before))))
    return folder


@pytest.fixture
def proxy(s3_server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """Between the run and its store; this process keeps the store's own address."""
    with FaultyProxy(os.environ["AWS_ENDPOINT_URL"]) as running:
        yield running


class FaultyRun:
    """The run, started again and again; outputs of all starts are one log."""

    def __init__(self, settings, cluster, folder: Path) -> None:
        self._settings, self._cluster, self._folder = settings, cluster, folder
        self.job = self.start()
        self.checkpoints = CheckpointStore(self.job.folder / "checkpoints")

    def start(self) -> RunningJob:
        return RunningJob(self._settings, self._cluster, self._folder)

    def restart(self) -> None:
        self.job = self.start()

    def further(self, steps: int = 8) -> None:
        """Wait for a checkpoint that is so many steps newer than the newest."""
        done = self.checkpoints.steps()
        self.job.until_checkpoint((done[-1] if done else 0) + steps)

    def refused(self, because: str) -> None:
        """A start that ends with exit code 1 or 2 and one line that says why."""
        before = len(self.job.output)
        job = self.start()
        assert job.wait() in (1, 2), job.output
        said = job.output[before:]
        assert because in said, said
        assert "Traceback" not in said


@pytest.mark.timeout(3600)
def test_a_run_that_meets_every_fault_ends_as_if_it_had_met_none(
    s3_server, mlflow_server, proxy, inner_faults, start_cluster, tmp_path, monkeypatch
):
    splits = {"train": PROFILES, "validation": 8, "test": 0}
    corpus = make_corpus(s3_server.prefix("corpus"), splits, rows_per_shard=24)
    storage = s3_server.prefix("faults")
    # the run, and all that it starts, sees the store through the proxy
    with monkeypatch.context() as through_proxy:
        through_proxy.setenv("AWS_ENDPOINT_URL", proxy.address)
        cluster = start_cluster(2, dashboard=True)
        settings = node_settings(corpus, storage, "faulty", EPOCHS, checkpoint={"every_steps": 4, "keep": 3})
        undisturbed = RunningJob(settings.model_copy(update={"name": "undisturbed"}), cluster, tmp_path)
        assert undisturbed.wait(900) == 0, undisturbed.output
        run = FaultyRun(settings, cluster, tmp_path)
        run.further()

        # a busy store, one that breaks off, credentials that expire: waited for
        for fault in (THROTTLED, SLOW_DOWN, TOO_MANY_REQUESTS, INTERNAL_ERROR, CLOSED, EXPIRED_TOKEN):
            proxy.inject(fault, times=4)
            run.further(4)
        proxy.heal()
        assert len(proxy.injected) >= 20, proxy.injected

        # the clock is set back under driver, workers and Ray
        (inner_faults / "behind").write_text(str(CLOCK_STEP_SECONDS))
        run.further()

        # a second driver of the same name is refused, and the first continues
        run.refused("is in the hands of")
        run.further(4)
        # and forward again; gRPC in a process that starts would compare this clock with the true one
        (inner_faults / "behind").unlink()

        # the newest checkpoints are damaged while the job is down: the run resumes from an older one
        run.job.kill()
        newest = run.checkpoints.steps()[-1]
        damage(run.checkpoints.folder, newest)
        run.restart()
        run.job.until("the damage noticed", lambda: "CHECKPOINT PASSED OVER" in run.job.output)
        run.further()

        # another graph, another corpus at the same address: refused until the old ones are back
        run.job.kill()
        other = make_corpus(s3_server.prefix("other"), splits, rows_per_shard=24, seed=1)
        graph = other.graph()
        replace(graph, weight=graph.weight / 2).write(other.folder)
        for name, complaint in ((GRAPH_FILE, "gene graph"), (MANIFEST_FILE, "corpus")):
            with replaced(corpus.folder, name, other.folder.read_bytes(name)):
                run.refused(complaint)

        # a store that answers what nobody expects costs checkpoints, and each is said
        run.restart()
        run.further(4)
        proxy.inject(Fault("Teapot", 418), times=2, method="PUT", key_part="checkpoints")
        run.job.until("a checkpoint missed", lambda: "CHECKPOINT NOT WRITTEN at step" in run.job.output)
        proxy.heal()
        run.further(4)

        # an error that nobody expects ends the run with its message, neither with success nor never
        (inner_faults / "no-memory").touch()
        assert run.job.wait() == 1, run.job.output
        assert "MemoryError: no memory for a checksum" in run.job.output.splitlines()[-1], run.job.output
        (inner_faults / "no-memory").unlink()

        run.restart()
        assert run.job.wait(900) == 0, run.job.output
    require_no_process_of_jobs(60)
    rows = training_rows(run.job.folder)
    assert len(rows) == STEPS
    require_every_profile_once_per_epoch(rows, range(PROFILES), EPOCHS)
    expected = [row["loss"] for row in training_rows(undisturbed.folder)]
    np.testing.assert_allclose([row["loss"] for row in rows], expected, rtol=0, atol=1e-6)


def damage(checkpoints: Folder, step: int) -> None:
    """Change one byte in the middle of each tensor file of a checkpoint."""
    place = checkpoints / f"step-{step:08d}"
    names = [name for name in place.files() if name.endswith(".safetensors")]
    assert names
    for name in names:
        content = bytearray(place.read_bytes(name))
        content[len(content) // 2] ^= 1
        place.write_bytes(name, bytes(content))


@contextmanager
def replaced(folder: Folder, name: str, content: bytes) -> Iterator[None]:
    """Another content of a file for the time being."""
    before = folder.read_bytes(name)
    assert before != content
    folder.write_bytes(name, content)
    try:
        yield
    finally:
        folder.write_bytes(name, before)
