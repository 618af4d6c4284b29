"""``evaluation scaling sweep``: train a grid of sizes and shares of the corpus, as points for ``scaling fit``.

Each point is a run of ``pretrain run``, started from a trial of Ray Tune, with its own checkpoints, accounting and
MLflow run. The same command again trains what is not finished: a run resumes from its newest checkpoint, and a finished
one is only read.
"""

from __future__ import annotations

import io
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import ray
from ray import tune

from dataprep.corpus import MANIFEST_FILE, Corpus, open_corpus
from dataprep.corpus.part import nested_studies, write_part
from dataprep.runtime.command_line import UserError
from dataprep.runtime.ray_session import connected, user_error_in
from dataprep.runtime.storage import Folder
from dataprep.runtime.terminal import log, write_result
from evaluation.config import POINTS_FILE, ScalingSweepSettings
from evaluation.scaling.grid import Point, grid, grid_table, run_settings, shared_settings
from pretrain.config import RunSettings
from pretrain.driver.progress import duration
from pretrain.driver.run import needed_cpus, run
from pretrain.model.export_file import CONFIG_FILE
from pretrain.monitoring.metrics_file import read_rows

# The best of several validations, as a run's best checkpoint is: so often in each run.
_VALIDATIONS = 10
_TRIAL_CPUS = 0.001


def sweep(settings: ScalingSweepSettings) -> dict[str, Any]:
    """Train what is not finished and write the table of points; returns what ``--json`` prints."""
    settings = settings.model_copy(update={"output": Folder(settings.output).uri})
    corpus = open_corpus(settings.corpus)
    if not corpus.rows("validation"):
        raise UserError(f"{settings.corpus}: the validation split is empty, and its loss is what a sweep compares")
    studies = nested_studies(corpus, settings.fractions, settings.seed)
    shared = shared_settings(settings.training)
    points = grid(settings, shared, corpus, _profiles(corpus, studies))
    if settings.dry_run:
        write_result(grid_table(points, settings.teraflops_per_second, settings.hourly_cost))
        return {"points": len(points), "flops": sum(point.flops for point in points)}
    folder = Folder(settings.output)
    folder.require_writable(POINTS_FILE)
    parts = {fraction: _part(corpus, folder, fraction, studies[fraction]) for fraction in settings.fractions}
    runs = {point: _run_of(point, settings, shared, parts[point.fraction]) for point in points}
    waiting = [point for point in points if _loss(runs[point]) is None]
    log(f"{len(points)} points, {len(points) - len(waiting)} of them trained already")
    if waiting:
        _train([runs[point] for point in waiting], settings.concurrency)
    table = _points_table(runs)
    folder.write_text(POINTS_FILE, table)
    write_result(f"{len(points)} points: {folder.uri}/{POINTS_FILE}; read by evaluation scaling fit --sweep")
    return {"points": len(points), "table": f"{folder.uri}/{POINTS_FILE}"}


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


def _run_of(point: Point, settings: ScalingSweepSettings, shared: Mapping[str, Any], part: Corpus) -> RunSettings:
    """The run of a point, with validations and checkpoints at even steps unless its settings say how often."""
    one = run_settings(settings, shared, point.size, point.name, point.seed, point.steps, part.folder.uri)
    every = max(1, point.steps // _VALIDATIONS)
    changed = {
        group: getattr(one, group).model_copy(update={"every_steps": every})
        for group in ("validation", "checkpoint")
        if "every_steps" not in getattr(one, group).model_fields_set
    }
    return one.model_copy(update=changed)


def _loss(one: RunSettings) -> float | None:
    """The smallest validation loss of a finished run; None where it has not finished."""
    folder = Folder(one.storage) / one.name
    if not (folder / "export").exists(CONFIG_FILE):
        return None
    losses = [row["validation_loss"] for row in read_rows(folder) if "validation_loss" in row]
    return min(losses) if losses else None


def _train(runs: Sequence[RunSettings], concurrency: int | None) -> None:
    # Tune's newer display prints boxes whatever one asks for
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    needed = needed_cpus(runs[0])
    with connected(min_cpus=needed), tempfile.TemporaryDirectory(prefix="sweep-") as scratch:
        fits = max(1, int(ray.cluster_resources().get("CPU", 1)) // needed)
        tuner = tune.Tuner(
            tune.with_resources(_train_one, {"CPU": _TRIAL_CPUS}),
            param_space={"run": tune.grid_search([one.model_dump(mode="json", exclude_unset=True) for one in runs])},
            tune_config=tune.TuneConfig(max_concurrent_trials=concurrency or fits),
            # what Tune itself keeps of the trials is not needed: the runs are their own record
            run_config=tune.RunConfig(storage_path=scratch, verbose=0, callbacks=[_Progress(len(runs))]),
        )
        results = tuner.fit()
    if results.errors:
        first = results.errors[0]
        said = user_error_in(first) or " ".join(str(first).split())[-300:]
        raise UserError(
            f"{len(results.errors)} of {len(runs)} runs failed; the same command tries them again. The first: {said}"
        )


class _Progress(tune.Callback):
    """A line for each run that ends, with the time that the others will take at this rate."""

    def __init__(self, runs: int) -> None:
        self._runs, self._done, self._began = runs, 0, time.monotonic()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._done += 1
        left = (time.monotonic() - self._began) / self._done * (self._runs - self._done)
        loss = (trial.last_result or {}).get("validation_loss")
        said = "" if loss is None else f", validation loss {loss:.4f}"
        log(f"{trial.config['run']['name']} trained{said}: {self._done} of {self._runs}, {duration(left)} left")


def _train_one(config: Mapping[str, Any]) -> None:
    result = run(RunSettings(**config["run"]))
    tune.report({"validation_loss": result["validation_loss"]})


def _points_table(runs: Mapping[Point, RunSettings]) -> str:
    rows = [
        {
            "parameters": point.parameters,
            "profiles": point.profiles,
            "loss": _loss(one),
            "size": point.size,
            "fraction": point.fraction,
            "seed": point.seed,
            "steps": point.steps,
            "flops": point.flops,
            "run": f"{one.storage}/{one.name}",
        }
        for point, one in runs.items()
    ]
    text = io.StringIO()
    pd.DataFrame(rows).to_csv(text, index=False)
    return text.getvalue()
