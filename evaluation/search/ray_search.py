"""The search of settings on Ray: nested cross-validation, trials in parallel, continued after a kill.

A trial is one choice of all settings. It is scored on inner folds of every outer fold, whole groups kept together, and
each outer fold takes the choice that is best on its own inner folds. What an outer fold takes must not depend on the
rows that it tests. Those are training rows of the other outer folds, so nothing may be decided from scores of several:

- Choices are proposed before anything is scored (:mod:`evaluation.search.proposals`). A sampler that learns, such as
  TPE, would learn from means over outer folds, and so from the test rows of each.
- Bad choices are ended early by successive halving inside each outer fold: all are scored on its first inner fold, the
  best third and the fixed setting on the others. ASHA would end a trial for all outer folds, by their mean; and what
  it ends depends on which trial is done first, so that the same command would not give the same scores twice. Here
  everything is decided by settings, seed and data, on one core as on a cluster.

Trials are Ray tasks and not trials of Ray Tune, which would start new actors for each search and has nothing left to
decide (benchmarks/search_overhead.py says what that costs). Ray keeps the processes from one search to the next, runs
the task of a killed process again, and has arrays once in its store of each machine.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError

from dataprep.runtime.command_line import UserError
from dataprep.runtime.ray_session import connected, require_plugins_on_workers, user_error_in
from dataprep.runtime.storage import Folder
from dataprep.runtime.terminal import log
from evaluation.scores.folds import Folds
from evaluation.search.inner_folds import Method, best, kept
from evaluation.search.mlflow_trials import EvaluationRun, FinishedTrial
from evaluation.search.nested import (
    FitPredict,
    OutOfFold,
    RowScore,
    Search,
    Space,
    nested_predictions,
    out_of_fold,
)
from evaluation.search.proposals import proposals
from evaluation.search.search_state import SearchState, TrialRecord, search_name

# A process that was killed, by the system for want of memory or by somebody, is replaced so often for one trial.
_RETRIES = 3
_SECONDS_BETWEEN_LINES = 10.0

# Outer and inner fold.
Place = tuple[int, int]


@dataclass(frozen=True)
class Rules:
    """``trials``: choices of one search; ``inner``: inner folds; ``concurrency``: trials at a time, None: one a CPU."""

    trials: int
    inner: int
    seed: int
    concurrency: int | None = None
    plugins: str = ""


class RaySearch(Search):
    """Searches of one evaluation, kept in ``folder``; Ray is started or joined when the first one begins."""

    def __init__(self, rules: Rules, folder: Folder, tracked: EvaluationRun) -> None:
        self._rules = rules
        self._folder = folder
        self._tracked = tracked
        self._ray = ExitStack()
        self._connected = False

    def __enter__(self) -> RaySearch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ray.close()

    def predictions(
        self, subject: str, folds: Folds, space: Space, fit_predict: FitPredict, score: RowScore
    ) -> OutOfFold:
        if all(len(values) == 1 for values in space.values()):
            return nested_predictions(folds, space, fit_predict)
        rules = self._rules
        method = Method.of(folds, fit_predict, score, rules.inner, rules.seed)
        if not any(method.inner):
            log(f"{subject}: training rows of each fold are of one group, so settings stay as they are")
            return nested_predictions(folds, space, fit_predict)
        self._connect()
        name = search_name(subject, folds, space, fit_predict, score)
        choices = proposals(space, rules.trials, rules.seed)
        state = SearchState(self._folder / name)
        records = [state.read(number, choice) for number, choice in enumerate(choices)]
        # once into the store, from which every process of a machine maps the arrays
        shared = ray.put(method)
        trials = _Trials(subject, shared, method, records, state, self._at_a_time())
        chosen_K, mean_TK = trials.run()
        predicted = trials.predicted(chosen_K)
        self._tracked.add(_finished(subject, name, records, chosen_K, mean_TK))
        described = (
            f"{len(choices)} choices of {', '.join(space)} on up to {rules.inner} inner folds of each fold's training "
            f"rows; {len(set(chosen_K.tolist()))} of them taken"
        )
        return OutOfFold(out_of_fold(folds, predicted), [choices[number] for number in chosen_K], described)

    def _connect(self) -> None:
        if not self._connected:
            self._ray.enter_context(connected(min_cpus=self._rules.concurrency or 1))
            require_plugins_on_workers(self._rules.plugins)
            self._connected = True

    def _at_a_time(self) -> int:
        return self._rules.concurrency or max(1, int(ray.cluster_resources().get("CPU", 1)))


class _Trials:
    """The trials of one search. T trials, K outer folds, I inner folds."""

    def __init__(
        self,
        subject: str,
        shared: ray.ObjectRef,
        method: Method,
        records: Sequence[TrialRecord],
        state: SearchState,
        at_a_time: int,
    ) -> None:
        self._subject = subject
        self._shared = shared
        self._method = method
        self._records = records
        self._state = state
        self._at_a_time = at_a_time

    def run(self) -> tuple[np.ndarray, np.ndarray]:
        """The number of the trial that each outer fold takes, int [K], and inner scores, float [T, K]."""
        weights_KI = self._method.weights
        first = {(outer, 0) for outer, parts in enumerate(self._method.inner) if parts}
        self._score([(number, first) for number in range(len(self._records))], "on first inner folds")
        kept_TK = kept(self._scores(weights_KI)[:, :, 0])
        others = [
            (
                number,
                {
                    (outer, inner)
                    for outer, parts in enumerate(self._method.inner)
                    for inner in range(1, len(parts))
                    if kept_TK[number, outer]
                },
            )
            for number in range(len(self._records))
        ]
        self._score([(number, places) for number, places in others if places], "on the others")
        return best(self._scores(weights_KI), weights_KI, kept_TK)

    def predicted(self, chosen_K: np.ndarray) -> list[np.ndarray]:
        """Predictions of every outer fold's test rows by the choice that it takes."""
        calls = [
            (outer, _predict, (self._records[number].choice, outer)) for outer, number in enumerate(chosen_K.tolist())
        ]
        found = dict(self._results(calls))
        return [found[outer] for outer in range(len(chosen_K))]

    def _score(self, wanted: Sequence[tuple[int, set[Place]]], where: str) -> None:
        """Score trials at the places that are not known yet; each is stored as it is done."""
        missing = [(number, sorted(places - set(self._records[number].scores))) for number, places in wanted]
        calls = [(number, _score, (self._records[number].choice, places)) for number, places in missing if places]
        progress = _Progress(f"{self._subject}: trials {where}", len(wanted), len(calls))
        for number, (scores, seconds) in self._results(calls):
            record = self._records[number]
            record.scores |= scores
            record.seconds += seconds
            self._state.store(number, record)
            progress.done(float(np.nanmean(list(record.scores.values()))) if _any_defined(record) else float("nan"))

    def _scores(self, weights_KI: np.ndarray) -> np.ndarray:
        scores = np.full((len(self._records), *weights_KI.shape), np.nan)
        for number, record in enumerate(self._records):
            for (outer, inner), score in record.scores.items():
                scores[number, outer, inner] = score
        return scores

    def _results(self, calls: Sequence[tuple[int, Any, tuple[Any, ...]]]) -> Iterator[tuple[int, Any]]:
        """(number, result) of remote calls as they end, so many at a time."""
        waiting, running = deque(calls), dict[ray.ObjectRef, int]()
        while waiting or running:
            while waiting and len(running) < self._at_a_time:
                number, function, arguments = waiting.popleft()
                running[function.remote(self._shared, *arguments)] = number
            (done, *_), _ = ray.wait(list(running), num_returns=1)
            number = running.pop(done)
            try:
                yield number, ray.get(done)
            except RayError as error:
                for other in running:
                    ray.cancel(other)
                raise _failure(self._subject, error) from error


