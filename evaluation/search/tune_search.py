"""The search of settings on Ray Tune: nested cross-validation, trials in parallel, continued after a kill.

A trial is one choice of all settings. It is scored on inner folds of every outer fold, whole groups kept together, and
each outer fold takes the choice that is best on its own inner folds. What an outer fold takes must not depend on the
rows that it tests. Those are training rows of the other outer folds, so nothing may be decided from scores of several:

- Choices are proposed before anything is scored (:mod:`evaluation.search.proposals`, by Optuna). A sampler that learns,
  such as TPE, would learn from means over outer folds, and so from the test rows of each.
- Bad choices are ended early by successive halving inside each outer fold (:mod:`evaluation.search.halving`): all are
  scored on its first inner fold, the best third and the fixed setting on the others. It is the synchronous form of
  ASHA. ASHA itself would end a trial for all outer folds, by their mean; and what it ends depends on which trial is
  done first, so that the same command would not give the same scores twice. Here everything is decided by settings,
  seed and data, on one core as on a cluster.

Tune starts processes for trials, uses them for one trial after the other, and replaces those that were killed. What
was tried is kept in files of ours (:mod:`evaluation.search.search_state`), since Tune's own go on with its experiments,
not with those of a command that is repeated.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import ray
from ray import tune
from ray.exceptions import RayError, RayTaskError

from dataprep.runtime.command_line import UserError
from dataprep.runtime.ray_session import connected, require_plugins_on_workers, user_error_in
from dataprep.runtime.storage import Folder
from dataprep.runtime.terminal import log
from evaluation.scores.folds import Folds
from evaluation.search.halving import (
    CHOICE,
    ERROR,
    PLACES,
    SCORES,
    SEARCH,
    SECONDS,
    SHELF,
    HalvingInFolds,
    Trials,
)
from evaluation.search.inner_folds import Method
from evaluation.search.mlflow_trials import EvaluationRun, FinishedTrial
from evaluation.search.nested import (
    Asked,
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


@dataclass(frozen=True)
class Rules:
    """``trials``: choices of one search; ``inner``: inner folds; ``concurrency``: trials at a time, None: one a CPU."""

    trials: int
    inner: int
    seed: int
    concurrency: int | None = None
    plugins: str = ""


class TuneSearch(Search):
    """Searches of one evaluation, kept in ``folder``; Ray is started or joined when the first one begins."""

    def __init__(self, rules: Rules, folder: Folder, tracked: EvaluationRun) -> None:
        self._rules = rules
        self._folder = folder
        self._tracked = tracked
        self._ray = ExitStack()
        self._connected = False

    def __enter__(self) -> TuneSearch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ray.close()

    def predictions(
        self, subject: str, folds: Folds, space: Space, fit_predict: FitPredict, score: RowScore
    ) -> OutOfFold:
        return self.predictions_of_all([Asked(subject, folds, space, fit_predict, score)])[0]

    def predictions_of_all(self, asked: Sequence[Asked]) -> list[OutOfFold]:
        begun = [self._begun(one) for one in asked]
        searches = [one for one in begun if one is not None]
        unfinished = [one for one in searches if not one.halving.finished]
        if unfinished:
            trials = Trials([one.halving for one in unfinished], self._shelf_name)
            ray.get(self._shelf.lay.remote([one.shared for one in unfinished]))
            _tune(trials, self._at_a_time())
            _require_complete(trials)
        return [
            nested_predictions(one.folds, one.space, one.fit_predict) if search is None else self._outcome(one, search)
            for one, search in zip(asked, begun, strict=True)
        ]

    def _begun(self, asked: Asked) -> _Begun | None:
        """A search as far as it was done before; None where there is nothing to choose, or nothing to choose it on."""
        rules, subject = self._rules, asked.subject
        if all(len(values) == 1 for values in asked.space.values()):
            return None
        method = Method.of(asked.folds, asked.fit_predict, asked.score, rules.inner, rules.seed)
        if not any(method.inner):
            log(f"{subject}: training rows of each fold are of one group, so settings stay as they are")
            return None
        self._connect()
        name = search_name(subject, asked.folds, asked.space, asked.fit_predict, asked.score)
        state = SearchState(self._folder / name)
        choices = proposals(asked.space, rules.trials, rules.seed)
        records = [state.read(number, choice) for number, choice in enumerate(choices)]
        # once into the store, from which every process of a machine maps the arrays
        return _Begun(name, records, HalvingInFolds(subject, method, records, state), ray.put(method))

    def _outcome(self, asked: Asked, search: _Begun) -> OutOfFold:
        chosen_K, mean_TK = search.halving.outcome()
        choices = [search.records[number].choice for number in chosen_K]
        predicted = _predictions(asked.subject, search.shared, choices)
        self._tracked.add(_finished(asked.subject, search.name, search.records, chosen_K, mean_TK))
        described = (
            f"{len(search.records)} choices of {', '.join(asked.space)} on up to {self._rules.inner} inner folds of "
            f"each fold's training rows; {len(set(chosen_K.tolist()))} of them taken"
        )
        return OutOfFold(out_of_fold(asked.folds, predicted), choices, described)

    def _connect(self) -> None:
        if not self._connected:
            self._ray.enter_context(connected(min_cpus=self._rules.concurrency or 1))
            require_plugins_on_workers(self._rules.plugins)
            # it ends some time after the last handle, which is this one: its name is for nobody else
            self._shelf_name = f"bulkformer-search-{uuid.uuid4().hex}"
            self._shelf: Any = ray.remote(num_cpus=0)(Shelf).options(name=self._shelf_name).remote()
            self._connected = True

    def _at_a_time(self) -> int:
        return self._rules.concurrency or max(1, int(ray.cluster_resources().get("CPU", 1)))


@dataclass(frozen=True)
class _Begun:
    """A search, the name of its folder, its trials, and its method in Ray's store."""

    name: str
    records: Sequence[TrialRecord]
    halving: HalvingInFolds
    shared: ray.ObjectRef


