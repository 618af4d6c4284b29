"""Prognosis: how long patients live, or live without progression, predicted from their profiles. N profiles.

Follow-up is censored on the right. Profiles of one group (study, patient) are never both fitted on and tested on, and
patients are ranked against those of their own study. See docs/evaluation.md for heads and scores.
"""

from __future__ import annotations

import fnmatch
import importlib.util
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from dataprep.runtime.command_line import Settings, UserError, refuse_without_effect
from dataprep.runtime.terminal import log
from dataprep.sources.source import MISSING_LABELS
from evaluation.config import Splits
from evaluation.inference.follow_up import (
    EndpointColumns,
    FollowUp,
    TimeUnit,
    column_texts,
    endpoints_of,
    read_follow_up,
)
from evaluation.inference.profiles import splits_named
from evaluation.scores.comparison import Metric, Statistic, compare_methods
from evaluation.scores.folds import Folds, group_folds, joined_groups
from evaluation.scores.intervals import SHARE, Interval
from evaluation.scores.results import Score, TaskResult
from evaluation.search.nested import Search, Space
from evaluation.tasks.registry import register_task
from evaluation.tasks.task import Needs, NotApplicableError, Task
from pretrain.config import Pooling

if TYPE_CHECKING:
    from evaluation.methods.prognosis_methods import HeadSpaces
    from evaluation.scores.survival import Outcome

T = TypeVar("T")

_RAW = "raw expression"
# Names of columns with covariates that are used where none are named: the first of each that there is.
_KNOWN_COVARIATES = (
    ("age", "age_at_diagnosis", "age_at_index"),
    ("sex", "gender"),
    ("stage", "tumor_stage", "tumour_stage", "ajcc_pathologic_stage"),
)
_PATIENT_COLUMNS = ("patient", "patient_id", "patientid", "donor", "donor_id", "case_id")
_FEWEST_STUDIES = 3
_MOST_GROUPS_LEFT_OUT_ONE_BY_ONE = 20
_PUBLISHED_FOLDS = 10
# With fewer deaths to learn from nothing is learnt.
_FEWEST_EVENTS_TO_FIT = 5
_OF_STRICT = ("group_columns", "folds", "covariates", "penalizer", "l1_ratio", "leaf", "horizon")
# Of the events, how many are before the time up to which weighted scores look; and at how many times they look.
_HORIZON_SHARE = 0.8
_TIMES = 60


class PrognosisSettings(Settings):
    """Survival of patients, predicted from pooled embeddings, raw expression and clinical covariates."""

    protocol: Literal["strict", "published"] = Field(
        "strict", description="published: dead or alive, PCA and random forest, 10-fold, follow-up ignored"
    )
    time: str | None = Field(
        None, description="column with the time of event or censoring; default: all that are known"
    )
    event: str | None = Field(None, description="column that is 1 where the time ended in the event, 0 where censored")
    unit: TimeUnit | None = Field(None, description="of the time, where neither its name nor survival_unit says it")
    split: Splits = Field("all", description="which profiles; pretraining has seen those of train, without labels")
    pooling: Pooling = Field("mean", description="of gene embeddings; all = max + mean + median")
    missing_labels: list[str] = Field([*MISSING_LABELS], description="values that stand for none, in any case")
    excluded: list[str] = Field(
        ["sample_type=*normal*"], description="profiles to leave out, COLUMN=PATTERN with * and ?, in any case"
    )
    group_columns: list[str] = Field(
        [], description="columns whose values are kept in one fold; default: study, or patient where there are 1 or 2"
    )
    folds: int | None = Field(
        None, ge=2, description="folds of whole groups; default: leave one group out, or 10 where there are over 20"
    )
    covariates: list[str] | None = Field(
        None, description="clinical columns; default: age, sex and stage, where there are any"
    )
    min_events: int = Field(20, ge=10, description="endpoints with fewer events are left out")
    max_profiles: int = Field(1000, ge=20, description="profiles to use of one endpoint, at the most")
    components: int = Field(30, ge=1, description="principal components of profiles given to the heads")
    penalizer: float = Field(0.1, ge=0, allow_inf_nan=False, description="penalty of Cox regression, per patient")
    l1_ratio: float = Field(0.0, ge=0, le=1, description="share of it that is on absolute values: 0 ridge, 1 lasso")
    trees: int = Field(300, ge=10, description="trees of the random forest")
    leaf: int = Field(10, ge=1, description="fewest patients in a leaf of the survival forest")
    horizon: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="time up to which Uno's C and Brier look; default: 80 % of events"
    )
    resamples: int = Field(1000, ge=100, description="groups left out in turn for the intervals, at the most")

    @model_validator(mode="after")
    def _check(self) -> PrognosisSettings:
        if (self.time is None) != (self.event is None):
            raise ValueError("prognosis.time and prognosis.event belong together: give both or neither")
        if self.time is None:
            refuse_without_effect(self, ("unit",), "without prognosis.time")
        if self.protocol == "published":
            refuse_without_effect(self, _OF_STRICT, "with prognosis.protocol published")
        for text in self.excluded:
            if "=" not in text:
                raise ValueError(f"prognosis.excluded: {text!r} is not COLUMN=PATTERN")
        return self


