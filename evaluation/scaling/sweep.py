"""``evaluation scaling sweep``: train a grid of sizes and shares of the corpus, as points for ``scaling fit``.

Each point is a run of ``pretrain run``, started from a trial of Ray Tune, with its own checkpoints, accounting and
MLflow run, which stands under that of the sweep. The same command again trains what is not finished: a run resumes from
its newest checkpoint, and a finished one is only read.
"""

from __future__ import annotations

import io
import json
import math
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from dataprep.corpus import MANIFEST_FILE, Corpus, open_corpus
from dataprep.corpus.part import nested_studies, write_part
from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder
from dataprep.runtime.terminal import log, write_result
from evaluation.config import POINTS_FILE, ScalingSweepSettings
from evaluation.scaling.grid import Point, candidates, grid, grid_table, run_settings, shared_settings
from evaluation.scaling.sweep_run import SweepRun
from evaluation.scaling.trials import train
from evaluation.tracking.mlflow_results import SWEEP_TAG, failing_with
from pretrain.config import RunSettings
from pretrain.model.export_file import CONFIG_FILE
from pretrain.monitoring.metrics_file import read_rows

# The best of several validations, as a run's best checkpoint is: so often in each run.
_VALIDATIONS = 10
# By which a sweep that goes on finds its MLflow run.
_STATE_FILE = "sweep.json"


def sweep(settings: ScalingSweepSettings) -> dict[str, Any]:
    """Train what is not finished and write the table of points; returns what ``--json`` prints."""
    settings = settings.model_copy(update={"output": Folder(settings.output).uri})
    corpus = open_corpus(settings.corpus)
    if not corpus.rows("validation"):
        raise UserError(f"{settings.corpus}: the validation split is empty, and its loss is what a sweep compares")
    studies = nested_studies(corpus, settings.fractions, settings.seed)
    shared = shared_settings(settings.training)
    if settings.learning_rates and "learning_rate" in shared.get("optimizer", {}):
        raise UserError(f"--training {settings.training}: optimizer.learning_rate is that of --learning-rates", 2)
    points = grid(settings, shared, corpus, _profiles(corpus, studies))
    trying = candidates(points, settings)
    if settings.dry_run:
        chosen_by = {(point.size, point.fraction, point.seed) for point in trying}
        all_runs = trying + [one for one in points if (one.size, one.fraction, one.seed) not in chosen_by]
        write_result(grid_table(all_runs, settings.teraflops_per_second, settings.hourly_cost))
        return {"points": len(points), "runs": len(all_runs), "flops": sum(one.flops for one in all_runs)}
    folder = Folder(settings.output)
    folder.require_writable(POINTS_FILE)
    parts = {fraction: _part(corpus, folder, fraction, studies[fraction]) for fraction in settings.fractions}
    tracked = SweepRun()
    tracked.begin(
        settings.experiment, f"sweep {folder.uri.rsplit('/', 1)[-1]}", settings.resolved(),
        {"corpus": corpus.fingerprint, SWEEP_TAG: folder.uri}, _uid(folder),
    )  # fmt: skip
    with failing_with(tracked):
        sweep = _Sweep(settings, shared, parts, tracked)
        if trying:
            rates = _best_rates(sweep.trained(trying), settings.learning_rates)
            points = [replace(point, learning_rate=rates[point.size]) for point in points]
        table = _points_table(sweep.trained(points))
        folder.write_text(POINTS_FILE, table)
    tracked.finish(POINTS_FILE, table)
    write_result(f"{len(points)} points: {folder.uri}/{POINTS_FILE}; read by evaluation scaling fit --sweep")
    return {"points": len(points), "table": f"{folder.uri}/{POINTS_FILE}", "mlflow_run_id": tracked.run_id}


