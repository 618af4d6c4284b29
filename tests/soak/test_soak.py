"""A short run that is killed at 50 random moments: `make soak`. Bounded, but too long for the ordinary suite."""

import os
import random
import re
import time
from contextlib import suppress

import mlflow
import numpy as np
import psutil
import pytest
from running_jobs import (
    PROFILES,
    RunningJob,
    make_run_corpus,
    node_settings,
    require_every_profile_once_per_epoch,
    require_no_process_of_jobs,
    training_rows,
    worker_processes,
)

from dataprep.runtime.storage import Folder
from pretrain.artifacts.checkpoint import CheckpointStore
from pretrain.config import RunSettings

KILLS = int(os.environ.get("SOAK_KILLS", "50"))
EPOCHS = 200
STEPS = 6 * EPOCHS
INTERVAL = 10
# A kill may come while a checkpoint is being written; what is done meanwhile is done again, too.
WRITING_STEPS = 5


@pytest.mark.timeout(5400)
def test_a_run_killed_at_random_moments_ends_as_if_it_had_not_been(s3_server, mlflow_server, start_cluster, tmp_path):
    """Workers (one or all) and the job itself die by SIGKILL; the job is submitted again where it was hit.

    Four kills of five come at a random moment after the run has got further, so that it does get further; the fifth
    comes at any moment, mostly while everything starts.
    """
    chance = random.Random(0)
    corpus = make_run_corpus(s3_server.prefix("soak"))
    settings = node_settings(
        corpus, s3_server.prefix("soak"), "soak", EPOCHS,
        workers={"max_failures": -1}, checkpoint={"every_steps": INTERVAL}, tracking={"system_metrics": False},
    )  # fmt: skip
    cluster = start_cluster(2, dashboard=True)
    job = RunningJob(settings, cluster, tmp_path)
    killed = {"worker": 0, "all workers": 0, "job": 0}
    for _ in range(KILLS):
        if chance.random() < 0.8:
            until_further(job)
            time.sleep(chance.uniform(0.0, 8.0))
        else:
            time.sleep(chance.uniform(2.0, 16.0))
        if not job.is_running:
            break
        victims = worker_processes()
        target = chance.choices(["worker", "all workers", "job"], [0.6, 0.2, 0.2])[0] if victims else "job"
        killed[target] += 1
        if target == "job":
            job.kill()
            job = RunningJob(settings, cluster, tmp_path)
        else:
            for victim in victims if target == "all workers" else [chance.choice(victims)]:
                kill(victim)
        print(f"{sum(killed.values())} kills: {killed}; checkpoints {newest(settings)}", flush=True)
    assert sum(killed.values()) == KILLS, "the run was over before"
    assert job.wait(1800) == 0, job.output
    output = job.output
    require_no_process_of_jobs(60)
    rows = training_rows(job.folder)
    assert len(rows) == STEPS
    require_every_profile_once_per_epoch(rows, range(PROFILES), EPOCHS)
    assert "PASSED OVER" not in output
    redone = steps_redone(output)
    print(f"{len(redone)} restarts; steps done again: median {np.median(redone):.0f}, most {max(redone)}")
    assert max(redone) <= INTERVAL + WRITING_STEPS
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("pretrain")
    found = client.search_runs([experiment.experiment_id], "attributes.run_name = 'soak'")
    assert len(found) == 1
    steps = [point.step for point in client.get_metric_history(found[0].info.run_id, "train/loss")]
    assert sorted(steps) == list(range(1, STEPS + 1)), "each step once"


def until_further(job: RunningJob) -> None:
    """Wait until the run has done one more step than now."""
    before = steps_shown(job.output)
    job.until("a further step", lambda: steps_shown(job.output) > before)


def kill(victim: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        victim.kill()


def steps_shown(output: str) -> int:
    """How many steps the output tells of, with those that were done again."""
    return len(re.findall(r" step \d+/\d+ epoch", output))


def newest(settings: RunSettings) -> int:
    steps = CheckpointStore(Folder(settings.storage) / settings.name / "checkpoints").steps()
    return steps[-1] if steps else 0


def steps_redone(output: str) -> list[int]:
    """At each restart, the steps that had been done after the checkpoint that it went on from."""
    redone, furthest = [], 0
    for line in output.splitlines():
        if step := re.search(r" step (\d+)/\d+ epoch", line):
            furthest = max(furthest, int(step[1]))
        if resumed := re.search(r"resuming from the checkpoint of step (\d+)", line):
            redone.append(max(0, furthest - int(resumed[1])))
            furthest = int(resumed[1])
    return redone