@dataclass(frozen=True)
class Patients:
    """N profiles with follow-up, in order of row id; ``time`` in ``unit``; ``groups`` and ``studies`` are str [N]."""

    endpoint: str
    row_ids: np.ndarray
    time: np.ndarray
    event: np.ndarray
    unit: str
    studies: np.ndarray
    groups: np.ndarray
    unit_of_groups: str
    covariates: Mapping[str, Sequence[str]]
    facts: Mapping[str, object]

    @property
    def events(self) -> int:
        return int(self.event.sum())


@register_task
class Prognosis(Task[PrognosisSettings]):
    """Every endpoint that the corpus knows, or the one whose columns are named."""

    name = "prognosis"
    settings_type = PrognosisSettings
    uses = ()

    def prepare(self) -> Needs:
        if importlib.util.find_spec("lifelines") is None:
            raise UserError("prognosis needs lifelines: pip install 'bulkformer-ray[evaluation]'")
        self._patients = self._chosen()
        self._folds = [make_folds(patients, self.settings, self.context.settings.seed) for patients in self._patients]
        row_ids = np.unique(np.concatenate([patients.row_ids for patients in self._patients]))
        return Needs(expression=row_ids, embeddings={self.settings.pooling: row_ids})

    def score(self) -> Sequence[TaskResult]:
        published = self.settings.protocol == "published"
        results = []
        for patients, folds in zip(self._patients, self._folds, strict=True):
            log(f"prognosis, {patients.endpoint}: {len(patients.row_ids):,} profiles, {patients.events:,} events")
            embeddings = self.context.embeddings(patients.row_ids, self.settings.pooling)
            raw = {_RAW: self.context.expression(patients.row_ids).astype(np.float32)}
            seed = self.context.settings.seed
            if published:
                results.append(score_alive_or_dead(patients, folds, embeddings, raw, self.settings, seed))
            else:
                search = self.context.search
                results.append(score_survival(patients, folds, embeddings, raw, self.settings, seed, search))
        return results

    def _chosen(self) -> list[Patients]:
        settings, where = self.settings, self.context.corpus.address
        samples = self.context.samples
        samples = samples.filter(pa.array(np.isin(samples.column("split").to_pylist(), splits_named(settings.split))))
        kept, excluded = _without_excluded(samples, settings)
        if settings.time is not None and settings.event is not None:
            columns = [EndpointColumns(settings.time, settings.time, settings.event, settings.unit)]
            follow_ups = [read_follow_up(kept, columns, settings.missing_labels)]
        else:
            follow_ups = endpoints_of(kept, settings.missing_labels)
        if not follow_ups:
            raise NotApplicableError(
                f"{where} has no follow-up of patients: name its columns by --prognosis.time and event"
            )
        chosen = [patients_of(kept, one, excluded, settings, self.context.settings.seed) for one in follow_ups]
        enough = [patients for patients in chosen if patients.events >= settings.min_events]
        for patients in chosen:
            if patients.events < settings.min_events:
                log(f"prognosis, {patients.endpoint}: {patients.events} events, too few ({dict(patients.facts)})")
        if not enough:
            least = settings.min_events
            most = max(patients.events for patients in chosen)
            raise NotApplicableError(f"{where} has no endpoint with {least} events to predict; the most are {most}")
        return enough