class Shelf:
    """Where trials find the methods of their searches: what Tune itself hands on would stay in the store for good."""

    def lay(self, methods: list[ray.ObjectRef]) -> None:
        """Keep references, in the order of the searches; those before are dropped."""
        self._methods = methods

    def taken(self) -> list[ray.ObjectRef]:
        """What was laid here last."""
        return self._methods


class SettingsTrial(tune.Trainable):
    """Scores one choice at the places that it is asked for, in one step."""

    _methods: list[ray.ObjectRef]
    _asked: dict[str, Any]
    _held: tuple[int, Method] | None = None

    def setup(self, config: dict[str, Any]) -> None:
        """Once in a process, which then takes one trial after the other."""
        _stay_on_one_core()
        self._methods = ray.get(ray.get_actor(config[SHELF]).taken.remote())
        self._asked = config

    def _method(self) -> Method:
        """That of the trial's search, kept for the next trial, which is mostly of the same search."""
        number = self._asked[SEARCH]
        if self._held is None or self._held[0] != number:
            self._held = number, ray.get(self._methods[number])
        return self._held[1]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial in the same process."""
        self._asked = new_config
        return True

    def step(self) -> dict[str, Any]:
        """Scores by place. What the method raises is handed back, as it would be raised again at each try."""
        started = time.monotonic()
        try:
            method, choice = self._method(), self._asked[CHOICE]
            scores = [(outer, inner, method.inner_score(choice, outer, inner)) for outer, inner in self._asked[PLACES]]
        except Exception as error:  # noqa: BLE001
            return {ERROR: error, "done": True}
        return {SCORES: scores, SECONDS: time.monotonic() - started, "done": True}


def _tune(trials: Trials, at_a_time: int) -> None:
    """Run trials in one experiment of Tune, whose processes go from one search to the next."""
    os.environ.update(
        {
            # files and pictures of every trial, which nobody reads
            "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
            # its other way of telling how trials do cannot be silenced; ours is in halving.py
            "RAY_AIR_NEW_OUTPUT": "0",
            # Ctrl-C ends the command, not only the experiment
            "TUNE_DISABLE_SIGINT_HANDLER": "1",
        }
    )
    # of a process that was killed the search says itself what is to be said
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="bulkformer-search-") as place:
        tune.Tuner(
            tune.with_resources(SettingsTrial, {"cpu": 1}),
            tune_config=tune.TuneConfig(
                search_alg=trials, num_samples=-1, max_concurrent_trials=at_a_time, reuse_actors=True
            ),
            run_config=tune.RunConfig(
                name="search",
                storage_path=place,
                failure_config=tune.FailureConfig(max_failures=_RETRIES),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        ).fit()


def _require_complete(trials: Trials) -> None:
    if trials.raised:
        raise trials.raised
    if trials.killed is not None:
        raise _killed(f"{trials.killed}: its processes")


def _predictions(subject: str, shared: ray.ObjectRef, choices: Sequence[Mapping[str, Any]]) -> list[np.ndarray]:
    """Predictions of every outer fold's test rows by the choice that it takes."""
    try:
        return ray.get([_predict.remote(shared, choice, outer) for outer, choice in enumerate(choices)])
    except RayTaskError as error:
        raise user_error_in(error) or error from error
    except RayError as error:
        raise _killed(f"{subject}: processes") from error


@ray.remote(num_cpus=1, max_retries=_RETRIES)
def _predict(method: Method, choice: Mapping[str, Any], outer: int) -> np.ndarray:
    _stay_on_one_core()
    return method.predicted(choice, outer)


def _stay_on_one_core() -> None:
    # what Ray has given: scikit-learn's forests ask joblib, which counts the machine's
    os.environ["LOKY_MAX_CPU_COUNT"] = "1"


def _killed(whose: str) -> UserError:
    return UserError(
        f"{whose} were killed {_RETRIES + 1} times, perhaps for want of memory: lower --search.concurrency; the same "
        "command goes on from here"
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
