"""Runs of a sweep as trials of Ray Tune, as many at a time as the cluster holds."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray import tune

from dataprep.runtime.command_line import UserError, one_line
from dataprep.runtime.ray_session import connected, user_error_in
from dataprep.runtime.terminal import log
from pretrain.config import RunSettings
from pretrain.driver.progress import duration
from pretrain.driver.run import needed_cpus, run

# A trial only waits for the workers of its run, which hold CPUs of their own.
_TRIAL_CPUS = 0.001


def train(runs: Sequence[RunSettings], concurrency: int | None, trained: Callable[[str], None]) -> None:
    """Train the runs, or resume them; ``trained`` is given the name of each that has ended well.

    Raises UserError when all have been tried and some failed, with the reason of the first.
    """
    # Tune's newer display prints boxes whatever one asks for
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # it would show every failure as a traceback
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    needed = max(needed_cpus(one) for one in runs)
    with connected(min_cpus=needed), tempfile.TemporaryDirectory(prefix="sweep-") as scratch:
        at_once = concurrency or runs_at_once(runs[0], needed, ray.cluster_resources())
        log(f"training {len(runs)} runs, {min(at_once, len(runs))} at a time")
        tuner = tune.Tuner(
            tune.with_resources(_train_one, {"CPU": _TRIAL_CPUS}),
            param_space={"run": tune.grid_search([one.model_dump(mode="json", exclude_unset=True) for one in runs])},
            tune_config=tune.TuneConfig(max_concurrent_trials=at_once),
            # what Tune itself keeps of the trials is not needed: the runs are their own record
            run_config=tune.RunConfig(storage_path=scratch, verbose=0, callbacks=[_Progress(len(runs), trained)]),
        )
        results = tuner.fit()
    if results.errors:
        first = results.errors[0]
        said = user_error_in(first) or one_line(first)[-300:]
        raise UserError(
            f"{len(results.errors)} of {len(runs)} runs failed; the same command tries them again. The first: {said}"
        )


def runs_at_once(one: RunSettings, needed: int, have: Mapping[str, float]) -> int:
    """How many runs like ``one``, of ``needed`` CPU slots each, a cluster holds at a time; one at least."""
    fits = [have.get("CPU", 1.0) // needed]
    if one.workers.gpu:
        fits.append(have.get("GPU", 0.0) // one.workers.count)
    return max(1, int(min(fits)))


class _Progress(tune.Callback):
    """A line for each run that ends, with the time that the others will take at this rate."""

    def __init__(self, runs: int, trained: Callable[[str], None]) -> None:
        self._runs, self._trained, self._done, self._failed = runs, trained, 0, 0
        self._began = time.monotonic()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._done += 1
        loss = (trial.last_result or {}).get("validation_loss")
        self._say(trial, "trained" if loss is None else f"trained, validation loss {loss:.4f}")
        self._trained(trial.config["run"]["name"])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._failed += 1
        self._say(trial, "failed")

    def _say(self, trial: Any, what: str) -> None:
        ended = self._done + self._failed
        left = (time.monotonic() - self._began) / ended * (self._runs - ended)
        log(f"{trial.config['run']['name']} {what}: {ended} of {self._runs}, {duration(left)} left")


def _train_one(config: Mapping[str, Any]) -> None:
    result = run(RunSettings(**config["run"]))
    tune.report({"validation_loss": result["validation_loss"]})
