"""The leak audit beside each score: what it found, and the same scores without profiles seen in pretraining."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from dataprep.corpus import Corpus
from dataprep.runtime.terminal import log
from evaluation.leaks.audit import Shared, TrainedOn, described
from evaluation.scores.results import Score, TaskResult

# Scores of fewer rows than these say nothing.
_FEWEST_ROWS = 10


def audited(
    results: Sequence[TaskResult],
    corpus: Corpus,
    samples: pa.Table,
    expression: Callable[[np.ndarray], np.ndarray],
    trained_on: Mapping[str, TrainedOn | None],
) -> list[TaskResult]:
    """The results with what each model (by name) has seen of the profiles that they are about.

    ``samples``: the table of ``corpus``; ``expression``: row ids [N] to float16 N x G. Profiles that any model has seen
    are left out for all methods, in further scores named ``METRIC_without_shared``.
    """
    scored = [result.row_ids for result in results if result.row_ids is not None]
    row_ids = np.unique(np.concatenate([np.empty(0, np.int64), *scored]))
    known = {name: seen for name, seen in trained_on.items() if seen is not None}
    shared: dict[str, Shared] = {}
    if known and len(row_ids):
        log(f"leak audit of {len(row_ids):,} profiles")
        chosen = samples.filter(np.isin(samples.column("row_id").to_numpy(), row_ids)).sort_by("row_id")
        values = expression(row_ids)
        shared = {name: seen.shared(chosen, corpus, values) for name, seen in known.items()}
    unknown = [name for name in trained_on if name not in known]
    return [_audited(result, row_ids, shared, unknown) for result in results]


def _audited(
    result: TaskResult, row_ids: np.ndarray, shared: Mapping[str, Shared], unknown: Sequence[str]
) -> TaskResult:
    lines = [f"not made for {name}, whose export carries no fingerprints of its train profiles" for name in unknown]
    if result.row_ids is None:
        return replace(result, facts={**result.facts, "leak_audit": "not made: the task names no profiles"})
    profiles = np.searchsorted(row_ids, np.unique(result.row_ids))
    counts = {name: found.counts(profiles) for name, found in shared.items()}
    lines = [f"{name}: {described(count)}" for name, count in counts.items()] + lines
    scores = list(result.scores)
    seen = np.logical_or.reduce([np.zeros(len(row_ids), bool), *(found.any for found in shared.values())])
    rows = np.flatnonzero(~seen[np.searchsorted(row_ids, result.row_ids)])
    if len(rows) < len(result.row_ids):
        extra = _without(result, rows)
        scores += extra
        lines += [] if extra else ["no score without them: too few others, or the task gives none"]
    facts = {**result.facts, "leak_audit": "; ".join(lines)}
    return replace(
        result, scores=scores, facts=facts, audit=[{"model": name, **count} for name, count in counts.items()]
    )


def _without(result: TaskResult, rows: np.ndarray) -> list[Score]:
    if result.rescore is None or len(rows) < _FEWEST_ROWS:
        return []
    return [replace(score, metric=f"{score.metric}_without_shared") for score in result.rescore(rows)]
