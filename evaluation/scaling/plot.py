"""A picture of a scaling law: losses over sizes, with the line, the power law and its interval."""

from __future__ import annotations

import io
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from dataprep.runtime.storage import Folder, split_file_address
from evaluation.scaling.laws import LogLogLine, PowerLaw
from evaluation.scaling.points import Points

# text stays text: it can be searched and read aloud; no date, so that the same points give the same bytes
_SVG: Any = {"svg.fonttype": "none", "svg.hashsalt": "bulkformer"}

# Axes that span less than such a factor have evenly spaced ticks.
_NARROW = 3


def draw(points: Points, line: LogLogLine, law: PowerLaw | None) -> Figure:
    """Losses over parameters on logarithmic axes; with several amounts of profiles a curve for each."""
    figure = Figure(figsize=(7.0, 4.6), layout="constrained")
    axes = figure.add_subplot()
    grid = np.geomspace(points.parameters.min() / 1.3, points.parameters.max() * 1.6, 100)
    # one colour for each amount, from light to dark, in a palette that the colour-blind can read
    amounts: list[float | None] = [None]
    if points.profiles is not None and points.amounts > 1:
        amounts = [float(amount) for amount in np.unique(points.profiles)]
    shades = np.linspace(0.15, 0.9, len(amounts)) if len(amounts) > 1 else [0.6]
    colours = matplotlib.colormaps["viridis_r"](shades)
    for amount, colour in zip(amounts, colours, strict=True):
        chosen = points if amount is None else points.of_amount(amount)
        name = "trained models" if amount is None else f"{amount:,.0f} profiles"
        axes.plot(chosen.parameters / 1e6, chosen.loss, "o", color=colour, label=name)
        if law is None:
            continue
        axes.plot(grid / 1e6, law.loss(grid, amount), "-", color=colour, label="power law" if amount is None else None)
        intervals = [law.loss_interval(size, amount) for size in grid] if len(law.resamples) else []
        if intervals and np.isfinite(intervals[0].low):
            low, high = zip(*((interval.low, interval.high) for interval in intervals), strict=True)
            axes.fill_between(grid / 1e6, low, high, color=colour, alpha=0.15, linewidth=0)
    if len(amounts) == 1:
        fitted = 10 ** (line.slope.value * np.log10(grid / 1e6) + line.intercept.value)
        axes.plot(grid / 1e6, fitted, "--", color="0.4", label=f"line: slope {line.slope.value:.3f}, R² {line.r2:.3f}")
    axes.set(xscale="log", yscale="log", xlabel="parameters (millions)", ylabel="validation loss (MSE of log1p TPM)")
    for axis, (least, most) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        if most < _NARROW * least:
            # so little of a decade that it may have no tick that begins with 1, 2, 3 or 5
            axis.set_major_locator(MaxNLocator(5))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter("{x:g}")
        else:
            axis.set_major_formatter(_plain)
            axis.set_minor_formatter(_plain)
    axes.tick_params(axis="both", which="minor", labelsize="small")
    axes.grid(which="both", alpha=0.2)
    axes.legend(frameon=False)
    return figure


def _plain(value: float, _: float) -> str:
    """10 and 0.2 instead of powers; of the minor ticks those that begin with 2, 3 or 5, so that none overlap."""
    return f"{value:g}" if f"{value:e}"[0] in "1235" else ""


def write(figure: Figure, address: str) -> None:
    """Write a picture as its name says: ``.png`` or ``.svg``, to a file or ``s3://``."""
    content = io.BytesIO()
    kind = address.rpartition(".")[2]
    with matplotlib.rc_context(_SVG):
        figure.savefig(content, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    folder, name = split_file_address(address)
    Folder(folder).write_bytes(name, content.getvalue())
