"""Whole pretraining runs: Ray Train workers on gloo, DeepSpeed ZeRO, a corpus and a run folder in a real S3 store."""

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from made_corpora import make_corpus, make_profiles

from dataprep.corpus import Corpus, read_split
from dataprep.runtime.command_line import UserError
from dataprep.runtime.lease import Lease
from dataprep.runtime.process import Process
from dataprep.runtime.storage import Folder
from pretrain.artifacts.checkpoint import CheckpointStore
from pretrain.artifacts.run_settings import LEASE_FILE
from pretrain.config import PriorSettings, RunSettings
from pretrain.driver.run import run
from pretrain.model.bulkformer import BulkFormer
from pretrain.model.linear_prior import LinearPrior
from pretrain.model.loss import masked_squared_error, profile_loss
from pretrain.model.masking import mask_of_profiles
from pretrain.model.random_features import redraw_random_features
from pretrain.monitoring import tracking
from pretrain.monitoring.metrics_file import read_rows
from pretrain.monitoring.mlflow_run import MlflowRun
from pretrain.monitoring.tracking import RunRecord
from pretrain.prior.command import fit_prior
from pretrain.prior.prior_file import PRIOR_FILE, corpus_prior

PROFILES = 40
LOSSES = Path(__file__).parents[2] / "golden" / "losses_tiny.json"


@pytest.fixture(scope="module")
def corpus(s3_server, ray_session) -> Corpus:
    return make_corpus(s3_server.prefix("corpus"), {"train": PROFILES, "validation": 10, "test": 4}, rows_per_shard=24)


@pytest.fixture(scope="module")
def storage(s3_server) -> str:
    return s3_server.prefix("runs")


def settings(corpus: Corpus, storage: str, name: str, **changes) -> RunSettings:
    """A short run; small workers, so that three of them fit two cores.

    No warm-up: the schedule spans the whole run, and ``max_steps`` would shorten it.
    """
    base = {
        "epochs": 2,
        "batch": {"global_profiles": 12, "micro_profiles": 4},
        "optimizer": {"learning_rate": 1e-3, "warmup_fraction": 0.0},
        "workers": {"count": 2, "threads_each": 1, "max_failures": 0},
        "data": {"shuffle_window_profiles": 16, "prefetch_windows": 1},
        "checkpoint": {"every_steps": 3},
    }
    for key, value in changes.items():
        base[key] = base[key] | value if isinstance(base.get(key), dict) else value
    return RunSettings(corpus=corpus.folder.uri, storage=storage, name=name, **base)


def losses(storage: str, name: str) -> np.ndarray:
    rows = [row for row in read_rows(Folder(storage) / name) if "loss" in row]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1)), "each step is there once, in order"
    return np.array([row["loss"] for row in rows])


@pytest.fixture(scope="module")
def uninterrupted(corpus, storage) -> np.ndarray:
    """Losses of a run of two epochs, 2 workers, ZeRO 1."""
    run(settings(corpus, storage, "uninterrupted"))
    return losses(storage, "uninterrupted")


def test_a_run_leaves_metrics_checkpoints_and_an_export_that_loads(corpus, storage, uninterrupted):
    folder = Folder(storage) / "uninterrupted"
    rows = read_rows(folder)
    assert len(uninterrupted) == 8, "2 epochs of 40 profiles in steps of 12: 4 steps each, the last of 4 profiles"
    assert {"step", "epoch", "loss", "lr", "grad_norm", "samples_per_second", "data_wait_fraction"} <= set(rows[0])
    validations = [row for row in rows if "validation_loss" in row]
    assert [row["step"] for row in validations] == [4, 8]
    assert [row["epoch"] for row in validations] == [0, 1]
    # one every 3 steps, one after the last, and one of step 4, whose validation was the best so far; 3 are kept
    assert CheckpointStore(folder / "checkpoints").steps() == [4, 6, 8]
    names = folder.files()
    assert {"settings.json", "metrics.jsonl", "genes.parquet", "gene_graph.parquet"} <= set(names)
    assert not [name for name in names if name.startswith(("metrics/", "lease"))], "these are there only while it runs"
    model = BulkFormer.from_pretrained(f"{folder.uri}/export")
    assert model.shape.genes == corpus.genes
    assert not model.training


def test_the_committed_losses_are_reproduced(uninterrupted):
    """The file changes only with the numerics, and the commit that changes it says why.

    Other processors sum in another order: 1e-4 relative is a thousand times their rounding after eight steps.
    """
    committed = json.loads(LOSSES.read_text())["losses"]
    np.testing.assert_allclose(uninterrupted, committed, rtol=1e-4)


