"""What a search costs beside what it computes: 20 trials that compute nothing, on two CPUs, and the same in Ray Tune.

Three searches after each other, of 3 outer and 3 inner folds and 2,000 x 2,000 features; the first starts processes.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"

import numpy as np
import ray
from ray import tune

from dataprep.runtime.storage import Folder
from evaluation.scores.folds import group_folds
from evaluation.search.mlflow_trials import EvaluationRun
from evaluation.search.ray_search import RaySearch, Rules

TRIALS, SEARCHES, CPUS, ROWS = 20, 3, 2, 2000
SPACE = {"components": list(range(10)), "penalty": list(range(10))}


class Nothing(tune.Trainable):
    """A trial of Ray Tune that is done at once."""

    def setup(self, config: dict) -> None:
        self._done = config["components"]

    def reset_config(self, new_config: dict) -> bool:
        self._done = new_config["components"]
        return True

    def step(self) -> dict:
        return {"score": float(self._done), "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        return None


def search(folder: Path, number: int) -> None:
    features, truth = np.ones((ROWS, ROWS), np.float32), np.arange(ROWS, dtype=float)

    def fit_predict(choice: dict, train: np.ndarray, test: np.ndarray) -> np.ndarray:
        return features[test, choice["components"]]

    def score(predictions: np.ndarray, rows: np.ndarray) -> float:
        return -float(((predictions - truth[rows]) ** 2).mean())

    folds = group_folds(np.array([f"study{row % 40}" for row in range(ROWS)]), 3, seed=0)
    tracked = EvaluationRun("", "", {}, {}, "")
    with RaySearch(Rules(TRIALS, 3, 0, CPUS), Folder(str(folder)), tracked) as searched:
        searched.predictions(f"nothing {number}", folds, SPACE, fit_predict, score)


def tuned(folder: Path, number: int) -> None:
    tune.Tuner(
        tune.with_resources(Nothing, {"cpu": 1}),
        param_space={"components": tune.grid_search(list(range(TRIALS)))},
        tune_config=tune.TuneConfig(reuse_actors=True, metric="score", mode="max"),
        run_config=tune.RunConfig(name=str(number), storage_path=str(folder), verbose=0),
    ).fit()


def seconds(work: Callable[[Path, int], None], folder: Path) -> list[float]:
    taken = []
    for number in range(SEARCHES):
        started = time.monotonic()
        work(folder, number)
        taken.append(time.monotonic() - started)
    return taken


if __name__ == "__main__":
    ray.init(address="local", num_cpus=CPUS, include_dashboard=False, log_to_driver=False, logging_level="error")
    with tempfile.TemporaryDirectory() as place:
        for name, work in (("search", search), ("Ray Tune", tuned)):
            taken = seconds(work, Path(place) / name.replace(" ", ""))
            each = " ".join(f"{second:.1f}" for second in taken)
            print(f"{name}: {each} s; {min(taken) / TRIALS * 1000:.0f} ms a trial", flush=True)
    ray.shutdown()
