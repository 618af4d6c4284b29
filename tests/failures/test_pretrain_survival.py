"""What a run lives through: a killed worker, an object store that goes away, a damaged shard."""

import gzip
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest
from running_jobs import losses, make_run_corpus, node_settings, training_rows, wait_until, worker_processes

from dataprep.corpus import Corpus
from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder
from pretrain.artifacts.checkpoint import CheckpointStore
from pretrain.data.plan import Window
from pretrain.data.window_reader import read_window
from pretrain.driver.run import run
from pretrain.monitoring.metrics_file import read_rows

EPOCHS = 10
STEPS = 60


@pytest.fixture(scope="module")
def corpus(s3_server, ray_session) -> Corpus:
    return make_run_corpus(s3_server.prefix("corpus"))


@pytest.fixture(scope="module")
def storage(s3_server) -> str:
    return s3_server.prefix("survival")


def when_checkpointed(storage: str, name: str, step: int, act: Callable[[], None]) -> Future[None]:
    """Act as soon as the run has a checkpoint of ``step`` or later; the result raises what the act has raised."""
    store = CheckpointStore(Folder(storage) / name / "checkpoints")

    def watch() -> None:
        wait_until(lambda: any(done >= step for done in store.steps()), 200, lambda: f"no checkpoint of step {step}")
        act()

    return ThreadPoolExecutor(1).submit(watch)


def kill_one_worker() -> None:
    worker_processes()[-1].kill()


@pytest.fixture(scope="module")
def uninterrupted(corpus, storage) -> np.ndarray:
    """Losses of a run that nothing happens to, but for a profile of two steps."""
    run(node_settings(corpus, storage, "uninterrupted", EPOCHS, profile=2))
    return losses(Folder(storage) / "uninterrupted")


def test_a_worker_killed_in_mid_epoch_costs_nothing_but_time(corpus, storage, uninterrupted, capsys):
    """The ledger of the restarted run would stop it at a profile used twice or left out; the losses say the rest."""
    killer = when_checkpointed(storage, "killed", 8, kill_one_worker)
    run(node_settings(corpus, storage, "killed", EPOCHS))
    killer.result()
    output = capsys.readouterr()
    assert "resuming from the checkpoint of step" in output.err
    assert not any(secret in output.out + output.err for secret in secrets())
    np.testing.assert_allclose(losses(Folder(storage) / "killed"), uninterrupted, rtol=0, atol=1e-6)
    assert len(uninterrupted) == STEPS


def test_an_object_store_that_is_away_for_a_while_is_waited_for(corpus, storage, s3_server, uninterrupted):
    """Stopped while checkpoints are being written and windows read; training continues when it is back."""

    began = []

    def outage() -> None:
        began.append(time.time())
        s3_server.stop()
        time.sleep(30)
        s3_server.start()

    breaker = when_checkpointed(storage, "outage", 4, outage)
    run(node_settings(corpus, storage, "outage", EPOCHS))
    breaker.result()
    np.testing.assert_allclose(losses(Folder(storage) / "outage"), uninterrupted, rtol=0, atol=1e-6)
    assert CheckpointStore(Folder(storage) / "outage" / "checkpoints").steps()[-1] == STEPS
    assert read_rows(Folder(storage) / "outage")[-1]["time"] > began[0], "the run was not over before the outage"


def test_a_damaged_shard_stops_a_run_by_name_or_is_left_out(corpus, storage, s3_server, capsys):
    """One page of one row group is not what was written: its 8 profiles are named, counted and done without."""
    broken = make_run_corpus(s3_server.prefix("damaged"))
    path = "split=train/part-00001.parquet"
    content = bytearray(broken.folder.read_bytes(path))
    third_group = content.index((40).to_bytes(8, "little"))  # row ids 40 to 47
    content[third_group + 200] ^= 1  # inside its expression
    broken.folder.write_bytes(path, bytes(content))
    shard = broken.shards("train")[1]
    with pytest.raises(UserError, match=r"part-00001\.parquet is damaged"):
        read_window(broken.folder, Window(0, np.arange(40, 48), ((shard, (2,)),)))

    run(node_settings(broken, storage, "left-out", 2, data={"damaged_shards": "leave-out"}))
    rows = training_rows(Folder(storage) / "left-out")
    assert len(rows) == 12
    for epoch in (0, 1):
        used = [row_id for row in rows if row["epoch"] == epoch for row_id in row["row_ids"]]
        assert sorted(used) == [*range(40), *range(48, 70)]
        assert sum(row.get("profiles_left_out", 0) for row in rows if row["epoch"] == epoch) == 8
    assert f"profiles of {path} (row_id 4" in capsys.readouterr().err


def test_a_profile_of_some_steps_is_a_chrome_trace(storage, uninterrupted):
    folder = Folder(storage) / "uninterrupted"
    assert folder.files().count("profile/step-00000004.json.gz") == 1, "two steps after the first two"
    trace = json.loads(gzip.decompress(folder.read_bytes("profile/step-00000004.json.gz")))
    names = {event.get("name", "") for event in trace["traceEvents"]}
    assert any("addmm" in name for name in names)


def test_no_secret_is_in_what_a_run_leaves(storage, uninterrupted):
    folder = Folder(storage) / "uninterrupted"
    files = folder.files()
    assert any(name.endswith("config.json") for name in files)
    for name in files:
        content = folder.read_bytes(name)
        assert not any(secret.encode() in content for secret in secrets()), name


def secrets() -> list[str]:
    return [os.environ["AWS_SECRET_ACCESS_KEY"], os.environ["RAY_AUTH_TOKEN"]]