@pytest.fixture(scope="module")
def broken(corpus, storage, mlflow_server, ray_session) -> np.ndarray:
    """Losses of a run that ended in mid-epoch and went on later, tracked by MLflow."""
    run(settings(corpus, storage, "broken", max_steps=6))
    run(settings(corpus, storage, "broken"))
    return losses(storage, "broken")


def test_a_run_that_ended_in_mid_epoch_goes_on_as_if_it_had_not(uninterrupted, broken):
    """Step 6 is in the second epoch; what is trained after it depends on masks, order, moments and dropout."""
    np.testing.assert_allclose(broken, uninterrupted, rtol=0, atol=1e-6)


# With the whole split in one step, every world size trains on the same profiles in each step; without dropout, losses
# can then only differ if masks or random features depended on the rank, or if a restart lost part of the state.
WHOLE_SPLIT = {
    "epochs": 4,
    "batch": {"global_profiles": PROFILES, "micro_profiles": 8},
    "model": {"attention_dropout": 0.0, "feed_forward_dropout": 0.0, "redraw_every_steps": 2},
}


def test_neither_rank_nor_world_size_nor_stage_shows_in_the_losses(corpus, storage):
    """Two workers on ZeRO 2 for two epochs, then three on ZeRO 3 for two; and a plain loop on one device.

    All do the same arithmetic in fp32; they differ in the order of sums over ranks and partitions. Rounding differences
    at 1e-7 relative in each step, amplified by Adam's division by small second moments, stay under 1e-4 relative;
    another learning rate, mask or batch would show at 1e-2.
    """
    run(settings(corpus, storage, "moved", max_steps=2, zero={"stage": 2}, **WHOLE_SPLIT))
    now = settings(corpus, storage, "moved", workers={"count": 3}, zero={"stage": 3}, **WHOLE_SPLIT)
    run(now)
    plain = _losses_of_a_plain_loop(now, corpus, [(epoch, range(PROFILES)) for epoch in range(4)])
    np.testing.assert_allclose(losses(storage, "moved"), plain, rtol=1e-4)


def test_a_run_of_the_second_family_resumes_in_mid_epoch_on_more_workers_with_each_profile_once(corpus, storage):
    """Two workers on ZeRO 2, then three on ZeRO 3; the losses are those of a plain loop over the same profiles.

    With a linear prior, which the second start takes from the checkpoint.
    """
    fit_prior(PriorSettings(corpus=corpus.folder.uri, ranks=[4], tuning_profiles=10))
    prior = corpus_prior(corpus)
    changes = {
        "model": {"family": "latest", "prior": "ppca", "attention_dropout": 0.0, "feed_forward_dropout": 0.0},
        "mask": {"rate": 0.1, "highest_rate": 0.3},
        "tracking": {"row_ids": True},
    }
    run(settings(corpus, storage, "latest", max_steps=2, zero={"stage": 2}, **changes))
    corpus.folder.remove(PRIOR_FILE)
    now = settings(corpus, storage, "latest", epochs=1, workers={"count": 3}, zero={"stage": 3}, **changes)
    run(now)
    steps = [row["row_ids"] for row in read_rows(Folder(storage) / "latest") if "loss" in row]
    assert [len(row_ids) for row_ids in steps] == [12, 12, 12, 4]
    assert sorted(row for row_ids in steps for row in row_ids) == list(range(PROFILES))
    plain = _losses_of_a_plain_loop(now, corpus, [(0, row_ids) for row_ids in steps], prior)
    np.testing.assert_allclose(losses(storage, "latest"), plain, rtol=1e-4)
    model = BulkFormer.from_pretrained(f"{storage}/latest/export")
    assert (model.shape.family, model.shape.random_features, model.shape.prior_rank) == ("latest", 256, 4)
    assert torch.equal(model.prior.loadings, prior.loadings)


