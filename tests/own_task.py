"""A downstream task of somebody else, as docs/extending.md shows it: is the nearest profile of the same tissue?"""

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from dataprep.runtime.command_line import Settings
from evaluation.scores.intervals import Interval
from evaluation.scores.results import Score, TaskResult
from evaluation.tasks.registry import register_task
from evaluation.tasks.task import Needs, NotApplicableError, Task


class NeighboursSettings(Settings):
    """Tissue of the nearest other profile."""

    max_profiles: int = Field(500, ge=2, description="held-out profiles to use, at the most")


@register_task
class Neighbours(Task[NeighboursSettings]):
    name = "neighbours"
    settings_type = NeighboursSettings

    def prepare(self) -> Needs:
        if "tissue" not in self.context.samples.column_names:
            raise NotApplicableError("no column tissue")
        self.row_ids = self.context.row_ids(self.context.settings.split, self.settings.max_profiles)
        return Needs(expression=self.row_ids, embeddings={"mean": self.row_ids})

    def score(self) -> Sequence[TaskResult]:
        tissue = np.array(self.context.samples.column("tissue").to_pylist())[self.row_ids]
        raw = {"raw expression": np.nan_to_num(self.context.expression(self.row_ids).astype(np.float32))}
        scores = []
        for method, values in (self.context.embeddings(self.row_ids, "mean") | raw).items():
            distance = ((values[:, None] - values[None]) ** 2).sum(axis=2)
            np.fill_diagonal(distance, np.inf)
            same = tissue[distance.argmin(axis=1)] == tissue
            scores.append(Score(method, "accuracy", Interval(float(same.mean()))))
        facts = {"profiles": len(self.row_ids)}
        return [TaskResult(self.name, "", scores, facts, baselines=list(raw), row_ids=self.row_ids)]
