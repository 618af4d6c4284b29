"""What a run lives through: a worker killed in mid-epoch, an object store and an MLflow server that go away."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import psutil
import pytest
from made_corpora import make_corpus

from dataprep.corpus import Corpus
from dataprep.storage import Folder
from pretrain.checkpoint import CheckpointStore
from pretrain.config import RunSettings
from pretrain.run import run
from pretrain.tracking import read_rows

STEPS = 60


@pytest.fixture(scope="module")
def corpus(s3_server, ray_session) -> Corpus:
    return make_corpus(s3_server.prefix("corpus"), {"train": 70, "validation": 8, "test": 0}, rows_per_shard=24)


@pytest.fixture(scope="module")
def storage(s3_server) -> str:
    return s3_server.prefix("survival")


def settings(corpus: Corpus, storage: str, name: str, **changes) -> RunSettings:
    """60 steps, 6 an epoch, the last of an epoch of 10 profiles; a checkpoint every 4 steps."""
    base = {
        "epochs": 10,
        "batch": {"global_profiles": 12, "micro_profiles": 3},
        "optimizer": {"learning_rate": 1e-3},
        "workers": {"count": 2, "threads_each": 1, "max_failures": 3},
        "data": {"shuffle_window_profiles": 16},
        "checkpoint": {"every_steps": 4},
        # a step that a person could kill: the model is too small to take a noticeable time
        "validation": {"every_steps": 5},
    }
    return RunSettings(corpus=corpus.folder.uri, storage=storage, name=name, **(base | changes))


def losses(storage: str, name: str) -> np.ndarray:
    rows = [row for row in read_rows(Folder(storage) / name) if "loss" in row]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1)), "each step is there once, in order"
    return np.array([row["loss"] for row in rows])


def when_checkpointed(storage: str, name: str, step: int, act: Callable[[], None]) -> threading.Thread:
    """Act as soon as the run has a checkpoint of ``step`` or later."""
    store = CheckpointStore(Folder(storage) / name / "checkpoints")

    def watch() -> None:
        give_up_at = time.monotonic() + 200
        while time.monotonic() < give_up_at:
            if any(done >= step for done in store.steps()):
                act()
                return
            time.sleep(0.05)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def worker_processes() -> list[psutil.Process]:
    """Ray Train's workers among the children of this process; others may come and go meanwhile."""
    workers = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if "RayTrainWorker" in " ".join(child.cmdline()):
                workers.append(child)
    return workers


def kill_one_worker() -> None:
    worker_processes()[-1].kill()


@pytest.fixture(scope="module")
def uninterrupted(corpus, storage) -> np.ndarray:
    run(settings(corpus, storage, "uninterrupted"))
    return losses(storage, "uninterrupted")


def test_a_worker_killed_in_mid_epoch_costs_nothing_but_time(corpus, storage, uninterrupted, capsys):
    """The ledger of the restarted run would stop it at a profile used twice or left out; the losses say the rest."""
    killer = when_checkpointed(storage, "killed", 8, kill_one_worker)
    run(settings(corpus, storage, "killed"))
    killer.join()
    assert "going on from the checkpoint of step" in capsys.readouterr().out
    np.testing.assert_allclose(losses(storage, "killed"), uninterrupted, rtol=0, atol=1e-6)
    assert len(uninterrupted) == STEPS


def test_an_object_store_that_is_away_for_a_while_is_waited_for(corpus, storage, s3_server, uninterrupted):
    """Stopped while checkpoints are being written and windows read; training goes on when it is back."""

    began = []

    def outage() -> None:
        began.append(time.time())
        s3_server.stop()
        time.sleep(10)
        s3_server.start()

    breaker = when_checkpointed(storage, "outage", 4, outage)
    run(settings(corpus, storage, "outage"))
    breaker.join()
    np.testing.assert_allclose(losses(storage, "outage"), uninterrupted, rtol=0, atol=1e-6)
    assert CheckpointStore(Folder(storage) / "outage" / "checkpoints").steps()[-1] == STEPS
    assert read_rows(Folder(storage) / "outage")[-1]["time"] > began[0], "the run was not over before the outage"