def _losses_of_a_plain_loop(
    settings: RunSettings, corpus: Corpus, steps: list[tuple[int, Iterable[int]]], prior: LinearPrior | None = None
) -> list[float]:
    """AdamW on one device, with neither Ray nor DeepSpeed: a step for each epoch and the row ids used in it."""
    torch.manual_seed(settings.seed)
    shape = settings.model.shape(corpus.genes)
    model = BulkFormer(shape.with_prior(prior.rank, prior.rectified) if prior else shape, corpus.graph()).train()
    if prior:
        model.prior.load_state_dict(prior.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.optimizer.learning_rate, weight_decay=0.01)
    row_ids, expression = read_split(corpus, "train")
    losses = []
    for step, (epoch, rows) in enumerate(steps):
        if shape.traits.redraws_features:
            redraw_random_features(model, settings.seed, step, settings.model.redraw_every_steps)
        wanted = np.isin(row_ids, list(rows))
        profiles_BG = torch.from_numpy(expression[wanted].astype(np.float32))
        ids_B, rates = torch.from_numpy(row_ids[wanted]), settings.mask
        mask_BG = mask_of_profiles(ids_B, corpus.genes, rates.rate, settings.seed, epoch, rates.highest_rate)
        predicted_BG = model(profiles_BG.masked_fill(mask_BG, torch.nan)).expression
        loss = profile_loss(*masked_squared_error(predicted_BG, profiles_BG, mask_BG)).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.optimizer.max_gradient_norm)
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_a_value_that_is_not_finite_stops_before_the_step_and_names_step_and_profile(s3_server, storage, monkeypatch):
    profiles = make_profiles(16, 60)
    profiles[5, 30] = np.inf
    monkeypatch.setattr("made_corpora.make_profiles", lambda *_, **__: profiles)
    broken = make_corpus(s3_server.prefix("corpus"), {"train": 16, "validation": 0, "test": 0})
    with pytest.raises(UserError, match=r"step 1: the loss of 1 profiles is not finite \(row_id 5\)"):
        run(settings(broken, storage, "not-finite", batch={"global_profiles": 16}))
    assert CheckpointStore(Folder(storage) / "not-finite" / "checkpoints").steps() == []


def test_other_settings_under_the_name_of_an_old_run_are_refused(corpus, storage, uninterrupted):
    with pytest.raises(UserError, match=r"run uninterrupted exists with other settings \(seed: 0 -> 1\)"):
        run(settings(corpus, storage, "uninterrupted", seed=1))


def test_a_second_driver_is_refused_while_the_first_is_heard_of(corpus, storage):
    """Here a process of another machine, of which only the object store tells."""
    folder = Folder(storage) / "held"
    held = Lease(folder, LEASE_FILE, "run held", process=Process("elsewhere", 7), heartbeat_seconds=0.5)
    with (
        held,
        pytest.raises(UserError, match=r"^run held is in the hands of process 7 on elsewhere:"),
    ):
        run(settings(corpus, storage, "held"))
    assert folder.files() == []


def test_more_workers_than_the_cluster_can_hold_are_refused_at_once(corpus, storage):
    with pytest.raises(UserError, match=r"64 workers need 64\.25 CPU, the cluster has 8"):
        run(settings(corpus, storage, "too-large", workers={"count": 64}))


def test_one_mlflow_run_with_parameters_metrics_and_the_export_also_after_a_restart(broken):
    name = "broken"
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("pretrain")
    found = client.search_runs([experiment.experiment_id], f"attributes.run_name = '{name}'")
    assert len(found) == 1
    tracked = found[0]
    assert tracked.info.status == "FINISHED"
    assert tracked.data.params["model.size"] == "tiny"
    history = client.get_metric_history(tracked.info.run_id, "train/loss")
    assert [point.step for point in history] == list(range(1, 9)), "each step once"
    np.testing.assert_allclose([point.value for point in history], broken)
    artifacts = {item.path for item in client.list_artifacts(tracked.info.run_id, "export")}
    assert {"export/model.safetensors", "export/config.json", "export/genes.parquet"} <= artifacts
    everything = json.dumps([tracked.data.params, tracked.data.tags])
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in everything


def test_what_mlflow_missed_is_sent_later_each_step_once(s3_server, mlflow_server, monkeypatch):
    """The server is unreachable for a whole run, and then until the middle of its next start."""
    monkeypatch.setattr(tracking, "CLOSE_PATIENCE_SECONDS", 3.0)
    folder = Folder(s3_server.prefix("untracked")) / "untracked"
    lines: list[str] = []

    def record(from_step: int) -> RunRecord:
        tracked = MlflowRun("untracked", "untracked", folder.uri, {"seed": 0}, {}, system_metrics=False, run_uid="a1")
        return RunRecord(folder, from_step, tracked, lines.append)

    def add(to: RunRecord, steps: range) -> None:
        for step in steps:
            to.add({"step": step, "epoch": 0, "loss": 1.0 / step, "time": time.time()})
            if step % 10 == 0:
                to.add({"step": step, "epoch": 0, "validation_loss": 2.0 / step, "time": time.time()})

    mlflow_server.stop()
    try:
        first = record(0)
        add(first, range(1, 31))
        first.close(None)
    finally:
        mlflow_server.start()
    assert any("training continues" in line for line in lines)
    second = record(30)
    add(second, range(31, 41))
    second.close(None)
    # killed after step 40, it goes on from the checkpoint of step 35
    third = record(35)
    add(third, range(36, 51))
    third.close(None)
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("untracked")
    [found] = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(found.info.run_id, "train/loss")
    assert [point.step for point in history] == list(range(1, 51)), "each step once"
    validated = client.get_metric_history(found.info.run_id, "validation/loss")
    assert [point.step for point in validated] == [10, 20, 30, 40, 50]
