"""Curves of tasks as pictures, for reports and for MLflow. A curve is a plain table in the results.

Columns by name of the curve (a column ``method`` may stand beside them, where several methods were scored):

``mask_rates``: mask_rate, and metrics; ``expression_levels``: from, to, and metrics; ``kaplan_meier``: group, time,
survival, and optionally low and high; ``roc``: false_positive_rate, true_positive_rate; ``calibration``: predicted,
observed; ``confusion``: actual, predicted, count; ``learning_curve``: training_samples, and one metric with its name
followed by ``_low`` and ``_high``; ``c_index_by_study``, with a column for each method: study, profiles, events,
median_time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from dataprep.inspection.page import Picture, number
from dataprep.inspection.pictures import label, legend, picture, style_of

Row = Mapping[str, Any]
_OF_STUDIES = ("study", "profiles", "events", "median_time")
_MOST_LINES = 8
_MOST_CLASSES = 20
_MOST_STUDIES = 30
_ERRORS = ("mse", "pearson")


def curve_pictures(title: str, name: str, rows: Sequence[Row]) -> list[Picture]:
    """Pictures of the curve of this name, ``title`` being that of its task; none where it cannot be drawn."""
    draw = _DRAWN.get(name)
    if draw is None or not rows:
        return []
    # columns may be those of another version or a plugin: a table shows what there is
    with suppress(KeyError, TypeError, ValueError):
        return draw(title, rows)
    return []


def _mask_rates(title: str, rows: Sequence[Row]) -> list[Picture]:
    caption = f"{title}: {{}} by the share of genes that is masked."
    return _errors_by_method(rows, lambda row: float(row["mask_rate"]), "share of genes masked", caption)


def _expression_levels(title: str, rows: Sequence[Row]) -> list[Picture]:
    caption = f"{title}: {{}} by the genes' mean expression in the train split."
    return _errors_by_method(rows, lambda row: (float(row["from"]) + float(row["to"])) / 2, "mean log1p TPM", caption)


def _errors_by_method(rows: Sequence[Row], place: Callable[[Row], float], axis: str, caption: str) -> list[Picture]:
    metrics = [metric for metric in _ERRORS if metric in rows[0]]
    return [_by_method(rows, place, metric, axis, caption.replace("{}", metric)) for metric in metrics]


def _by_method(rows: Sequence[Row], place: Callable[[Row], float], metric: str, axis: str, caption: str) -> Picture:
    lines = {
        name: np.array(sorted((place(row), _float(row[metric])) for row in own))
        for name, own in _grouped(rows, "method")
    }

    def draw(axes: Axes) -> None:
        for position, (name, points) in enumerate(lines.items()):
            axes.plot(*points.T, "-", label=label(name), markersize=4, **style_of(position))
        axes.set(xlabel=axis, ylabel=metric)
        legend(axes)

    said = "; ".join(
        f"{name} " + ", ".join(f"{number(y)} at {number(x)}" for x, y in points) for name, points in lines.items()
    )
    return picture(draw, f"Line chart of {metric} over {axis}: {said}.", caption, 2.9 + 0.12 * len(lines))


def _kaplan_meier(title: str, rows: Sequence[Row]) -> list[Picture]:
    return [_survival(title, name, own) for name, own in _grouped(rows, "method")[:_MOST_LINES]]


def _survival(title: str, method: str, rows: Sequence[Row]) -> Picture:
    groups = {}
    for name, own in _grouped(rows, "group"):
        own = sorted(own, key=lambda row: float(row["time"]))
        groups[name] = np.array([[_float(row.get(key)) for key in ("time", "survival", "low", "high")] for row in own])

    def draw(axes: Axes) -> None:
        for position, (name, points) in enumerate(groups.items()):
            style = style_of(position, marker="", linestyle=("-", "--", "-.", ":")[position % 4])
            axes.step(points[:, 0], points[:, 1], where="post", label=label(name), **style)
            if np.isfinite(points[:, 2:]).any():
                times, low, high = points[:, [0, 2, 3]].T
                axes.fill_between(times, low, high, step="post", color=style["color"], alpha=0.15, linewidth=0)
        axes.set(xlabel="time", ylabel="share alive", ylim=(-0.02, 1.02))
        legend(axes)

    said = "; ".join(
        f"{name}: {number(float(points[-1, 1]))} at time {number(float(points[-1, 0]))}"
        for name, points in groups.items()
    )
    of = f", {method}" if method else ""
    caption = f"{title}{of}: Kaplan-Meier curves of groups by predicted risk; shaded: 95 % intervals."
    return picture(draw, f"Kaplan-Meier curves{of}; {said}.", caption)


def _roc(title: str, rows: Sequence[Row]) -> list[Picture]:
    caption = f"{title}: ROC curves. Dotted: guessing."
    return [_squared(rows, "false_positive_rate", "true_positive_rate", caption, "ROC curves", markers=False)]


def _calibration(title: str, rows: Sequence[Row]) -> list[Picture]:
    caption = f"{title}: calibration, how often it was so where a probability was predicted. Dotted: perfect."
    return [_squared(rows, "predicted", "observed", caption, "Calibration curves", markers=True)]


def _squared(rows: Sequence[Row], x: str, y: str, caption: str, what: str, markers: bool) -> Picture:
    """Shares over shares, with the diagonal."""
    lines = {
        name: np.array(sorted((_float(row[x]), _float(row[y])) for row in own))
        for name, own in _grouped(rows, "method")[:_MOST_LINES]
    }

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], ":", color="#4d4d4d")
        for position, (name, points) in enumerate(lines.items()):
            style = style_of(position, markersize=4 if markers else 0, linestyle=("-", "--", "-.", ":")[position % 4])
            axes.plot(*points.T, label=label(name), **style)
        axes.set(xlabel=_spaced(x), ylabel=_spaced(y), xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        legend(axes)

    said = "; ".join(f"{name} with {len(points):,} points" for name, points in lines.items() if name)
    return picture(
        draw, f"{what}, {_spaced(y)} over {_spaced(x)}: {said or 'one method'}.", caption, 3.4 + 0.13 * len(lines)
    )


def _confusion(title: str, rows: Sequence[Row]) -> list[Picture]:
    return [_matrix(title, name, own) for name, own in _grouped(rows, "method")[:_MOST_LINES]]


def _matrix(title: str, method: str, rows: Sequence[Row]) -> Picture:
    classes = list(dict.fromkeys([str(row["actual"]) for row in rows] + [str(row["predicted"]) for row in rows]))
    if len(classes) > _MOST_CLASSES:
        raise ValueError("too many classes for a picture")
    counts = np.zeros((len(classes), len(classes)))
    for row in rows:
        counts[classes.index(str(row["actual"])), classes.index(str(row["predicted"]))] += float(row["count"])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)

    def draw(axes: Axes) -> None:
        axes.pcolormesh(shares, cmap="Blues", vmin=0, vmax=1, edgecolors="#dddddd", linewidth=0.5)
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > 0.6 else "#1a1a1a"
            axes.text(column + 0.5, row + 0.5, f"{count:,.0f}", ha="center", va="center", color=colour, fontsize=7)
        names, middles = [label(name, 20) for name in classes], np.arange(len(classes)) + 0.5
        axes.set_xticks(middles, names, rotation=60, ha="right", rotation_mode="anchor")
        axes.set_yticks(middles, names)
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.set(xlabel="predicted", ylabel="actual")

    right = float(np.trace(counts) / max(counts.sum(), 1))
    of = f", {method}" if method else ""
    said = f"Confusion matrix{of} of {len(classes)} classes: {right:.1%} of {counts.sum():,.0f} are right."
    caption = f"{title}{of}: confusion matrix, profiles by actual and predicted class."
    return picture(draw, said, caption, 2.2 + 0.22 * len(classes))


def _learning_curve(title: str, rows: Sequence[Row]) -> list[Picture]:
    (metric,) = [column for column in rows[0] if f"{column}_low" in rows[0]]
    names = ("training_samples", metric, f"{metric}_low", f"{metric}_high")
    lines = {
        name: np.array(sorted(tuple(_float(row[column]) for column in names) for row in own))
        for name, own in _grouped(rows, "method")[:_MOST_LINES]
    }

    def draw(axes: Axes) -> None:
        for position, (name, points) in enumerate(lines.items()):
            style = style_of(position, markersize=4)
            axes.plot(points[:, 0], points[:, 1], "-", label=label(name), **style)
            axes.fill_between(points[:, 0], points[:, 2], points[:, 3], color=style["color"], alpha=0.12, linewidth=0)
        axes.set(xlabel="training samples", ylabel=_spaced(metric))
        legend(axes)

    said = "; ".join(
        f"{name} " + ", ".join(f"{number(y)} from {x:,.0f}" for x, y in points[:, :2]) for name, points in lines.items()
    )
    caption = f"{title}: {_spaced(metric)} of heads by how many samples they learn from; shaded: 95 % intervals."
    described = f"Learning curves, {_spaced(metric)} over training samples: {said}."
    return [picture(draw, described, caption, 2.9 + 0.12 * len(lines))]


def _c_index_by_study(title: str, rows: Sequence[Row]) -> list[Picture]:
    chosen = sorted(rows, key=lambda row: -int(row["events"]))[:_MOST_STUDIES]
    methods = [column for column in chosen[0] if column not in _OF_STUDIES][:_MOST_LINES]
    places = np.arange(len(chosen))

    def draw(axes: Axes) -> None:
        axes.axvline(0.5, color="#4d4d4d", linestyle=":", linewidth=0.9)
        for position, method in enumerate(methods):
            # beside each other, so that equal values can be told apart
            heights = places + 0.5 * ((position + 0.5) / len(methods) - 0.5)
            values = [_float(row.get(method)) for row in chosen]
            axes.plot(values, heights, linestyle="", markersize=4, label=label(method), **style_of(position))
        axes.set_yticks(places, [f"{label(row['study'], 24)} ({row['events']})" for row in chosen])
        axes.set(xlabel="C", xlim=(-0.03, 1.03), ylim=(len(chosen) - 0.5, -0.5))
        legend(axes)

    said = "; ".join(
        f"{row['study']}, {row['events']} events: "
        + ", ".join(f"{method} {number(_float(row.get(method)))}" for method in methods)
        for row in chosen
    )
    caption = (
        f"{title}: concordance within each study, with its number of events in brackets. Dotted: chance. Few "
        "events say little."
    )
    if len(methods) < len(chosen[0]) - len(_OF_STUDIES):
        caption += f" The first {len(methods)} methods; the table has all."
    return [picture(draw, f"Dot plot of C by study: {said}.", caption, 1.1 + 0.26 * len(chosen) + 0.12 * len(methods))]


def _grouped(rows: Sequence[Row], column: str) -> list[tuple[str, list[Row]]]:
    """Rows by the value of a column, in order; all together under an empty name where there is no such column."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(str(row.get(column, "")), []).append(row)
    return list(groups.items())


def _float(value: object) -> float:
    return float("nan") if value is None else float(value)  # type: ignore[arg-type]


def _spaced(name: str) -> str:
    return name.replace("_", " ")


_DRAWN: dict[str, Callable[[str, Sequence[Row]], list[Picture]]] = {
    "mask_rates": _mask_rates,
    "expression_levels": _expression_levels,
    "kaplan_meier": _kaplan_meier,
    "roc": _roc,
    "calibration": _calibration,
    "confusion": _confusion,
    "learning_curve": _learning_curve,
    "c_index_by_study": _c_index_by_study,
}
