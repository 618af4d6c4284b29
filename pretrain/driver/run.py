"""The driver of a pretraining run: checks what can be checked at once, then starts Ray Train."""

from __future__ import annotations

import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import ray
from pyarrow.fs import FSSpecHandler, PyFileSystem
from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from dataprep.corpus import Corpus, open_corpus
from dataprep.runtime.allocator import missing_malloc_settings
from dataprep.runtime.code_identity import code_fingerprint
from dataprep.runtime.command_line import UserError
from dataprep.runtime.lease import Lease, LeaseLostError
from dataprep.runtime.ray_internals import with_needed_callbacks
from dataprep.runtime.ray_session import connected, user_error_in
from dataprep.runtime.storage import Folder
from dataprep.runtime.terminal import log, write_result
from pretrain.artifacts.run_inputs import keep_inputs, require_same_inputs
from pretrain.artifacts.run_settings import LEASE_FILE, corpus_of_run, require_run_folder, store_settings
from pretrain.config import RunSettings
from pretrain.data.window_reader import READ_TASK_CPUS
from pretrain.driver.coordinator import start_coordinator
from pretrain.driver.leftovers import remove_groups_of_dead_runs
from pretrain.driver.progress import ProgressDisplay, duration
from pretrain.families import FAMILIES, TPM_OVER
from pretrain.model.protein_embeddings import corpus_protein_embeddings
from pretrain.monitoring.metrics_file import read_rows
from pretrain.prior.prior_file import corpus_prior
from pretrain.training.entry import train_worker
from pretrain.training.job import TrainingJob, collective_timeout_seconds, total_steps

# The name in torch today, and the one that it also accepts.
GPU_ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


def run(settings: RunSettings) -> dict[str, Any]:
    """Pretrain, or resume the run of this name. Returns its last scores and where the export is.

    Raises UserError for settings that do not fit the corpus, the cluster or the run's own past, and where another
    process has the run in hand.
    """
    # workers have working directories of their own, where a relative path would name another folder
    folder = Folder(settings.storage) / settings.name
    folder.require_reachable()
    settings = settings.model_copy(
        update={"corpus": corpus_of_run(folder, settings.corpus), "storage": Folder(settings.storage).uri}
    )
    corpus = _checked_corpus(settings)
    # the corpus may grow while the run goes on
    settings = settings.model_copy(update={"corpus": corpus.versioned_address})
    if require_run_folder(folder):
        settings.require_effects()
        if settings.model.prior == "ppca":
            corpus_prior(corpus)
    started = time.monotonic()
    with _lease(folder, settings.name) as lease:
        require_same_inputs(folder, corpus, settings.name)
        identity = store_settings(folder, settings)
        keep_inputs(folder, corpus)
        steps = total_steps(settings, corpus.rows("train"))
        with connected(min_cpus=needed_cpus(settings)):
            _free_what_dead_runs_hold()
            _require_resources(settings)
            _introduce(settings, corpus, steps)
            key = replace(lease.key, folder=folder.patient(settings.data.outage_patience_seconds))
            _train(TrainingJob(settings, code_fingerprint(), start_coordinator(), identity, key), steps)
    rows = read_rows(folder)
    result = {
        "run": folder.uri,
        "export": f"{folder.uri}/export",
        "steps": rows[-1]["step"] if rows else 0,
        "loss": _last(rows, "loss"),
        "validation_loss": _last(rows, "validation_loss"),
        "validation_pearson": _last(rows, "validation_pearson"),
        "seconds": round(time.monotonic() - started, 1),
    }
    write_result(f"done: {result['steps']} steps in {duration(result['seconds'])}; model export: {result['export']}")
    return result


def _checked_corpus(settings: RunSettings) -> Corpus:
    corpus = open_corpus(settings.corpus)
    if corpus.rows("train") == 0:
        raise UserError(f"{settings.corpus}: the train split is empty")
    corpus.graph()
    if settings.model.shape(corpus.genes).gene_identity == "esm2":
        corpus_protein_embeddings(corpus)
    return corpus


@contextmanager
def _lease(folder: Folder, name: str) -> Iterator[Lease]:
    """Hold the run's lease. Where another process takes it over, the run is interrupted and ends with that message."""
    main_thread = threading.main_thread()
    interruptible = threading.current_thread() is main_thread

    def interrupt(_: LeaseLostError) -> None:
        # elsewhere than in the main thread, the workers end the run when they next look at the lease
        if interruptible and main_thread.ident is not None:
            signal.pthread_kill(main_thread.ident, signal.SIGINT)

    with Lease(folder, LEASE_FILE, f"run {name}", interrupt) as lease:
        try:
            yield lease
        except (KeyboardInterrupt, SystemExit):
            # Ray Train answers SIGINT with an exit code of 0
            raise lease.loss or KeyboardInterrupt from None


def needed_cpus(settings: RunSettings) -> int:
    """CPU slots that a run needs: its workers, Ray Train's controller, and one for reading."""
    return int(settings.workers.count * settings.workers.cpus_each) + 2


def _free_what_dead_runs_hold() -> None:
    # only a cluster that was there before has had other drivers
    if os.environ.get("RAY_ADDRESS") and (removed := remove_groups_of_dead_runs()):
        log(f"freed what {removed} killed run{'s' if removed > 1 else ''} still held of the cluster's CPUs and GPUs")


