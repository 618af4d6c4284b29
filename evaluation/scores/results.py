"""Results of tasks: as a table on the terminal, as a file, and as plain data."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder, split_file_address
from dataprep.runtime.terminal import write_result
from evaluation.scores.intervals import Interval

# Columns of a table that is written to a file or a pipe, wide enough that no row of scores is broken.
_WIDTH_IN_FILES = 220


@dataclass(frozen=True)
class Score:
    """One number about one method.

    A difference to a baseline also names the ``baseline`` and the metric that was ``compared``, and has a p-value that
    it is 0; ``p_corrected`` is that for all differences that decide an evaluation together, NaN if it is none of them.
    """

    method: str
    metric: str
    interval: Interval
    baseline: str = ""
    compared: str = ""
    p: float = math.nan
    p_corrected: float = math.nan

    def plain(self) -> dict[str, object]:
        """For JSON: a number that is not defined is null."""
        row: dict[str, object] = {"method": self.method, "metric": self.metric, **plain_interval(self.interval)}
        if self.baseline:
            row |= {"baseline": self.baseline, "p": _defined(self.p), "p_corrected": _defined(self.p_corrected)}
        return row


@dataclass(frozen=True)
class TaskResult:
    """All scores of one task; ``subject`` is the label for classification, else empty.

    ``facts``: what was scored and how, plain data. ``by_study``: rows of a table, plain data. ``baselines``: the
    methods among those scored that need no pretrained model. ``judged_by``: the metric that decides which method is
    better. ``verdict``: what it says of the differences, in one sentence (:func:`evaluation.scores.verdicts.judged`).
    ``row_ids``: the profile of each scored row, int64, and ``rescore``: scores of the rows at some positions alone,
    from which the leak audit makes its own. ``audit``: what it found for each model, plain data.
    ``curves``: what pictures are drawn from, by name (as in ``kaplan_meier``), each the rows of a table, plain data.
    """

    task: str
    subject: str
    scores: Sequence[Score]
    facts: Mapping[str, object]
    by_study: Sequence[Mapping[str, object]] = field(default_factory=list)
    baselines: Sequence[str] = ()
    judged_by: str = ""
    higher_is_better: bool = True
    verdict: str = ""
    curves: Mapping[str, Sequence[Mapping[str, object]]] = field(default_factory=dict)
    row_ids: np.ndarray | None = None
    rescore: Callable[[np.ndarray], Sequence[Score]] | None = None
    audit: Sequence[Mapping[str, object]] = ()

    @property
    def title(self) -> str:
        return f"{self.task}: {self.subject}" if self.subject else self.task

    def plain(self) -> dict[str, Any]:
        """For JSON: a number that is not defined is null."""
        return {
            "task": self.task,
            "subject": self.subject,
            "facts": dict(self.facts),
            "baselines": list(self.baselines),
            "verdict": self.verdict,
            "audit": list(self.audit),
            "scores": [score.plain() for score in self.scores],
            "by_study": _plain_rows(self.by_study),
            "curves": {name: _plain_rows(rows) for name, rows in self.curves.items()},
        }


def print_results(results: Sequence[TaskResult]) -> None:
    """Write tables to standard output: methods down, metrics across."""
    console = Console(file=sys.stdout)
    if not console.is_terminal:
        console = Console(file=sys.stdout, width=_WIDTH_IN_FILES)
    with console.capture() as tables:
        for result in results:
            console.print(score_table(result))
            console.print(_facts_line(result), style="dim", highlight=False)
            if result.by_study:
                console.print(study_table(result))
            if any(score.baseline for score in result.scores):
                console.print(difference_table(result))
            if result.verdict:
                console.print(f"{result.title}: {result.verdict}", highlight=False, soft_wrap=True)
    write_result(tables.get().rstrip("\n"))


def score_table(result: TaskResult) -> Table:
    """Methods down, metrics across; metrics that only one of several methods has are left to the file."""
    methods = list(dict.fromkeys(score.method for score in result.scores))
    metrics = list(dict.fromkeys(score.metric for score in result.scores if not score.baseline))
    cells = {(score.method, score.metric): score.interval for score in result.scores}
    shared = [metric for metric in metrics if all((method, metric) in cells for method in methods)]
    table = Table("method", *(metric.replace("_", " ") for metric in shared), title=result.title, title_justify="left")
    for method in methods:
        table.add_row(method, *(_cell(cells[method, metric]) for metric in shared))
    return table


def difference_table(result: TaskResult) -> Table:
    """Methods and baselines down: what the first has more, by the metric that decides; the others are in the file."""
    differences = [score for score in result.scores if score.baseline]
    shown = [score for score in differences if score.compared == result.judged_by] or differences
    table = Table("method", "baseline", "metric", "difference", "p", "p corrected", title_justify="left")
    table.title = f"{result.title}: difference to each baseline"
    for score in shown:
        cells = (
            score.compared.replace("_", " "),
            _cell(score.interval),
            _p_value(score.p),
            _p_value(score.p_corrected),
        )
        table.add_row(score.method, score.baseline, *cells)
    return table


def study_table(result: TaskResult) -> Table:
    """Studies down, methods across: Pearson / MSE."""
    methods = list(dict.fromkeys(str(row["method"]) for row in result.by_study))
    table = Table("study", "profiles", *methods, title="by study: pearson / mse", title_justify="left")
    for study in dict.fromkeys(str(row["study"]) for row in result.by_study):
        rows = {row["method"]: row for row in result.by_study if row["study"] == study}
        cells = [f"{_number(rows[method]['pearson'])} / {_number(rows[method]['mse'])}" for method in methods]
        table.add_row(study, f"{rows[methods[0]]['profiles']:,}", *cells)
    return table


def score_rows(results: Sequence[TaskResult]) -> pa.Table:
    """All scores as a flat table, null where not defined; of differences also baseline, p and p_corrected."""
    rows = [
        {"task": result["task"], "subject": result["subject"], **score}
        for result in (result.plain() for result in results)
        for score in result["scores"]
    ]
    texts, numbers = ("task", "subject", "method", "metric", "baseline"), ("value", "low", "high", "p", "p_corrected")
    schema = pa.schema([(name, pa.string()) for name in texts] + [(name, pa.float64()) for name in numbers])
    return pa.Table.from_pylist(rows, schema=schema)


def require_replaceable(address: str) -> None:
    """Raise UserError where no file can be written, or where there is one that does not hold results.

    One of results is replaced.
    """
    folder_address, name = split_file_address(address)
    folder = Folder(folder_address)
    folder.require_writable(name)
    if not folder.exists(name):
        return
    try:
        content = folder.read_bytes(name)
        if name.endswith(".json"):
            ours = "bulkformer.model" in json.loads(content)["about"]
        else:
            # those of earlier versions have fewer columns
            names = pq.read_schema(pa.BufferReader(content)).names
            ours = bool(names) and names == score_rows([]).column_names[: len(names)]
    except (ValueError, KeyError, TypeError):
        # pyarrow's errors and those of JSON are ValueErrors
        ours = False
    if not ours:
        raise UserError(f"{address} exists and holds no results: remove it, or give another --output", exit_code=2)


def write_results(address: str, results: Sequence[TaskResult], about: Mapping[str, Any]) -> None:
    """Write ``.json`` (everything) or ``.parquet`` (the scores), whole or not at all."""
    folder, name = split_file_address(address)
    if name.endswith(".json"):
        Folder(folder).write_text(name, results_json(results, about))
        return
    sink = pa.BufferOutputStream()
    pq.write_table(score_rows(results), sink, compression="zstd")
    Folder(folder).write_bytes(name, sink.getvalue().to_pybytes())


def results_json(results: Sequence[TaskResult], about: Mapping[str, Any]) -> str:
    """``about`` says what was scored: model, corpus, settings."""
    content = {**about, "results": [result.plain() for result in results]}
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def plain_interval(interval: Interval) -> dict[str, float | None]:
    """For JSON: value and bounds, null where they are not defined."""
    values = {"value": interval.value, "low": interval.low, "high": interval.high}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _plain_rows(rows: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    return [{key: _defined(value) for key, value in row.items()} for row in rows]


def _defined(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cell(interval: Interval) -> str:
    if not math.isfinite(interval.low):
        return _number(interval.value)
    return f"{_number(interval.value)} [{_number(interval.low)}, {_number(interval.high)}]"


def _number(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) and math.isfinite(value) else "–"


def _p_value(p: float) -> str:
    if not math.isfinite(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _facts_line(result: TaskResult) -> str:
    return "; ".join(f"{key.replace('_', ' ')}: {value}" for key, value in result.facts.items())
