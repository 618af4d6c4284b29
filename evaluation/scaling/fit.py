"""``evaluation scaling fit``: the laws that the losses of trained models follow, as numbers, words and a picture."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder, split_file_address
from dataprep.runtime.terminal import log, write_result
from evaluation.config import ScalingFitSettings
from evaluation.scaling.laws import LogLogLine, PowerLaw, fit_line, fit_power_law, identifiable
from evaluation.scaling.plot import draw, write
from evaluation.scaling.points import Points, read_points
from evaluation.scores.intervals import Interval
from evaluation.scores.results import plain_interval
from evaluation.tracking.mlflow_results import SCALING_FILE, send_run


@dataclass(frozen=True)
class Prediction:
    """The losses of the largest size as the smaller ones predict them: P points of that size."""

    parameters: float
    profiles: np.ndarray | None
    measured: np.ndarray
    predicted: list[Interval]

    @property
    def relative_error(self) -> float:
        """Root mean square of (predicted - measured) / measured."""
        predicted = np.array([interval.value for interval in self.predicted])
        return float(np.sqrt((((predicted - self.measured) / self.measured) ** 2).mean()))


def fit(settings: ScalingFitSettings) -> dict[str, Any]:
    """Fit, print, draw, write and track; returns what ``--json`` prints."""
    if settings.output:
        folder, name = split_file_address(settings.output)
        Folder(folder).require_writable(name)
    points = _read(settings)
    line = fit_line(points)
    law, why_not = _power_law(points, settings)
    predicted = _predicted_largest(points, settings)
    result = _plain(points, line, law, why_not, predicted, settings)
    write_result(_table(points, line, law, result))
    figure = draw(points, line, law)
    if settings.plot:
        for kind in ("png", "svg"):
            write(figure, f"{settings.plot}.{kind}")
            log(f"picture: {settings.plot}.{kind}")
    text = json.dumps(result, indent=1, allow_nan=False) + "\n"
    run_id = send_run(
        settings.experiment,
        "scaling fit",
        settings.resolved(),
        tags={"bulkformer.points": settings.table or f"MLflow: {settings.runs}"},
        metrics=_metrics(result),
        texts={SCALING_FILE: text},
        figures={"scaling.png": figure, "scaling.svg": figure},
    )
    if settings.output:
        folder, name = split_file_address(settings.output)
        Folder(folder).write_text(name, text)
    return result | {"mlflow_run_id": run_id}


def _read(settings: ScalingFitSettings) -> Points:
    if settings.table is not None:
        return read_points(settings.table)
    assert settings.runs is not None
    # MLflow's client takes a second to import, and tables do without it
    from evaluation.scaling.tracked_points import points_of_runs

    return points_of_runs(settings.runs)


def _power_law(points: Points, settings: ScalingFitSettings) -> tuple[PowerLaw | None, str]:
    try:
        return fit_power_law(points, settings.resamples, settings.seed), ""
    except UserError as error:
        return None, str(error)


def _predicted_largest(points: Points, settings: ScalingFitSettings) -> Prediction | None:
    """None where what is left without the largest size is too little for the law."""
    largest = points.parameters.max()
    held_out = points.where(points.parameters == largest)
    try:
        law = fit_power_law(points.where(points.parameters < largest), settings.resamples, settings.seed)
    except UserError:
        return None
    amounts = [None] * len(held_out) if held_out.profiles is None else list(held_out.profiles)
    predicted = [law.loss_interval(float(largest), amount) for amount in amounts]
    return Prediction(float(largest), held_out.profiles, held_out.loss, predicted)


def _plain(
    points: Points,
    line: LogLogLine,
    law: PowerLaw | None,
    why_not: str,
    predicted: Prediction | None,
    settings: ScalingFitSettings,
) -> dict[str, Any]:
    """Plain data: numbers that are not defined are null."""
    result: dict[str, Any] = {
        "points": len(points),
        "points_table": _points_table(points),
        "sizes": points.sizes,
        "amounts_of_profiles": points.amounts,
        "log_log": {
            "slope": line.slope.value,
            "intercept": line.intercept.value,
            "r2": line.r2,
            "intervals": {"slope": _bounds(line.slope), "intercept": _bounds(line.intercept)},
        },
        "power_law": None,
        "identifiable": {"power_law": why_not},
        "largest_size": None,
        "compute_optimal": None,
    }
    if law is not None:
        result["power_law"] = {name: plain_interval(law.interval(name)) for name in law.NAMES}
        result["identifiable"] = identifiable(law, points)
    if predicted is not None:
        result["largest_size"] = {
            "parameters": predicted.parameters,
            "measured": predicted.measured.tolist(),
            "predicted": [plain_interval(interval) for interval in predicted.predicted],
            "relative_error": predicted.relative_error,
        }
    if settings.budget_flops is not None:
        result["compute_optimal"] = _compute_optimal(law, settings)
    return result


def _points_table(points: Points) -> list[dict[str, float | None]]:
    """For pictures that others draw of the fit."""
    profiles = [None] * len(points) if points.profiles is None else points.profiles.tolist()
    return [
        {"parameters": parameters, "profiles": amount, "loss": loss}
        for parameters, amount, loss in zip(points.parameters.tolist(), profiles, points.loss.tolist(), strict=True)
    ]


def _compute_optimal(law: PowerLaw | None, settings: ScalingFitSettings) -> dict[str, Any]:
    if law is None or not math.isfinite(law.B):
        raise UserError("--budget-flops takes points of at least three sizes and two amounts of profiles", exit_code=2)
    assert settings.budget_flops is not None
    budget = settings.budget_flops / settings.flops_per_parameter_and_profile
    parameters, profiles = law.optimum(budget)
    return {
        "budget_flops": settings.budget_flops,
        "parameters": plain_interval(parameters),
        "profiles": plain_interval(profiles),
        "loss": float(law.loss(parameters.value, profiles.value)),
    }


def _table(points: Points, line: LogLogLine, law: PowerLaw | None, result: Mapping[str, Any]) -> str:
    table = Table("quantity", "value", "95 % interval", title="scaling law", title_justify="left")
    table.add_row("line: slope", f"{line.slope.value:.3f}", _range(line.slope))
    table.add_row("line: intercept", f"{line.intercept.value:.3f}", _range(line.intercept))
    table.add_row("line: R²", f"{line.r2:.3f}", "")
    if law is not None:
        for name in law.NAMES:
            interval = law.interval(name)
            if math.isfinite(interval.value):
                table.add_row(f"power law: {name}", f"{interval.value:.4g}", _range(interval))
    if optimal := result["compute_optimal"]:
        for name in ("parameters", "profiles"):
            best = optimal[name]
            table.add_row(f"best {name} for the budget", f"{best['value']:.3g}", _plain_range(best))
    console = Console(file=sys.stdout)
    with console.capture() as captured:
        console.print(table)
        console.print(
            f"{len(points)} points; log10(loss) over log10(millions of parameters); E + A/N^a + B/D^b", highlight=False
        )
        for name, said in result["identifiable"].items():
            console.print(f"{name.replace('_', ' ')}: {said}", highlight=False)
        if largest := result["largest_size"]:
            console.print(
                f"the largest size, {largest['parameters'] / 1e6:,.4g}M, is predicted from the others with an error of "
                f"{largest['relative_error']:.1%}",
                highlight=False,
            )
    return captured.get().rstrip("\n")


def _metrics(result: Mapping[str, Any]) -> dict[str, float]:
    values = {f"log_log/{name}": result["log_log"][name] for name in ("slope", "intercept", "r2")}
    for name, interval in (result["power_law"] or {}).items():
        values |= {f"power_law/{name}{end}": interval[key] for key, end in _ENDS.items()}
    if result["largest_size"]:
        values["largest_size/relative_error"] = result["largest_size"]["relative_error"]
    return {name: value for name, value in values.items() if value is not None}


_ENDS = {"value": "", "low": "_low", "high": "_high"}


def _bounds(interval: Interval) -> list[float] | None:
    return [interval.low, interval.high] if math.isfinite(interval.low) else None


def _range(interval: Interval) -> str:
    return f"{interval.low:.4g} to {interval.high:.4g}" if math.isfinite(interval.low) else "–"


def _plain_range(interval: Mapping[str, float | None]) -> str:
    return "–" if interval["low"] is None else f"{interval['low']:.3g} to {interval['high']:.3g}"
