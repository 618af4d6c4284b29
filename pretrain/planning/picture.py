"""The picture of simulated runs: how the rate grows with GPUs, and what GPU-hours go to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot

from dataprep.runtime.command_line import UserError
from pretrain.planning.simulation import SimulatedRun

# Colours that colour-blind readers tell apart (Okabe and Ito 2008).
_PARTS = {
    "passes": ("passes and optimizer", "#0072B2"),
    "straggling": ("waiting for the slowest GPU", "#E69F00"),
    "communication": ("sums over workers", "#56B4E9"),
    "checkpoints": ("checkpoints", "#009E73"),
    "repeated": ("steps lost and repeated", "#D55E00"),
    "restarts": ("restarts", "#CC79A7"),
}


def write_picture(path: Path, runs: Sequence[SimulatedRun], title: str) -> None:
    """Write a PNG or SVG, as the name of the file says. Raises UserError where that cannot be."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    gpus = [run.gpus for run in runs]
    rates = [run.profiles_per_second for run in runs]
    left.plot(gpus, rates, "o-", color="#0072B2", label="simulated")
    left.plot(gpus, [rates[0] * count / gpus[0] for count in gpus], "--", color="grey", label=f"{gpus[0]} GPUs, scaled")
    left.set(xscale="log", yscale="log", xlabel="GPUs", ylabel="profiles/s, losses and restarts included")
    left.set_xticks(gpus, [str(count) for count in gpus])
    left.minorticks_off()
    left.legend(frameon=False)
    places = range(len(runs))
    below = [0.0] * len(runs)
    for part, (label, colour) in _PARTS.items():
        hours = [getattr(run, part) * run.gpus for run in runs]
        right.bar(places, hours, bottom=below, color=colour, label=label)
        below = [start + height for start, height in zip(below, hours, strict=True)]
    right.set(xlabel="GPUs", ylabel="GPU-hours")
    right.set_xticks(list(places), [str(count) for count in gpus])
    right.legend(frameon=False, loc="upper left", fontsize="small")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{title}: simulated, an estimate")
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise UserError(f"--picture {path}: {error}") from None
    finally:
        pyplot.close(figure)
