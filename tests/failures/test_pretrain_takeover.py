"""One driver at a time: a second one is refused, and one that was taken for gone stops; Ctrl-C is not a success."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from running_jobs import make_run_corpus, node_settings, training_rows, wait_until

from dataprep.runtime.lease import Holder
from dataprep.runtime.process import Process
from dataprep.runtime.storage import Folder
from pretrain.artifacts.checkpoint import CheckpointStore
from pretrain.artifacts.run_settings import LEASE_FILE


class LocalJob:
    """``python -m pretrain run`` with a Ray of its own and everything in local folders."""

    def __init__(self, place: Path) -> None:
        corpus = make_run_corpus(str(place / "corpus"))
        # hours of work, so that only what happens here ends it
        workers = {"count": 1, "cpus_each": 1}
        settings = node_settings(corpus, str(place / "runs"), "local", 10_000, workers=workers)
        self._config, self._log = place / "run.yaml", place / "run.log"
        self._config.write_text(json.dumps(settings.resolved()))  # JSON is YAML
        self.folder = Folder(settings.storage) / settings.name
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        environment = {
            key: value for key, value in os.environ.items() if not key.startswith(("RAY_ADDRESS", "MLFLOW_"))
        }
        with self._log.open("ab") as log:
            command = [sys.executable, "-m", "pretrain", "run", "--config", str(self._config)]
            return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)

    @property
    def output(self) -> str:
        return self._log.read_text()

    def until_training(self) -> None:
        store = CheckpointStore(self.folder / "checkpoints")
        wait_until(lambda: bool(store.steps()) or self.process.poll() is not None, 120, lambda: self.output)
        assert self.process.poll() is None, self.output


@pytest.fixture
def job(tmp_path):
    job = LocalJob(tmp_path)
    yield job
    if job.process.poll() is None:
        job.process.kill()
        job.process.wait()


def test_a_second_driver_is_refused_and_the_first_stops_when_it_was_taken_over(job):
    job.until_training()
    second = job.start()
    assert second.wait(60) == 1
    assert f"error: run local is in the hands of process {job.process.pid} on" in job.output
    assert job.process.poll() is None
    training_rows(job.folder)

    # as one that waited long enough on another machine would do
    job.folder.write_bytes(LEASE_FILE, Holder("another", Process("new", 9)).to_bytes())
    assert job.process.wait(60) == 1
    assert job.output.count("process 9 on new has taken over run local: this one stops") == 1
    assert "Traceback" not in job.output
    assert Holder.from_bytes(job.folder.read_bytes(LEASE_FILE)).owner == "another"


def test_an_interrupted_run_is_no_success_and_can_be_resumed(job):
    job.until_training()
    job.process.send_signal(signal.SIGINT)
    assert job.process.wait(60) == 1
    assert job.output.rstrip().endswith("error: interrupted")
    assert "Traceback" not in job.output
    assert not job.folder.exists(LEASE_FILE), "the next start need not wait"
