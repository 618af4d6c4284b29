"""What a search costs beside what it computes: 20 trials of each method that compute nothing, on two CPUs.

One method, twice (the first also starts Ray's processes), and eight methods that are asked for together, as a task asks
for all of its methods of a label; 3 outer and 3 inner folds, 2,000 x 2,000 features.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import ray

from dataprep.runtime.storage import Folder
from evaluation.scores.folds import group_folds
from evaluation.search.mlflow_trials import EvaluationRun
from evaluation.search.nested import Asked
from evaluation.search.tune_search import Rules, TuneSearch

TRIALS, CPUS, ROWS = 20, 2, 2000
SPACE = {"components": list(range(10)), "penalty": list(range(10))}


def asked(subject: str) -> Asked:
    features, truth = np.ones((ROWS, ROWS), np.float32), np.arange(ROWS, dtype=float)

    def fit_predict(choice: dict, train: np.ndarray, test: np.ndarray) -> np.ndarray:
        return features[test, choice["components"]]

    def score(predictions: np.ndarray, rows: np.ndarray) -> float:
        return -float(((predictions - truth[rows]) ** 2).mean())

    folds = group_folds(np.array([f"study{row % 40}" for row in range(ROWS)]), 3, seed=0)
    return Asked(subject, folds, SPACE, fit_predict, score)


def measure(place: Path) -> None:
    ray.init(address="local", num_cpus=CPUS, include_dashboard=False, log_to_driver=False, logging_level="error")
    tracked = EvaluationRun("", "", {}, {}, "")
    with TuneSearch(Rules(TRIALS, 3, 0, CPUS), Folder(str(place)), tracked) as search:
        for number, methods in enumerate((1, 1, 8)):
            started = time.monotonic()
            search.predictions_of_all([asked(f"nothing {number}, {method}") for method in range(methods)])
            print(f"{methods} methods of {TRIALS} trials: {time.monotonic() - started:.1f} s", flush=True)
    ray.shutdown()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        measure(Path(scratch))