def _require_resources(settings: RunSettings) -> None:
    """Fail at once, and clearly, where Ray would wait for machines that never come."""
    have = ray.cluster_resources()
    workers = settings.workers
    count = workers.min_count or workers.count
    needs = {"CPU": count * workers.cpus_each + READ_TASK_CPUS, "GPU": float(count * workers.gpu)}
    for resource, amount in needs.items():
        if amount > have.get(resource, 0):
            raise UserError(
                f"{count} workers need {amount:g} {resource}, the cluster has {have.get(resource, 0):g}: "
                "lower --workers.count or --workers.cpus-each, or add nodes"
            )


def _introduce(settings: RunSettings, corpus: Corpus, steps: int) -> None:
    workers = settings.workers
    log(
        f"{settings.name}: {corpus.rows('train'):,} train profiles x {corpus.genes:,} genes, model "
        f"{settings.model.size}, {steps:,} steps of {settings.batch.global_profiles} profiles = "
        f"{settings.batch.micro_profiles} x {settings.batch.accumulation(workers.count)} accumulated x "
        f"{workers.count} {'GPU' if workers.gpu else 'CPU'} workers, ZeRO {settings.zero.stage}, {settings.precision}"
    )
    family = settings.model.shape(corpus.genes).family
    has, expected = corpus.manifest.tpm_over, FAMILIES[family].tpm_over
    if has != expected:
        log(
            f"TPM of {settings.corpus} are shares of {TPM_OVER[has]}, those of family {family}'s published weights of "
            f"{TPM_OVER[expected]}: profiles for one are not for the other (dataprep build --tpm-over {expected})"
        )
    # where it is on, the workers say where the run's own curves are as soon as the server has the run
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        log("MLflow: off (MLFLOW_TRACKING_URI is not set)")


def _train(job: TrainingJob, steps: int) -> None:
    settings, coordinator = job.settings, job.coordinator
    folder = Folder(settings.storage) / settings.name / "ray-train"
    variables = worker_environment(settings)
    trainer = with_needed_callbacks(TorchTrainer)(
        train_worker,
        train_loop_config={"job": job},
        torch_config=TorchConfig(
            backend="nccl" if settings.workers.gpu else "gloo", timeout_s=collective_timeout_seconds(settings)
        ),
        scaling_config=_scaling(settings),
        run_config=RunConfig(
            # what Ray Train itself stores of a run: checkpoints are ours, so it is next to nothing
            name=uuid.uuid4().hex,
            storage_path=folder.path,
            storage_filesystem=PyFileSystem(FSSpecHandler(folder.filesystem)),
            failure_config=FailureConfig(max_failures=settings.workers.max_failures),
            # type checkers see the options of Ray Train's first version
            # an environment of their own, even an empty one, would want processes of its own
            worker_runtime_env={"env_vars": variables} if variables else {},  # type: ignore[call-arg]
        ),
    )
    with ProgressDisplay(coordinator, steps) as display, _stopping_on_termination(display):
        try:
            trainer.fit()
        except (RayError, ray.train.TrainingFailedError) as error:
            fatal = ray.get(coordinator.fatal.remote())
            mistake = UserError(*fatal) if fatal else user_error_in(error)
            raise mistake or _failure(error) from None
    require_finished(coordinator, settings.name)


def require_finished(coordinator: Any, name: str) -> None:
    """Raise UserError unless the workers have trained to the end: being asked to stop may have come too late."""
    fatal, stopped_after = ray.get([coordinator.fatal.remote(), coordinator.stopped_after.remote()])
    if fatal:
        raise UserError(*fatal)
    if stopped_after is not None:
        raise UserError(
            f"run {name} was stopped by SIGTERM at step {stopped_after}; the same command resumes from its checkpoint"
        )


@contextmanager
def _stopping_on_termination(display: ProgressDisplay) -> Iterator[None]:
    """SIGTERM (``ray job stop``, a batch system at the end of the time) lets the workers checkpoint and leave.

    Afterwards, signals do what they did before; Ray Train puts a handler of its own for SIGINT, too.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only a main thread can have signal handlers
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, lambda *_: display.ask_to_stop())
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def worker_environment(settings: RunSettings) -> dict[str, str]:
    """Return the variables that workers need and the cluster lacks, as far as this process can tell.

    On GPUs, torch's allocator grows its segments, so that freed memory of one size serves another size; a setting of
    the user's own stays.
    """
    if not settings.workers.gpu:
        return missing_malloc_settings()
    if any(name in os.environ for name in GPU_ALLOCATOR_VARIABLES):
        return {}
    return {GPU_ALLOCATOR_VARIABLES[0]: "expandable_segments:True"}


def _scaling(settings: RunSettings) -> ScalingConfig:
    workers = settings.workers
    resources = {"CPU": workers.cpus_each} | ({"GPU": 1.0} if workers.gpu else {})
    return ScalingConfig(  # type: ignore[call-arg]  # as for RunConfig
        num_workers=workers.count if workers.min_count is None else (workers.min_count, workers.count),  # type: ignore[arg-type]
        elastic_resize_monitor_interval_s=workers.resize_check_seconds,
        use_gpu=workers.gpu,
        resources_per_worker=resources,
    )


def _failure(error: BaseException) -> UserError:
    """A failure of the machines or of our code: its last line, and where the whole story is."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return UserError(f"training failed: {lines[-1] if lines else type(error).__name__} (details in Ray's worker logs)")


def _last(rows: list[dict[str, Any]], key: str) -> Any:
    return next((row[key] for row in reversed(rows) if key in row), None)
