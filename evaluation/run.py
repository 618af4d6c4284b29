"""``evaluation run``: a model through the downstream tasks, beside simple methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dataprep.corpus import Corpus, open_corpus
from dataprep.runtime.command_line import UserError
from dataprep.runtime.terminal import log
from evaluation.config import RunSettings
from evaluation.inference.embedder import Embedder, require_same_vocabulary
from evaluation.scores.mlflow_results import metric_values, send_results
from evaluation.scores.results import TaskResult, print_results, results_json, write_results
from evaluation.tasks.classification import (
    LabelledProfiles,
    embed_labelled,
    evaluate_classification,
    named_label,
    read_expression,
    usable_labels,
)
from evaluation.tasks.imputation import evaluate_imputation
from pretrain.model.export_file import WEIGHTS_FILE


def run(settings: RunSettings) -> dict[str, Any]:
    """Score, print, write and track; returns what ``--json`` prints."""
    embedder = Embedder.open(settings.model, settings.kernel, settings.precision, settings.batch_size).load()
    corpus = open_corpus(settings.corpus)
    require_same_vocabulary(embedder.vocabulary, corpus.vocabulary, corpus.folder.uri)
    # before anything slow, so that a wrong label is known at once
    labels = _labels(corpus, settings) if "classification" in settings.tasks else []
    log(f"scoring on {embedder.device.type}, {embedder.batch_size} profiles in a batch")
    results: list[TaskResult] = []
    if "imputation" in settings.tasks:
        results.append(
            evaluate_imputation(
                corpus,
                settings.split,
                embedder.reconstruct,
                embedder.batch_size,
                settings.imputation,
                settings.seed,
            )
        )
    results += _classify(corpus, labels, embedder, settings)
    print_results(results)
    return _publish(settings, embedder, corpus, results)


def _labels(corpus: Corpus, settings: RunSettings) -> list[LabelledProfiles]:
    if settings.label is not None:
        return [named_label(corpus, settings.label, settings.classification, settings.seed)]
    labels = usable_labels(corpus, settings.classification, settings.seed)
    if not labels:
        least = settings.classification.min_class_samples
        message = f"{corpus.folder.uri} has no label with two classes of {least} samples to classify"
        if settings.tasks == ["classification"]:
            raise UserError(message)
        log(f"{message}: classification is left out")
    return labels


def _classify(
    corpus: Corpus, labels: Sequence[LabelledProfiles], embedder: Embedder, settings: RunSettings
) -> list[TaskResult]:
    """Every label; a profile with several labels is embedded once."""
    if not labels:
        return []
    pooling = settings.classification.pooling
    row_ids = np.unique(np.concatenate([labelled.row_ids for labelled in labels]))
    embedding = embed_labelled(
        corpus, row_ids, lambda batch: embedder.embed_samples(batch, pooling), embedder.batch_size
    )
    results = []
    for labelled in labels:
        log(f"classifying {labelled.label}: {len(labelled.row_ids):,} samples, {len(labelled.classes)} classes")
        features = {
            f"BulkFormer {pooling} embedding": embedding[np.searchsorted(row_ids, labelled.row_ids)],
            "raw expression": read_expression(corpus, labelled),
        }
        results.append(evaluate_classification(labelled, features, settings.classification, settings.seed))
    return results


def _publish(
    settings: RunSettings, embedder: Embedder, corpus: Corpus, results: Sequence[TaskResult]
) -> dict[str, Any]:
    tags = {
        "bulkformer.model": embedder.export.folder.uri,
        "bulkformer.model_sha256": embedder.export.folder.sha256(WEIGHTS_FILE),
        "bulkformer.corpus": corpus.folder.uri,
        "bulkformer.corpus_sha256": corpus.fingerprint,
    }
    about = {"about": tags, "settings": settings.resolved()}
    if settings.output:
        write_results(settings.output, results, about)
    tracking = settings.tracking
    name = tracking.run or _model_name(embedder.export.folder.uri)
    run_id = send_results(tracking.experiment, name, settings.resolved(), tags, results, results_json(results, about))
    if run_id:
        log(f"MLflow: experiment {tracking.experiment}, run {name} ({run_id})")
    return {"mlflow_run_id": run_id, "output": settings.output, "scores": metric_values(results)}


def _model_name(uri: str) -> str:
    """An export is RUN/export: the run's name says more than its last part."""
    parts = uri.rstrip("/").split("/")
    return parts[-2] if parts[-1] == "export" and len(parts) > 1 and parts[-2] else parts[-1]