@dataclass(frozen=True)
class _Sweep:
    """What all points of a sweep are trained with, and the names of the runs that are known to be trained."""

    settings: ScalingSweepSettings
    shared: Mapping[str, Any]
    parts: Mapping[float, Corpus]
    tracked: SweepRun
    names: set[str] = field(default_factory=set)

    def trained(self, points: Sequence[Point]) -> dict[Point, RunSettings]:
        """The runs of the points, after those that had not finished were trained."""
        runs = {point: self._run_of(point) for point in points}
        waiting = [one for one in runs.values() if _loss(one) is None]
        log(f"{len(points)} points, {len(points) - len(waiting)} of them trained already")
        self._count(one.name for one in runs.values() if one not in waiting)
        if waiting:
            train(waiting, self.settings.concurrency, lambda name: self._count([name]))
        return runs

    def _count(self, trained: Iterable[str]) -> None:
        self.names.update(trained)
        self.tracked.count(len(self.names))

    def _run_of(self, point: Point) -> RunSettings:
        """The run of a point, with validations and checkpoints at even steps unless its settings say how often."""
        one = run_settings(
            self.settings, self.shared, point.size, point.name, point.seed, point.steps,
            self.parts[point.fraction].folder.uri, point.learning_rate, self.tracked.run_id,
        )  # fmt: skip
        every = max(1, point.steps // _VALIDATIONS)
        changed = {
            group: getattr(one, group).model_copy(update={"every_steps": every})
            for group in ("validation", "checkpoint")
            if "every_steps" not in getattr(one, group).model_fields_set
        }
        return one.model_copy(update=changed)


def _uid(folder: Folder) -> str:
    """Of the sweep in this folder, the same for each start of it."""
    made = json.dumps({"uid": uuid.uuid4().hex}).encode()
    if folder.create(_STATE_FILE, made):
        return str(json.loads(made)["uid"])
    return str(json.loads(folder.read_text(_STATE_FILE))["uid"])


def _best_rates(runs: Mapping[Point, RunSettings], rates: Sequence[float]) -> dict[str, float]:
    """The learning rate of the least validation loss for each size, which is said."""
    best: dict[str, tuple[float, float]] = {}
    for point, one in runs.items():
        assert point.learning_rate is not None
        loss = _loss(one)
        found = math.inf if loss is None else loss, point.learning_rate
        best[point.size] = min(found, best.get(point.size, found))
    for size, (loss, rate) in best.items():
        edge = " the largest" if rate == max(rates) else " the smallest" if rate == min(rates) else ""
        log(f"{size}: learning rate {rate:g}, validation loss {loss:.4f}" + (f"; it is{edge} tried" if edge else ""))
    return {size: rate for size, (_, rate) in best.items()}


def _profiles(corpus: Corpus, studies: Mapping[float, Sequence[str]]) -> dict[float, int]:
    samples = corpus.samples().to_pandas()
    train = samples.loc[samples["split"] == "train", "study_id"]
    return {fraction: int(train.isin(own).sum()) for fraction, own in studies.items()}


def _part(corpus: Corpus, folder: Folder, fraction: float, studies: Sequence[str]) -> Corpus:
    """The part of the corpus, as an earlier start wrote it or anew."""
    place = folder / f"parts/{fraction:g}"
    if place.exists(MANIFEST_FILE):
        part = open_corpus(place)
        made_of = part.manifest.settings.get("part_of"), part.manifest.splits["train"].studies
        if made_of == (corpus.fingerprint, list(studies)):
            return part
        raise UserError(f"{place.uri} is a part of another corpus, or of other studies: give another --output")
    log(f"writing the part of {len(studies)} studies for fraction {fraction:g}")
    return write_part(corpus, place, studies)


def _loss(one: RunSettings) -> float | None:
    """The smallest validation loss of a finished run; None where it has not finished."""
    folder = Folder(one.storage) / one.name
    if not (folder / "export").exists(CONFIG_FILE):
        return None
    losses = [row["validation_loss"] for row in read_rows(folder) if "validation_loss" in row]
    return min(losses) if losses else None


def _points_table(runs: Mapping[Point, RunSettings]) -> str:
    rows = [
        {
            "parameters": point.parameters,
            "profiles": point.profiles,
            "loss": _loss(one),
            "size": point.size,
            "fraction": point.fraction,
            "seed": point.seed,
            "learning_rate": one.optimizer.learning_rate,
            "steps": point.steps,
            "flops": point.flops,
            "run": f"{one.storage}/{one.name}",
        }
        for point, one in runs.items()
    ]
    text = io.StringIO()
    pd.DataFrame(rows).to_csv(text, index=False)
    return text.getvalue()
