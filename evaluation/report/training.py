"""The part of a report about pretraining: what was trained on what, how it learned, how fast, and what came between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from dataprep.corpus import SPLITS, Corpus
from dataprep.inspection.page import (
    Block,
    Facts,
    Folded,
    Note,
    Paragraph,
    Picture,
    Pictures,
    Section,
    Table,
    failed,
    missing,
)
from dataprep.inspection.page import number as shown_number
from dataprep.inspection.pictures import legend, picture, style_of
from evaluation.report.material import TrainingRun, corpus_of
from pretrain.monitoring.metrics_file import Row
from pretrain.monitoring.mlflow_run import flattened

# More points than this are not seen on paper: neighbours are averaged.
_MOST_POINTS = 300
# A pause between two rows is an interruption where it is so many times the usual one, and so many seconds.
_TIMES_USUAL, _LEAST_SECONDS = 10.0, 30.0


def training_section(runs: Sequence[TrainingRun]) -> Section:
    if not runs:
        said = missing(
            "no pretraining run was given (--run STORAGE/NAME, or --experiment), so its course is not shown."
        )
        return Section("Training", [said])
    return Section("Training", sections=[_run_section(run) for run in runs])


def _run_section(run: TrainingRun) -> Section:
    about: list[Block] = [failed(f"{run.problem}.")] if run.problem else []
    about.append(Facts(_about(run)))
    return Section(
        f"Run {run.name}",
        about,
        [
            Section("What it was trained on", _corpus_blocks(run)),
            Section("Settings", [_settings(run.settings)]),
            Section("Loss and validation", _curves(run.rows)),
            Section("Speed and interruptions", _speed(run.rows)),
        ],
    )


def _about(run: TrainingRun) -> dict[str, Any]:
    training = run.export.get("training", {})
    facts = {
        "state": run.status,
        "from": run.origin,
        "steps": max((int(row["step"]) for row in run.rows), default=0),
        "last loss": _last(run.rows, "loss"),
        "last validation loss": _last(run.rows, "validation_loss"),
        "last validation Pearson": _last(run.rows, "validation_pearson"),
        "weights SHA-256": run.export.get("weights_sha256"),
        "vocabulary SHA-256": run.export.get("vocabulary_sha256"),
        "gene graph SHA-256": run.export.get("graph_sha256"),
        "corpus SHA-256": training.get("corpus"),
    }
    return {name: value for name, value in facts.items() if value is not None}


def _corpus_blocks(run: TrainingRun) -> list[Block]:
    corpus, why_not = corpus_of(run.settings.get("corpus"))
    if corpus is None:
        return [missing(f"the corpus cannot be read now ({why_not}); only what the run itself recorded is shown.")]
    recorded = run.export.get("training", {}).get("corpus")
    blocks: list[Block] = []
    if recorded not in (None, corpus.fingerprint):
        blocks.append(
            Note(
                "Changed", f"the corpus at {corpus.folder.uri} is not the one of this run any more: what follows is it"
            )
        )
    return [*blocks, *corpus_tables(corpus)]


def corpus_tables(corpus: Corpus) -> list[Block]:
    """Counts and checksums of a corpus: by split and by source."""
    manifest = corpus.manifest
    facts = {
        "corpus": corpus.folder.uri,
        "SHA-256 of its manifest": corpus.fingerprint,
        "genes": corpus.genes,
        "unit": manifest.unit,
        "samples kept": f"{manifest.samples.kept:,} of {manifest.samples.read:,}",
        "gene graph": "yes" if corpus.has_graph else "none",
    }
    splits = [
        [name, f"{manifest.splits[name].rows:,}", f"{len(manifest.splits[name].studies):,}"]
        for name in SPLITS
        if name in manifest.splits
    ]
    blocks: list[Block] = [Facts(facts), Table("Profiles by split", ["split", "profiles", "studies"], splits)]
    if manifest.sources:
        rows = [[source.name, f"{source.samples:,}", f"{source.kept:,}"] for source in manifest.sources]
        table = Table("Samples by source", ["source", "read", "kept"], rows)
        blocks.append(Folded(f"{len(rows)} sources", [table]) if len(rows) > 12 else table)
    return blocks


def _settings(settings: Mapping[str, Any]) -> Block:
    return Folded("All settings", [Facts(flattened(settings))])


def _curves(rows: Sequence[Row]) -> list[Block]:
    if not any("loss" in row for row in rows):
        return [missing("the run recorded no step.")]
    losses = {"training": series(rows, "loss"), "validation": series(rows, "validation_loss")}
    pictures = [
        _lines(losses, "loss (MSE)", "Loss by step", "Loss of masked genes, in training and on held-out studies.")
    ]
    for name, axis, caption in (
        (
            "validation_pearson",
            "Pearson",
            "Correlation of predicted and measured values, held-out studies.",
        ),
        ("lr", "learning rate", "Learning rate by step."),
        ("grad_norm", "norm", "Norm of the gradient by step."),
    ):
        found = series(rows, name)
        if len(found[0]):
            pictures.append(_lines({name.replace("_", " "): found}, axis, caption.split(" of ")[0], caption))
    blocks: list[Block] = [Pictures(pictures)]
    if not len(losses["validation"][0]):
        blocks.append(missing("the run had no validation."))
    return blocks


def _speed(rows: Sequence[Row]) -> list[Block]:
    speed = series(rows, "samples_per_second")
    if not len(speed[0]):
        return [missing("the run recorded no speed.")]
    pictures = [_lines({"profiles per second": speed}, "profiles per second", "Speed", "Profiles per second by step.")]
    waiting = series(rows, "data_wait_fraction")
    if len(waiting[0]):
        caption = "Share of a step spent waiting for data."
        pictures.append(_lines({"waiting for data": waiting}, "share of a step", "Waiting for data", caption))
    memory = [row["peak_memory_bytes"] / 1e9 for row in rows if "peak_memory_bytes" in row]
    facts = {
        "median profiles per second": float(np.median(speed[1])),
        "median share of waiting for data": float(np.median(waiting[1])) if len(waiting[1]) else None,
        "validation and checkpoints, seconds": float(sum(row.get("pause_seconds", 0.0) for row in rows)),
        "largest memory of a worker, GB": max(memory) if memory else None,
    }
    return [Facts({name: value for name, value in facts.items() if value is not None}), Pictures(pictures), _gaps(rows)]


def _gaps(rows: Sequence[Row]) -> Block:
    """Interruptions: the record has no step for longer than is usual."""
    timed = [row for row in rows if "time" in row and "loss" in row]
    moments = np.array([row["time"] for row in timed])
    pauses = np.array([float(row.get("pause_seconds", 0.0)) for row in timed])
    gaps = np.diff(moments) - pauses[1:]
    if not len(gaps):
        return missing("too few steps have a time to look for interruptions.")
    limit = max(_LEAST_SECONDS, _TIMES_USUAL * float(np.median(gaps)))
    found = [[f"{timed[place]['step']:,}", f"{gaps[place] / 60:,.1f}"] for place in np.flatnonzero(gaps > limit)]
    said = f"between two logged steps for more than {limit:,.0f} s, validation and checkpoints apart"
    if not found:
        return Paragraph(f"The run was never interrupted: nothing came {said}.")
    return Table(
        f"Interruptions: pauses {said} (restarts, outages, time without machines)", ["after step", "minutes"], found
    )


def series(rows: Sequence[Row], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one metric, neighbours averaged where there are many."""
    found = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), int | float)]
    if not found:
        return np.empty(0), np.empty(0)
    steps, values = np.array(found, dtype=float).T
    if len(steps) <= _MOST_POINTS:
        return steps, values
    parts = np.array_split(np.arange(len(steps)), _MOST_POINTS)
    return np.array([steps[part].mean() for part in parts]), np.array([values[part].mean() for part in parts])


def _lines(lines: Mapping[str, tuple[np.ndarray, np.ndarray]], axis: str, what: str, caption: str) -> Picture:
    drawn = {name: line for name, line in lines.items() if len(line[0])}

    def draw(axes: Axes) -> None:
        for position, (name, (steps, values)) in enumerate(drawn.items()):
            style = style_of(position, markersize=3 if len(steps) <= 60 else 0)
            axes.plot(steps, values, "-" if position == 0 else "--", label=name, **style)
        axes.set(xlabel="step", ylabel=axis)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if len(drawn) > 1:
            legend(axes)

    said = "; ".join(
        f"{name} from {shown_number(float(values[0]))} at step {steps[0]:,.0f} to {shown_number(float(values[-1]))} at "
        f"step {steps[-1]:,.0f}"
        for name, (steps, values) in drawn.items()
    )
    return picture(draw, f"Line chart. {what}: {said}.", caption)


def _last(rows: Sequence[Row], name: str) -> float | None:
    return next((float(row[name]) for row in reversed(rows) if name in row), None)