def score_survival(
    patients: Patients,
    folds: Folds,
    embeddings: Mapping[str, np.ndarray],
    raw: Mapping[str, np.ndarray],
    settings: PrognosisSettings,
    seed: int,
    search: Search,
) -> TaskResult:
    """All methods on the same folds; ``embeddings`` and ``raw`` are float32 N x F by name, rows as in ``patients``."""
    # lifelines and scikit-learn take seconds to import, and --help does without them
    from evaluation.inference.patient_features import Covariates
    from evaluation.methods.prognosis_methods import HeadSpaces, asked_forecast, methods_of
    from evaluation.methods.survival import Forecast
    from evaluation.scores.survival import METRICS, Censoring, Outcome, log_rank_p, survival_statistics

    outcome = Outcome(patients.time, patients.event, patients.studies)
    horizon = settings.horizon or float(np.quantile(patients.time[patients.event], _HORIZON_SHARE))
    times = np.linspace(0, horizon, _TIMES)
    censoring = Censoring.of(outcome, horizon)
    covariates = Covariates.of(patients.covariates)
    methods = methods_of(embeddings, raw, covariates, _spaces(settings, search, HeadSpaces), seed)
    statistics, p_values, curves = {}, [], []
    doing = f"prognosis, {patients.endpoint}"
    log(f"{doing}: fitting {len(folds.parts)} folds of {len(methods)} methods: {', '.join(methods)}")
    asked = [asked_forecast(f"{doing}: {name}", method, outcome, folds, times) for name, method in methods.items()]
    for name, found in zip(methods, search.predictions_of_all(asked), strict=True):
        predicted = Forecast.unpacked(found.predictions)
        statistics[name] = survival_statistics(outcome, predicted.risk, predicted.survival, times, censoring)
        p_values.append(Score(name, "log_rank_p", Interval(log_rank_p(outcome, predicted.high))))
        curves += _curves(outcome, name, predicted.high)
    baselines = [name for name, method in methods.items() if method.baseline]
    compared = compare_methods(
        statistics, METRICS, patients.groups, baselines, settings.resamples, seed, patients.unit_of_groups
    )
    facts = {
        **patients.facts,
        "covariates": covariates.names,
        "folds": folds.described,
        "concordance": "within studies; pooled_c_index: of all pairs, which also tells studies apart",
        "horizon": round(horizon, 1),
        **compared.facts,
    }
    by_study = _by_study(outcome, {name: of["c_index"] for name, of in statistics.items()})
    return TaskResult(
        Prognosis.name,
        patients.endpoint,
        [*compared.scores, *p_values],
        facts,
        baselines=baselines,
        judged_by="c_index",
        curves={"kaplan_meier": curves, "c_index_by_study": by_study},
        row_ids=patients.row_ids,
        rescore=compared.rescore,
    )


def score_alive_or_dead(
    patients: Patients,
    folds: Folds,
    embeddings: Mapping[str, np.ndarray],
    raw: Mapping[str, np.ndarray],
    settings: PrognosisSettings,
    seed: int,
) -> TaskResult:
    """The published protocol: whether the event was seen, however long the follow-up, on stratified folds."""
    # scikit-learn takes a second to import, and --help does without it
    from sklearn.metrics import average_precision_score, roc_auc_score

    from evaluation.methods.prognosis_methods import event_probability

    statistics: dict[str, dict[str, Statistic]] = {}
    for name, values in {**embeddings, **raw}.items():
        probability = event_probability(values, patients.event, folds, settings.components, settings.trees, seed)
        statistics[f"{name} -> random forest"] = {
            metric: _of_both_classes(score, patients.event, probability)
            for metric, score in (("auroc", roc_auc_score), ("auprc", average_precision_score))
        }
    baselines = [f"{name} -> random forest" for name in raw]
    each = np.arange(len(patients.event)).astype(str)
    metrics = [Metric("auroc", SHARE), Metric("auprc", SHARE)]
    compared = compare_methods(statistics, metrics, each, baselines, settings.resamples, seed, "profiles")
    facts = {
        **patients.facts,
        "folds": f"{folds.described.replace('groups', 'profiles')}; a patient or a study may be on both sides",
        "protocol": "published: event seen or not, whatever the follow-up",
        **compared.facts,
    }
    return TaskResult(
        Prognosis.name,
        f"{patients.endpoint}, event seen",
        compared.scores,
        facts,
        baselines=baselines,
        judged_by="auroc",
        row_ids=patients.row_ids,
        rescore=compared.rescore,
    )


