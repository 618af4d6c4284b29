"""Machines that come and go under a run that may shrink and grow: minutes of waiting, so not in the ordinary suite."""

from running_jobs import (
    PROFILES,
    RunningJob,
    make_run_corpus,
    node_settings,
    require_every_profile_once_per_epoch,
    training_rows,
)

from pretrain.artifacts.checkpoint import CheckpointStore
from pretrain.monitoring.metrics_file import read_rows

STEPS_IN_EPOCH = 6


def test_machines_are_lost_come_back_and_go_with_notice(s3_server, start_cluster, tmp_path):
    """Two workers, one after a loss, two again when there is a machine for it, one after an announced departure."""
    corpus = make_run_corpus(s3_server.prefix("corpus"))
    storage = s3_server.prefix("elastic")
    cluster = start_cluster(2)
    epochs = 60
    elastic = {"min_count": 1, "resize_check_seconds": 3.0}
    job = RunningJob(node_settings(corpus, storage, "elastic", epochs, workers=elastic), cluster, tmp_path)
    job.until_checkpoint(8)
    cluster.lose(cluster.nodes[1])
    job.until("one worker", lambda: "resuming from the checkpoint of step" in job.output)
    cluster.nodes[1] = cluster.add_node()
    job.until("two workers", lambda: job.output.count("resuming from the checkpoint of step") == 2)
    at = CheckpointStore(job.folder / "checkpoints").steps()[-1]
    job.until_checkpoint(at + 4)
    cluster.drain(cluster.nodes[1], seconds=8)
    job.until("the notice", lambda: "NODE DRAINING" in job.output)
    job.until("one worker", lambda: job.output.count("resuming from the checkpoint of step") == 3)
    assert job.wait() == 0, job.output
    rows = training_rows(job.folder)
    assert len(rows) == epochs * STEPS_IN_EPOCH
    require_every_profile_once_per_epoch(rows, range(PROFILES), epochs)
    validation = [row["validation_loss"] for row in read_rows(job.folder) if "validation_loss" in row]
    assert len(validation) == epochs
    assert validation[-1] < 0.7 * validation[0], "training went on from where it was, each time"
