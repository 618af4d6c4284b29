"""What each worker of a pretraining run does: set up, take steps among observers, write the export."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence

import ray

from dataprep.corpus import IN_DISTRIBUTION
from dataprep.corpus.train_profiles import readable_train_profiles
from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder
from pretrain.artifacts.checkpoint import CheckpointWriter
from pretrain.data.accounting import Progress
from pretrain.data.plan import StepShare
from pretrain.data.stream import ProfileStream, StepBatch, prefetched
from pretrain.kernels.device import retain_freed_memory
from pretrain.model.export_file import write_export
from pretrain.model.flops import parameters
from pretrain.monitoring.mlflow_run import PARAMETERS_TAG, PROFILES_TAG, MlflowRun
from pretrain.monitoring.step_profile import StepProfile
from pretrain.monitoring.tracking import RunRecord
from pretrain.training.agreement import Requests, raise_failures
from pretrain.training.job import TrainingJob
from pretrain.training.observers.checkpoints import Checkpoints
from pretrain.training.observers.metrics import Metrics, Rates, RowIds, SkippedProfiles, SlowWorkers
from pretrain.training.observers.notices import NodeNotices, StopRequests
from pretrain.training.observers.observer import DoneStep, Observer
from pretrain.training.observers.profile import Profile
from pretrain.training.observers.validation import ValidationScores
from pretrain.training.setup import Setup, set_up
from pretrain.training.step import TrainingStep
from pretrain.training.validation import Validation
from pretrain.training.zero import gather_weights

# Steps made ready ahead of the one being trained on.
STEPS_AHEAD = 2


def train(job: TrainingJob) -> None:
    """Train to the last step, or until asked to stop; then export the model. All ranks call it."""
    setup = set_up(job)
    progress = Progress(setup.position, setup.layout, setup.ranks.sum)
    record = _record(setup)
    metrics = Metrics(record, job.coordinator, job.settings.log_every_steps)
    observers = _observers(setup, progress, metrics, record)
    try:
        asked_to_stop = _take_steps(setup, progress, observers)
    except UserError:
        _closed(observers)  # so that the last checkpoint, which the user will resume from, is written
        raise
    raise_failures(_closed(observers), setup.ranks)
    if asked_to_stop and progress.position.step < setup.total_steps:
        metrics.finish(None)
        if setup.ranks.is_first:
            ray.get(job.coordinator.stop_after.remote(progress.position.step))
        setup.log(f"stopped as asked after step {progress.position.step}, with a checkpoint")
    else:
        metrics.finish(_export(setup, progress, metrics))


def _take_steps(setup: Setup, progress: Progress, observers: Sequence[Observer]) -> bool:
    """Take the steps that remain; returns whether the run was asked to stop."""
    step = TrainingStep(setup.job.settings, setup.engine, setup.ranks, setup.clock, setup.schedule_steps)
    setup.engine.train()
    for batch in setup.clock.waiting(_batches(setup)):
        for observer in observers:
            observer.before_step()
        row, agreed = step.take(batch, progress.position.step, _requests(observers), _failure(observers))
        retain_freed_memory(setup.ranks.device)
        progress.advance(batch)
        steps_done = progress.position.step
        done = DoneStep(steps_done, batch, row, agreed, is_last=steps_done == setup.total_steps)
        for observer in observers:
            observer.after_step(done)
        setup.clock.step_done()
        if done.stops:
            return True
    return False


def _observers(setup: Setup, progress: Progress, metrics: Metrics, record: RunRecord | None) -> list[Observer]:
    """Return the observers of a run in their order, which is the same on all ranks.

    Only rank 0 listens for requests to stop, which needs no collective. Those that add to a step's row come before the
    metrics, validation before the checkpoint that keeps its best score, and the notice of a draining node before the
    checkpoint it causes.
    """
    job, settings, ranks = setup.job, setup.job.settings, setup.ranks
    profile = StepProfile(settings.profile if ranks.is_first else 0, job.folder, setup.log)
    scores = ValidationScores(
        *_validations(setup), setup.engine, ranks, settings.validation.every_steps, metrics, setup.best
    )
    nodes = NodeNotices(setup.log)
    checkpoints = Checkpoints(
        _writer(setup, record),
        setup.engine,
        progress,
        scores,
        settings.checkpoint.every_steps,
        nodes.node_is_draining,
        setup.checkpoint_state,
    )
    return [
        Profile(profile, setup.position.step),
        SkippedProfiles(setup.layout, job.log),
        *([RowIds(ranks)] if settings.tracking.row_ids else []),
        Rates(setup.clock, setup.total_steps),
        SlowWorkers(setup.log),
        metrics,
        scores,
        *([StopRequests(job.coordinator)] if ranks.is_first else []),
        nodes,
        checkpoints,
    ]


def _requests(observers: Sequence[Observer]) -> Requests:
    wanted = Requests()
    for observer in observers:
        wanted |= observer.requests()
    return wanted


def _failure(observers: Sequence[Observer]) -> UserError | None:
    """Return what the first background thread that died had to say."""
    return _first_failure(observer.check for observer in observers)


def _closed(observers: Sequence[Observer]) -> UserError | None:
    """Close all observers; return what the first one that could not be closed had to say."""
    return _first_failure(observer.close for observer in observers)


def _first_failure(actions: Iterable[Callable[[], None]]) -> UserError | None:
    failures: list[UserError] = []
    for action in actions:
        try:
            action()
        except UserError as failure:
            failures.append(failure)
    return failures[0] if failures else None


def _batches(setup: Setup) -> Iterator[StepBatch]:
    settings, ranks = setup.job.settings, setup.ranks
    stream = ProfileStream(
        setup.corpus,
        ranks.rank,
        StepShare(settings.batch.global_profiles, ranks.count),
        settings.batch.micro_profiles,
        settings.data.prefetch_windows,
        settings.data.outage_patience_seconds,
        skip_damaged=settings.data.damaged_shards == "leave-out",
        pin_memory=ranks.device.type == "cuda",
    )
    remaining = setup.total_steps - setup.position.step
    if remaining <= 0:
        return
    parts = setup.position.parts(setup.layout, settings.seed, ranks.rank, settings.epochs)
    for number, batch in enumerate(prefetched(stream.steps(parts), STEPS_AHEAD), start=1):
        yield batch
        if number == remaining:
            return


def _validations(setup: Setup) -> tuple[Validation | None, Validation | None]:
    """On groups apart, and on those trained on, where the corpus has such a split."""
    if setup.corpus.rows("validation") == 0:
        setup.log("the corpus has no validation split: no validation")
        return None, None
    return _validation(setup, "validation"), _validation(setup, IN_DISTRIBUTION)


def _validation(setup: Setup, split: str) -> Validation | None:
    settings = setup.job.settings
    if setup.corpus.rows(split) == 0:
        return None
    return Validation(
        setup.corpus, split, settings.validation.max_profiles, setup.ranks.rank, setup.ranks.count,
        settings.batch.micro_profiles, settings.seed, settings.mask.validation_rate,
    )  # fmt: skip


def _record(setup: Setup) -> RunRecord | None:
    if not setup.ranks.is_first:
        return None
    job, settings = setup.job, setup.job.settings
    run = None
    if os.environ.get("MLFLOW_TRACKING_URI"):
        tags = {
            "corpus": setup.corpus.fingerprint,
            "corpus_version": str(setup.corpus.version),
            "code": job.code_fingerprint,
            PARAMETERS_TAG: str(parameters(setup.shape)),
            PROFILES_TAG: str(setup.corpus.rows("train")),
        }
        run = MlflowRun(
            settings.tracking.experiment, settings.name, job.folder.uri, settings.resolved(), tags,
            settings.tracking.system_metrics, job.identity.uid, job.identity.begun_without_uid,
            settings.tracking.parent_run,
        )  # fmt: skip
    return RunRecord(job.folder, setup.position.step, run, setup.log, job.lease.require)


def _writer(setup: Setup, record: RunRecord | None) -> CheckpointWriter | None:
    if record is None:
        return None
    keep, lease = setup.job.settings.checkpoint.keep, setup.job.lease
    return CheckpointWriter(setup.checkpoints, keep, record.store, setup.log, lease.require)


def _export(setup: Setup, progress: Progress, metrics: Metrics) -> Folder:
    """Write the model export from rank 0; all ranks gather its weights. Returns its folder."""
    weights = gather_weights(setup.engine)
    export = setup.job.folder / "export"
    if setup.ranks.is_first:
        training = {
            "run": setup.job.settings.name,
            "run_uid": setup.job.identity.uid,
            "step": progress.position.step,
            "epochs": progress.position.epoch,
            "validation_loss": metrics.last("validation_loss"),
            "validation_pearson": metrics.last("validation_pearson"),
            "corpus": setup.corpus.fingerprint,
            "settings": setup.job.settings.resolved(),
        }
        setup.job.lease.require()
        seen = readable_train_profiles(setup.corpus, setup.log)
        # in the run's own folder, also over what an interrupted export of the first version left
        write_export(
            export, setup.shape, weights, setup.corpus.vocabulary, setup.graph, training, True, seen
        )  # fmt: skip
    return export