def _of_both_classes(
    score: Callable[[np.ndarray, np.ndarray], float], event: np.ndarray, probability: np.ndarray
) -> Statistic:
    return lambda rows: float(score(event[rows], probability[rows])) if len(set(event[rows])) == 2 else float("nan")


def _spaces(settings: PrognosisSettings, search: Search, kind: type[HeadSpaces]) -> HeadSpaces:
    """What is searched, beginning with the settings."""
    components = _first(settings.components, (10, 30, 60))
    cox: Space = {
        "components": components,
        "penalizer": _first(settings.penalizer, (0.01, 0.03, 0.1, 0.3, 1.0)),
        "l1_ratio": _first(settings.l1_ratio, (0.0, 0.5)),
    }
    forest: Space = {"components": components, "leaf": _first(settings.leaf, (5, 10, 20))}
    return kind(cox=search.narrowed(cox), forest=search.narrowed(forest), trees=settings.trees)


def _first(fixed: T, others: Sequence[T]) -> list[T]:
    return [fixed, *(value for value in others if value != fixed)]


def _curves(outcome: Outcome, method: str, high: np.ndarray) -> list[dict[str, object]]:
    """Kaplan-Meier curves of both halves; of a method that makes no halves, of all together."""
    from evaluation.scores.survival import kaplan_meier_rows  # lifelines takes seconds to import

    if not high.any() or high.all():
        return kaplan_meier_rows(outcome, method=method, group="all")
    return [
        row
        for group, members in (("high risk", high), ("low risk", ~high))
        for row in kaplan_meier_rows(outcome.rows(np.flatnonzero(members)), method=method, group=group)
    ]


def _by_study(outcome: Outcome, c_index: Mapping[str, Statistic]) -> list[dict[str, object]]:
    """Studies down: profiles, events, the median time, and every method's concordance in it."""
    return [
        {
            "study": str(outcome.strata[rows[0]]),
            "profiles": len(rows),
            "events": int(outcome.event[rows].sum()),
            "median_time": float(np.median(outcome.time[rows])),
            **{method: score(rows) for method, score in c_index.items()},
        }
        for rows in outcome.members()
    ]


def patients_of(
    samples: pa.Table, follow_up: FollowUp, excluded: int, settings: PrognosisSettings, seed: int
) -> Patients:
    """At most ``max_profiles`` profiles with follow-up, drawn at random, with their groups and covariates."""
    chosen = follow_up.positions
    drawn = np.arange(len(chosen))
    if len(drawn) > settings.max_profiles:
        drawn = np.sort(np.random.default_rng(seed).choice(drawn, settings.max_profiles, replace=False))
    rows = samples.take(pa.array(chosen[drawn]))
    studies = np.array(rows.column("study_id").to_pylist(), dtype=str)
    columns = _group_columns(rows, studies, settings)
    texts = {name: np.array(column_texts(rows, name, settings.missing_labels), dtype=str) for name in columns}
    covariates = {
        name: column_texts(rows, name, settings.missing_labels) for name in _covariate_columns(rows, settings)
    }
    groups = joined_groups(texts) if texts else np.array(rows.column("sample_id").to_pylist(), dtype=str)
    time, event = follow_up.time[drawn], follow_up.event[drawn]
    facts: dict[str, object] = {
        "columns": follow_up.columns,
        "profiles": len(drawn),
        "events": int(event.sum()),
        "studies": len(set(studies)),
        "unit": follow_up.unit,
        "left_out": {**follow_up.left_out, **({"excluded": excluded} if excluded else {})},
        "groups": f"{len(set(groups))} by {' and '.join(columns) or 'profile'}",
    }
    patient = next((name for name in _PATIENT_COLUMNS if any(_filled(rows, name, settings))), None)
    if patient is not None:
        several = Counter(zip(studies, column_texts(rows, patient, settings.missing_labels), strict=True))
        facts["patients_with_several_profiles"] = sum(n > 1 for (_, name), n in several.items() if name)
    return Patients(
        endpoint=follow_up.endpoint,
        row_ids=rows.column("row_id").to_numpy(),
        time=time,
        event=event,
        unit=follow_up.unit,
        studies=studies,
        groups=groups,
        unit_of_groups={("study_id",): "studies", (): "profiles"}.get(tuple(columns), "groups"),
        covariates=covariates,
        facts=facts,
    )


