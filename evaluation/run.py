"""``evaluation run``: a model through the downstream tasks, beside simple methods."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

from dataprep.corpus import Corpus
from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder
from dataprep.runtime.terminal import log
from evaluation.config import UNTRAINED, RunSettings, named
from evaluation.inference.cohort import opened_profiles
from evaluation.inference.embedder import Embedder
from evaluation.inference.foreign_embeddings import ForeignEmbeddings, read_foreign_embeddings
from evaluation.inference.scored_models import ScoredModel, open_models
from evaluation.leaks.audit import TrainedOn
from evaluation.leaks.results import audited
from evaluation.scores.results import TaskResult, print_results, require_replaceable, results_json, write_results
from evaluation.scores.verdicts import judged
from evaluation.search.session import searched
from evaluation.tasks.context import TaskContext
from evaluation.tasks.registry import tasks
from evaluation.tasks.task import Needs, NotApplicableError, Task
from evaluation.tracking.data_sets import DataSet
from evaluation.tracking.mlflow_results import metric_values, send_results
from evaluation.tracking.registration import try_to_register
from pretrain.model.export_file import WEIGHTS_FILE, open_export


def run(settings: RunSettings) -> dict[str, Any]:
    """Score, print, write and track; returns what ``--json`` prints."""
    if settings.output:
        require_replaceable(settings.output)
    if settings.tracking.register_as and not os.environ.get("MLFLOW_TRACKING_URI"):
        raise UserError("--tracking.register-as needs an MLflow server: set MLFLOW_TRACKING_URI", exit_code=2)
    with opened_profiles(settings.corpus, settings.cohort, open_export(settings.model)) as corpus:
        return _run(settings, corpus)


def _run(settings: RunSettings, corpus: Corpus) -> dict[str, Any]:
    models = open_models(settings, corpus)
    embedder = models[0].embedder
    foreign = [read_foreign_embeddings(name, address, corpus) for name, address in named(settings.embeddings).items()]
    _report_lacking(foreign)
    name = settings.tracking.run or _model_name(embedder.export.folder.uri)
    tags = _tags(embedder, corpus)
    # digests of weights, which only a search needs, read them once more
    with searched(settings, name, tags, lambda: _inputs(models[1:], foreign)) as (search, tracked):
        context = TaskContext(corpus, models, settings, search, foreign)
        # before anything slow, so that a wrong label is known at once
        prepared = _prepared(context, settings)
        data_sets = _data_sets(settings, corpus, [task for task, _ in prepared])
        tracked.begin()
        log(f"scoring on {embedder.device.type}, {embedder.batch_size} profiles in a batch")
        context.obtain(needs for _, needs in prepared)
        results = judged([result for task, _ in prepared for result in _scored(task)])
        # one with random weights has seen nothing
        trained_on = {
            model.name: TrainedOn.of_export(model.embedder.export, corpus)
            for model in models
            if model.name != UNTRAINED
        }
        results = audited(results, corpus, context.samples, context.expression, trained_on)
        print_results(results)
        return _publish(settings, name, tags, results, data_sets, tracked.close())


def _report_lacking(foreign: Sequence[ForeignEmbeddings]) -> None:
    for one in foreign:
        if one.missing.any():
            log(
                f"{one.missing.sum():,} of {len(one.missing):,} profiles have no embedding of {one.name}: tasks on "
                "labels leave them out, for all methods"
            )


def _prepared(context: TaskContext, settings: RunSettings) -> list[tuple[Task[Any], Needs]]:
    """The tasks asked for, each with what it needs; one that does not apply is left out where there are others."""
    known, names = tasks(), list(dict.fromkeys(settings.tasks))
    found = []
    for name in names:
        task = known[name](context, getattr(settings, name))
        try:
            found.append((task, task.prepare()))
        except NotApplicableError as error:
            if len(names) == 1:
                raise
            log(f"{error}: {name} is left out")
    if not found:
        raise UserError(f"{context.corpus.address}: none of the tasks {', '.join(names)} applies to it")
    return found


def _scored(task: Task[Any]) -> Sequence[TaskResult]:
    results = task.score()
    for result in results:
        assert result.baselines, f"task {task.name} scored no baseline: a score says little without a simple method's"
    return results


def _tags(embedder: Embedder, corpus: Corpus) -> dict[str, str]:
    """What is scored: addresses and digests of the model and the corpus."""
    return {
        "bulkformer.model": embedder.export.folder.uri,
        "bulkformer.model_sha256": embedder.export.folder.sha256(WEIGHTS_FILE),
        "bulkformer.corpus": corpus.address,
        "bulkformer.corpus_sha256": corpus.fingerprint,
    }


def _inputs(models: Sequence[ScoredModel], foreign: Sequence[ForeignEmbeddings]) -> dict[str, str]:
    """Digests of what is scored beside the first model: with others no search goes on from what was tried."""
    weights = {model.name: model.embedder.export.folder.sha256(WEIGHTS_FILE) for model in models}
    return weights | {one.name: hashlib.sha256(one.values.tobytes()).hexdigest() for one in foreign}


def _data_sets(settings: RunSettings, corpus: Corpus, used: Sequence[Task[Any]]) -> list[DataSet]:
    """The corpus, embeddings from elsewhere, and tables of tasks; only where there is a server to be told of them."""
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        return []
    files = named(settings.embeddings)
    for task in used:
        given = {name: getattr(task.settings, name) for name in task.files}
        files |= {f"{task.name}.{name}": address for name, address in given.items() if address is not None}
    of_files = [DataSet.of_file(name, address) for name, address in files.items()]
    return [DataSet("corpus", corpus.address, corpus.fingerprint), *of_files]


def _publish(
    settings: RunSettings,
    name: str,
    tags: Mapping[str, str],
    results: Sequence[TaskResult],
    data_sets: Sequence[DataSet],
    run_id: str | None,
) -> dict[str, Any]:
    """``run_id``: the MLflow run that was begun, None where none could be."""
    about = {"about": dict(tags), "settings": settings.resolved()}
    experiment, resolved = settings.tracking.experiment, settings.resolved()
    # before the file, which may be refused (a full disk, missing rights) after all that took long to compute
    text = results_json(results, about)
    run_id = send_results(experiment, name, resolved, tags, results, text, data_sets, run_id)
    if settings.output:
        write_results(settings.output, results, about)
    if run_id and settings.tracking.register_as:
        try_to_register(settings.tracking.register_as, run_id, Folder(tags["bulkformer.model"]), tags, results)
    if run_id:
        log(f"MLflow: experiment {experiment}, run {name} ({run_id})")
    return {"mlflow_run_id": run_id, "output": settings.output, "scores": metric_values(results)}


def _model_name(uri: str) -> str:
    """An export is RUN/export: the run's name says more than its last part."""
    parts = uri.rstrip("/").split("/")
    return parts[-2] if parts[-1] == "export" and len(parts) > 1 and parts[-2] else parts[-1]
