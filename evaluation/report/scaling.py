"""The part of a report about scaling laws."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes

from dataprep.inspection.page import Block, Facts, Paragraph, Picture, Pictures, Section, Table, missing, number
from dataprep.inspection.pictures import legend, picture, style_of
from evaluation.report.material import ScalingFit


def scaling_section(fits: Sequence[ScalingFit]) -> Section:
    if not fits:
        return Section("Scaling", [missing("no fit of scaling laws was given (--scaling FILE.json, or --experiment).")])
    if len(fits) == 1:
        return Section("Scaling", _blocks(fits[0]))
    return Section("Scaling", sections=[Section(f"Fit from {fit.origin}", _blocks(fit)) for fit in fits])


def _blocks(fit: ScalingFit) -> list[Block]:
    blocks: list[Block] = []
    if fit.points_table:
        blocks.append(Pictures([_plot(fit)]))
    else:
        blocks.append(missing("the file has no points to draw: it is of an earlier version."))
    bounds = fit.log_log.intervals
    rows = [["line: slope", number(fit.log_log.slope), _bounds(bounds.get("slope"))]]
    rows.append(["line: intercept", number(fit.log_log.intercept), _bounds(bounds.get("intercept"))])
    rows.append(["line: R²", number(fit.log_log.r2), "–"])
    for name, interval in (fit.power_law or {}).items():
        if interval.get("value") is not None:
            rows.append(
                [f"power law: {name}", number(interval["value"]), _bounds([interval.get("low"), interval.get("high")])]
            )
    blocks.append(
        Table(
            "log10(loss) over log10(millions of parameters); E + A/N^a + B/D^b",
            ["quantity", "value", "95 % interval"],
            rows,
        )
    )
    blocks += [Paragraph(f"{name.replace('_', ' ')}: {said}") for name, said in fit.identifiable.items() if said]
    if fit.largest_size:
        blocks.append(Facts({"the largest size, predicted from the others": fit.largest_size}))
    if fit.compute_optimal:
        blocks.append(Facts({"best for the budget": fit.compute_optimal}))
    return [*blocks, Facts({"from": fit.origin})]


def _bounds(bounds: Sequence[float | None] | None) -> str:
    if bounds is None or None in bounds:
        return "–"
    return f"{number(bounds[0])} to {number(bounds[1])}"


def _plot(fit: ScalingFit) -> Picture:
    millions = np.array([point.parameters / 1e6 for point in fit.points_table])
    amounts = sorted({point.profiles for point in fit.points_table if point.profiles is not None})
    grid = np.geomspace(millions.min() / 1.3, millions.max() * 1.5, 60)

    def draw(axes: Axes) -> None:
        for position, amount in enumerate(amounts if len(amounts) > 1 else [None]):
            own = [point for point in fit.points_table if amount is None or point.profiles == amount]
            style = style_of(position)
            name = "trained models" if amount is None else f"{amount:,.0f} profiles"
            axes.plot(
                [point.parameters / 1e6 for point in own],
                [point.loss for point in own],
                label=name,
                linestyle="",
                markersize=5,
                **style,
            )
            law = _law(fit, grid * 1e6, amount)
            if law is not None:
                axes.plot(grid, law, "-", color=style["color"], linewidth=1)
        if len(amounts) <= 1:
            axes.plot(
                grid,
                10 ** (fit.log_log.slope * np.log10(grid) + fit.log_log.intercept),
                "--",
                color="#4d4d4d",
                label="line",
            )
        axes.set(xscale="log", yscale="log", xlabel="parameters (millions)", ylabel="validation loss (MSE)")
        for one, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            # within less than a decade all ticks have a number, else those that do not overlap
            shown = partial(_plain, digits="123456789" if high < 5 * low else "125")
            one.set_major_formatter(shown)
            one.set_minor_formatter(shown)
        legend(axes)

    said = "; ".join(f"{point.loss:.4g} at {point.parameters / 1e6:.4g} million" for point in fit.points_table[:12])
    caption = "Loss by number of parameters, both on logarithmic axes. Lines: power law; dashed: straight line."
    return picture(
        draw, f"Scatter plot of loss over parameters for {len(fit.points_table)} models: {said}.", caption, 3.1
    )


def _law(fit: ScalingFit, parameters: np.ndarray, profiles: float | None) -> np.ndarray | None:
    """E + A/N^a + B/D^b, where all of it is known."""
    values = {name: interval["value"] for name, interval in (fit.power_law or {}).items() if interval.get("value")}
    known = {name: float(value) for name, value in values.items() if value is not None}
    if not {*"EAa"} <= known.keys():
        return None
    loss = known["E"] + known["A"] / parameters ** known["a"]
    if profiles is None:
        return np.asarray(loss)
    return np.asarray(loss + known["B"] / profiles ** known["b"]) if {*"Bb"} <= known.keys() else None


def _plain(value: float, _: float, digits: str) -> str:
    """10 and 0.2 instead of powers, of ticks whose first digit is one of ``digits``."""
    return f"{value:g}" if f"{value:e}"[0] in digits else ""