def make_folds(patients: Patients, settings: PrognosisSettings, seed: int) -> Folds:
    """Folds of whole groups, or those of the published protocol. Raises UserError where one has nothing to learn."""
    if settings.protocol == "published":
        each = np.array([f"{row:012d}" for row in patients.row_ids])
        return group_folds(each, _PUBLISHED_FOLDS, seed, patients.event.astype(int))
    wanted = settings.folds
    if wanted is None and len(set(patients.groups)) > _MOST_GROUPS_LEFT_OUT_ONE_BY_ONE:
        wanted = 10
    folds = group_folds(patients.groups, wanted, seed, patients.event.astype(int))
    for train, test in folds.parts:
        if patients.event[train].sum() < _FEWEST_EVENTS_TO_FIT:
            raise UserError(
                f"prognosis, {patients.endpoint}: without {patients.groups[test][0]} there are "
                f"{int(patients.event[train].sum())} events to learn from, {_FEWEST_EVENTS_TO_FIT} are needed: "
                "give other --prognosis.group-columns or more folds"
            )
    return folds


def _without_excluded(samples: pa.Table, settings: PrognosisSettings) -> tuple[pa.Table, int]:
    """The table without the rows that ``excluded`` names, and how many they are."""
    out = np.zeros(samples.num_rows, dtype=bool)
    for text in settings.excluded:
        column, pattern = text.split("=", 1)
        if column in samples.column_names:
            values = column_texts(samples, column, ())
            out |= np.array([fnmatch.fnmatchcase(value.casefold(), pattern.casefold()) for value in values], dtype=bool)
        elif "excluded" in settings.model_fields_set:
            raise UserError(f"prognosis.excluded: samples.parquet has no column {column!r}")
    return samples.filter(pa.array(~out)), int(out.sum())


def _group_columns(rows: pa.Table, studies: np.ndarray, settings: PrognosisSettings) -> list[str]:
    """Those named; else studies, if there are enough of them; else patients, if they are named."""
    if settings.group_columns:
        _require_columns(rows, settings.group_columns, "group_columns")
        return list(settings.group_columns)
    if len(set(studies)) >= _FEWEST_STUDIES:
        return ["study_id"]
    return [name for name in _PATIENT_COLUMNS if any(_filled(rows, name, settings))]


def _covariate_columns(rows: pa.Table, settings: PrognosisSettings) -> list[str]:
    if settings.covariates is not None:
        _require_columns(rows, settings.covariates, "covariates")
        return list(settings.covariates)
    found = [next((name for name in names if any(_filled(rows, name, settings))), None) for names in _KNOWN_COVARIATES]
    return [name for name in found if name is not None]


def _require_columns(rows: pa.Table, names: Sequence[str], setting: str) -> None:
    for name in names:
        if name not in rows.column_names:
            raise UserError(f"prognosis.{setting}: no column {name!r}; there are {', '.join(rows.column_names)}")


def _filled(rows: pa.Table, name: str, settings: PrognosisSettings) -> list[str]:
    return column_texts(rows, name, settings.missing_labels) if name in rows.column_names else []