class _Progress:
    """Lines on how far the trials are, every ten seconds: done of all, the best so far, time left."""

    def __init__(self, doing: str, trials: int, missing: int) -> None:
        self._doing = doing
        self._trials = trials
        self._begun_with = self._done = trials - missing
        self._best = float("nan")
        self._started = self._said = time.monotonic()
        if self._begun_with and missing:
            log(f"{doing}: {self._begun_with} of {trials} were done before")

    def done(self, score: float) -> None:
        """One more, with its mean inner score."""
        self._done += 1
        self._best = float(np.fmax(self._best, score))
        now = time.monotonic()
        if self._done < self._trials and now - self._said < _SECONDS_BETWEEN_LINES:
            return
        self._said = now
        left = (now - self._started) / (self._done - self._begun_with) * (self._trials - self._done)
        log(f"{self._doing}: {self._done} of {self._trials}, best {self._best:.3f}, {left:.0f} s left")


@ray.remote(num_cpus=1, max_retries=_RETRIES)
def _score(method: Method, choice: Any, places: Sequence[Place]) -> tuple[dict[Place, float], float]:
    started = time.monotonic()
    scores = {place: method.inner_score(choice, *place) for place in places}
    return scores, time.monotonic() - started


@ray.remote(num_cpus=1, max_retries=_RETRIES)
def _predict(method: Method, choice: Any, outer: int) -> np.ndarray:
    return method.predicted(choice, outer)


def _any_defined(record: TrialRecord) -> bool:
    return bool(np.isfinite(list(record.scores.values())).any())


def _failure(subject: str, error: RayError) -> BaseException:
    if mistake := user_error_in(error):
        return mistake
    if isinstance(error, RayTaskError):
        return error
    return UserError(
        f"{subject}: the processes of one trial were killed {_RETRIES + 1} times, perhaps for want of memory: "
        "lower --search.concurrency; the same command goes on from here"
    )


def _finished(
    subject: str, name: str, records: Sequence[TrialRecord], chosen_K: np.ndarray, mean_TK: np.ndarray
) -> list[FinishedTrial]:
    """All trials as MLflow is told of them; the score of a trial is the mean over the outer folds that saw it."""
    return [
        FinishedTrial(
            key=f"{name}/{number}",
            name=f"{subject} #{number}",
            subject=subject,
            choice=record.choice,
            score=float(np.nanmean(mean_TK[number])) if np.isfinite(mean_TK[number]).any() else float("nan"),
            inner_fits=len(record.scores),
            seconds=record.seconds,
            chosen_by=tuple(np.flatnonzero(chosen_K == number).tolist()),
        )
        for number, record in enumerate(records)
    ]
