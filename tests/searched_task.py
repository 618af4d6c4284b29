"""A task with something to search: which way, and how far back from the mean, an offset of each study is predicted.

In the folder of the environment variable SEARCHED_TASK_LOG each fit leaves a file; while a file ``kill`` is there, the
process that finds it removes it and kills itself; while a file ``wait`` is there, later fits take until it is gone.
"""

import os
import signal
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dataprep.runtime.command_line import Settings
from evaluation.scores.folds import group_folds
from evaluation.scores.intervals import Interval
from evaluation.scores.results import Score, TaskResult
from evaluation.tasks.registry import register_task
from evaluation.tasks.task import Needs, Task

_FITS_BEFORE_WAITING = 14
SPACE = {"shrink": [0.9, 0.0, 0.3, 0.6, 1.2], "sign": [-1, 1]}


class SearchedSettings(Settings):
    """A task of the tests."""


@register_task
class Searched(Task[SearchedSettings]):
    name = "searched"
    settings_type = SearchedSettings
    uses = ()

    def prepare(self) -> Needs:
        self.row_ids = self.context.row_ids("train")
        return Needs(expression=self.row_ids)

    def score(self) -> Sequence[TaskResult]:
        groups = np.array([f"study{number % 12}" for number in range(len(self.row_ids))])
        truth = np.random.default_rng(0).normal(size=len(groups))
        where = Path(os.environ["SEARCHED_TASK_LOG"])

        def fit_predict(choice, train, test):
            (where / f"{choice['shrink']}_{choice['sign']}_{len(train)}_{uuid.uuid4().hex}").touch()
            meet_faults(where)
            assert not set(groups[train]) & set(groups[test])
            return choice["sign"] * (1 - choice["shrink"]) * truth[test]

        def score(predictions, rows):
            return -float(((predictions - truth[rows]) ** 2).mean())

        folds = group_folds(groups, 3, seed=0)
        outcome = self.context.search.predictions("offset", folds, SPACE, fit_predict, score)
        error = Interval(-score(outcome.predictions, np.arange(len(groups))))
        scores = [Score("offset", "mse", error), Score("zero", "mse", Interval(float((truth**2).mean())))]
        facts = {"choices": [dict(choice) for choice in outcome.choices], "search": outcome.described}
        return [TaskResult(self.name, "", scores, facts, baselines=["zero"])]


def meet_faults(where: Path) -> None:
    try:
        (where / "kill").unlink()
    except FileNotFoundError:
        pass
    else:
        os.kill(os.getpid(), signal.SIGKILL)
    while (where / "wait").exists() and len(list(where.iterdir())) > _FITS_BEFORE_WAITING:
        time.sleep(0.05)
