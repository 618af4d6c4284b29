"""``python -m evaluation COMMAND``."""

from __future__ import annotations

import sys
from typing import Any

from dataprep.runtime.command_line import Command, main
from dataprep.runtime.terminal import quiet_libraries
from evaluation.config import EmbedSettings, ReportSettings, RunSettings, ScalingFitSettings, ScalingSweepSettings
from evaluation.tasks.registry import run_settings


def _embed(settings: EmbedSettings) -> dict[str, Any]:
    # torch takes seconds to import; --help and refused settings do without it
    from evaluation.embed.command import embed

    return embed(settings)


def _run(settings: RunSettings) -> dict[str, Any]:
    from evaluation.run import run

    return run(settings)


def _report(settings: ReportSettings) -> dict[str, Any]:
    # the same holds of jinja2, matplotlib and torch
    from evaluation.report.command import report

    return report(settings)


def _scaling_fit(settings: ScalingFitSettings) -> dict[str, Any]:
    # matplotlib and scipy take a second to import
    from evaluation.scaling.fit import fit

    return fit(settings)


def _scaling_sweep(settings: ScalingSweepSettings) -> dict[str, Any]:
    # Ray and torch take seconds to import
    from evaluation.scaling.sweep import sweep

    return sweep(settings)


COMMANDS = {
    "embed": Command(EmbedSettings, _embed, "embed profiles of a corpus or an .h5ad file"),
    "run": Command(RunSettings, _run, "score a model on downstream tasks, beside simple methods", run_settings),
    "report": Command(ReportSettings, _report, "write one page about runs and evaluations, for a person to read"),
    "scaling sweep": Command(ScalingSweepSettings, _scaling_sweep, "train a grid of sizes and shares of a corpus"),
    "scaling fit": Command(ScalingFitSettings, _scaling_fit, "fit scaling laws to the losses of trained models"),
}

if __name__ == "__main__":
    quiet_libraries()
    sys.exit(main("evaluation", "Evaluate a pretrained model.", COMMANDS))
