"""What a report is made of, read from files: evaluations, fits of scaling laws, folders of runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dataprep.corpus import Corpus, open_corpus
from dataprep.runtime.command_line import UserError, one_line
from dataprep.runtime.storage import Folder, split_file_address
from pretrain.artifacts.run_settings import SETTINGS_FILE
from pretrain.model.export_file import CARD_FILE, CONFIG_FILE
from pretrain.monitoring.metrics_file import Row, read_rows

M = TypeVar("M", bound=BaseModel)


class Read(BaseModel):
    """A part of a file of results. Later versions may add to it."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Estimate(Read):
    """One number about one method, with its 95 % interval where there is one."""

    method: str
    metric: str
    value: float | None
    low: float | None = None
    high: float | None = None
    p_corrected: float | None = None


class ScoredTask(Read):
    """What :class:`evaluation.scores.results.TaskResult` writes."""

    task: str
    subject: str = ""
    facts: dict[str, Any] = {}
    baselines: list[str] = []
    verdict: str = ""
    scores: list[Estimate] = []
    by_study: list[dict[str, Any]] = []
    curves: dict[str, list[dict[str, Any]]] = {}
    audit: list[dict[str, Any]] = []

    @property
    def title(self) -> str:
        return f"{self.task}: {self.subject}" if self.subject else self.task


class Evaluation(Read):
    """The content of a results file; ``origin``: where it was found."""

    origin: str = ""
    about: dict[str, Any]
    settings: dict[str, Any] = {}
    results: list[ScoredTask]


class ScalingPoint(Read):
    parameters: float = Field(gt=0)
    loss: float = Field(gt=0)
    profiles: float | None = Field(None, gt=0)


class Line(Read):
    slope: float
    intercept: float
    r2: float
    intervals: dict[str, list[float] | None] = {}


class ScalingFit(Read):
    """What `evaluation scaling fit --output` writes; early files lack the table of points."""

    origin: str = ""
    points: int
    log_log: Line
    power_law: dict[str, dict[str, float | None]] | None = None
    identifiable: dict[str, str] = {}
    largest_size: dict[str, Any] | None = None
    compute_optimal: dict[str, Any] | None = None
    points_table: list[ScalingPoint] = []


@dataclass(frozen=True)
class TrainingRun:
    """A pretraining run, whatever became of it.

    ``rows``: its metrics, with the names of ``metrics.jsonl``; ``status``: in words; ``problem``: why it has no model,
    empty where it has one. ``export``: what ``config.json`` of its model says; ``card``: its model card.
    """

    name: str
    origin: str
    status: str
    problem: str
    settings: Mapping[str, Any]
    rows: Sequence[Row]
    export: Mapping[str, Any] = field(default_factory=dict)
    card: str = ""


@dataclass(frozen=True)
class Material:
    runs: Sequence[TrainingRun] = ()
    evaluations: Sequence[Evaluation] = ()
    scaling: Sequence[ScalingFit] = ()
    # what was asked for, has failed and left nothing: in words
    failures: Sequence[str] = ()


def read_evaluation(address: str) -> Evaluation:
    """Read a file that `evaluation run --output FILE.json` wrote. Raises UserError for any other."""
    return parsed(Evaluation, _read(address), address, "results of evaluation run")


def read_scaling(address: str) -> ScalingFit:
    """Read a file that `evaluation scaling fit --output` wrote. Raises UserError for any other."""
    return parsed(ScalingFit, _read(address), address, "results of evaluation scaling fit")


def parsed(model: type[M], content: bytes, origin: str, what: str) -> M:
    """Raises UserError where the content is not ``what``."""
    try:
        plain = json.loads(content)
        if not isinstance(plain, dict):
            raise ValueError(f"it holds {type(plain).__name__}")
        return model.model_validate(plain | {"origin": origin})
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except (ValueError, RecursionError) as error:
        reason = one_line(error)[:160]
    raise UserError(f"{origin} does not hold {what}: {reason}")


def _read(address: str) -> bytes:
    folder, name = split_file_address(address)
    try:
        return Folder(folder).read_bytes(name)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{address} does not exist") from None


def read_run(address: str) -> TrainingRun:
    """Read the folder of a run, finished or not. Raises UserError where there is none."""
    folder = Folder(address)
    folder.require_reachable()
    if not folder.exists(SETTINGS_FILE):
        raise UserError(f"{folder.uri} is not a pretraining run: it has no {SETTINGS_FILE}")
    settings = read_mapping(folder, SETTINGS_FILE)
    export, rows = folder / "export", read_rows(folder)
    config = read_mapping(export, CONFIG_FILE)
    problem = "" if config else _why_unfinished(settings, rows)
    return TrainingRun(
        name=str(settings.get("name") or folder.uri.rpartition("/")[2]),
        origin=folder.uri,
        status="not finished" if problem else "finished",
        problem=problem,
        settings={key: value for key, value in settings.items() if key != "run"},
        rows=rows,
        export=config,
        card=read_card(export),
    )


def _why_unfinished(settings: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """What the folder of a run without a model says about how far it came."""
    last = max((int(row["step"]) for row in rows), default=0)
    planned = settings.get("max_steps")
    of = f" of {planned:,}" if isinstance(planned, int) else ""
    return (
        f"the run left no model: its metrics end at step {last:,}{of}. It has failed, was stopped, or is still "
        "running; the same command resumes it"
    )


def read_card(export: Folder) -> str:
    """The model card of an export; empty where there is none."""
    try:
        return export.read_bytes(CARD_FILE).decode(errors="replace")
    except FileNotFoundError:
        return ""


def read_mapping(folder: Folder, name: str) -> dict[str, Any]:
    """The mapping in a JSON file; empty where there is no such file, or it holds something else."""
    try:
        content = json.loads(folder.read_bytes(name))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except UserError:
        raise
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def corpus_of(address: object) -> tuple[Corpus | None, str]:
    """The corpus at an address that a file names, or why it cannot be opened now."""
    if not isinstance(address, str) or not address:
        return None, "no corpus is named"
    try:
        return open_corpus(address), ""
    except UserError as error:
        return None, str(error)


def merged(parts: Sequence[Material]) -> Material:
    """All of several materials, in their order."""

    def all_of(name: str) -> tuple[Any, ...]:
        return tuple(item for part in parts for item in getattr(part, name))

    fields: Mapping[str, Any] = {name: all_of(name) for name in ("runs", "evaluations", "scaling", "failures")}
    return Material(**fields)
