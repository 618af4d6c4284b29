"""Classification: predict a label of profiles from their pooled embeddings, and from raw expression.

Both go through the same steps, see :mod:`evaluation.methods.classifiers`, in the same folds, which keep studies (or
other groups) whole; predictions of all folds are scored together. N samples, F features, C classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from dataprep.corpus.subjects import subjects_of
from dataprep.runtime.command_line import Settings, UserError, refuse_without_effect
from dataprep.runtime.terminal import log
from dataprep.sources.source import MISSING_LABELS
from evaluation.config import Splits
from evaluation.inference.labels import LabelledProfiles, LabelRules, named_label, usable_labels
from evaluation.inference.profiles import splits_named
from evaluation.methods.label_folds import Grouping, KeptWhole, KnownGroups, described_folds, kept_whole, label_folds
from evaluation.scores.comparison import compare_methods
from evaluation.scores.folds import Folds, group_folds
from evaluation.scores.results import TaskResult
from evaluation.search.nested import Asked, Choice, FixedSettings, OutOfFold, Search, Space, nested_predictions
from evaluation.tasks.registry import register_task
from evaluation.tasks.task import Needs, NotApplicableError, Task
from pretrain.config import Pooling

if TYPE_CHECKING:
    from evaluation.inference.features import Features
    from evaluation.methods.classifiers import Forest

RAW = "raw expression"
CHANCE = "class frequencies"
_JUDGED_BY = "weighted_f1"
# Groups left out in turn for intervals, at the most: more say nearly the same, and each takes all scores again.
_MOST_LEFT_OUT = 50
# Ungrouped folds only show what grouped ones withhold, which a few show as well.
_MOST_UNGROUPED_FOLDS = 5


class ClassificationSettings(Settings):
    """Labels predicted from pooled embeddings, and from raw expression, through PCA."""

    split: Splits = Field("all", description="which profiles; pretraining has seen those of train, without labels")
    pooling: Pooling = Field("mean", description="of gene embeddings; all = max + mean + median")
    poolings: list[Pooling] = Field(
        ["mean", "max", "median", "all"], min_length=1, description="what a search chooses from beside pooling"
    )
    missing_labels: list[str] = Field(
        [*MISSING_LABELS], description="values that stand for a missing label, in any case"
    )
    min_class_samples: int = Field(10, ge=2, description="classes with fewer samples are left out")
    max_labels: int = Field(4, ge=1, description="labels to classify where none is named, those with most samples")
    max_profiles: int = Field(2000, ge=20, description="labelled profiles of one label to use, at the most")
    protocol: Literal["strict", "published"] = Field(
        "strict", description="published: the authors' forests, in folds of samples unless group_columns are named"
    )
    folds: int = Field(10, ge=2, description="folds, or as many as there are groups")
    repeats: int = Field(1, ge=1, description="times that folds are drawn; scores are the mean")
    leave_one_group_out: bool = Field(False, description="each group left out once, instead of folds")
    group_columns: list[str] = Field(
        [],
        description="columns of samples.parquet; samples that share a value of any are in one fold; default: study_id",
    )
    grouping: Grouping = Field(
        "auto", description="keep groups in one fold; auto: where every class comes from several, else patients"
    )
    heads: list[Literal["random forest", "logistic regression", "nearest samples", "support vectors"]] = Field(
        ["random forest", "logistic regression", "nearest samples", "support vectors"],
        min_length=1,
        description="classifiers that a search chooses from; the first is used without one",
    )
    components: int = Field(50, ge=1, description="principal components given to the classifiers")
    trees: int = Field(300, ge=1, description="trees of the random forest")
    learning_curve: list[float] = Field(
        [], description="shares of the labelled training samples to learn from, as in 0.1,0.3,1, each scored for itself"
    )

    @model_validator(mode="after")
    def _check(self) -> ClassificationSettings:
        if self.protocol == "published":
            refuse_without_effect(
                self, ("grouping", "heads", "trees", "poolings"), "with classification.protocol published"
            )
        if self.leave_one_group_out:
            refuse_without_effect(self, ("folds", "repeats"), "with classification.leave_one_group_out")
            if self.grouping == "none":
                raise ValueError("classification.leave_one_group_out needs groups: give no grouping none")
            if self.protocol == "published" and not self.group_columns:
                raise ValueError("classification.leave_one_group_out with protocol published needs group_columns")
        if self.grouping == "none":
            refuse_without_effect(self, ("group_columns",), "with classification.grouping none")
        for share in self.learning_curve:
            if not 0 < share <= 1:
                raise ValueError(f"classification.learning_curve: {share:g} is not a share above 0 and up to 1")
        return self

    @property
    def kept(self) -> Grouping:
        """How groups are kept, also where the protocol or single left-out groups decide it."""
        if self.protocol == "published":
            return "groups" if self.group_columns else "none"
        return "groups" if self.leave_one_group_out else self.grouping


@register_task
class Classification(Task[ClassificationSettings]):
    """Every label that can be, or the one named by ``--label``."""

    name = "classification"
    settings_type = ClassificationSettings
    uses = ("label",)

    def prepare(self) -> Needs:
        settings = self.settings
        self._rules = LabelRules(
            settings.min_class_samples,
            settings.max_profiles,
            tuple(settings.missing_labels),
            self.context.settings.seed,
        )
        self._labels = self._chosen_labels()
        self._known = [self._known_groups(labelled) for labelled in self._labels]
        for labelled, known in zip(self._labels, self._known, strict=True):
            # before anything slow, so that groups that cannot be kept whole are known at once
            kept = kept_whole(labelled, known, settings.kept)
            label_folds(labelled, kept, _wanted(settings), 1, self.context.settings.seed)
        row_ids = np.unique(np.concatenate([labelled.row_ids for labelled in self._labels]))
        return Needs(expression=row_ids, embeddings=dict.fromkeys(self._poolings, row_ids))

    def score(self) -> Sequence[TaskResult]:
        # scikit-learn takes a second to import, and --help does without it
        from evaluation.inference.features import Features

        results = []
        for labelled, known in zip(self._labels, self._known, strict=True):
            log(f"classifying {labelled.label}: {len(labelled.row_ids):,} samples, {len(labelled.classes)} classes")
            features = self._embeddings(labelled.row_ids)
            features[RAW] = Features.of(self.context.expression(labelled.row_ids).astype(np.float32))
            seed, search = self.context.settings.seed, self.context.search
            results.append(evaluate_classification(labelled, known, features, self.settings, seed, search))
        return results

    @property
    def _poolings(self) -> list[Pooling]:
        """What embeddings are made of: the one of the settings, and where something is searched the others."""
        others = self.settings.poolings if self.context.settings.search.trials else []
        return list(dict.fromkeys([self.settings.pooling, *(others if self.settings.protocol == "strict" else [])]))

    def _embeddings(self, row_ids: np.ndarray) -> dict[str, Features]:
        """Of every model and from elsewhere, by name: that of the pooling, where there is one only."""
        from evaluation.inference.features import Features

        poolings = self._poolings
        if len(poolings) == 1:
            found = self.context.embeddings(row_ids, poolings[0])
            return {name: Features.of(values) for name, values in found.items()}
        by_pooling = self.context.embeddings_by_pooling(row_ids, poolings)
        return {name: Features(values) for name, values in by_pooling.items()}

    def _chosen_labels(self) -> list[LabelledProfiles]:
        context, settings = self.context, self.settings
        where = context.corpus.address
        samples = context.samples
        samples = samples.filter(np.isin(samples.column("split").to_pylist(), splits_named(settings.split)))
        if context.settings.label is not None:
            refuse_without_effect(settings, ("max_labels",), "where a label is named")
            return [named_label(samples, where, context.settings.label, self._rules)]
        labels = usable_labels(samples, self._rules, settings.max_labels)
        if not labels:
            least = settings.min_class_samples
            raise NotApplicableError(f"{where} has no label with two classes of {least} samples to classify")
        return labels

    def _known_groups(self, labelled: LabelledProfiles) -> KnownGroups:
        samples = self.context.samples
        names = self.settings.group_columns or ["study_id"]
        absent = [name for name in names if name not in samples.column_names]
        if absent:
            raise UserError(
                f"classification.group_columns: {self.context.corpus.address} has no column {absent[0]!r}; "
                f"it has {', '.join(samples.column_names)}"
            )
        rows = samples.take(pa.array(np.searchsorted(samples.column("row_id").to_numpy(), labelled.row_ids)))
        columns = {name: self._group_values(rows, name) for name in names}
        return KnownGroups(columns, np.array([name or "" for name in subjects_of(rows)], dtype=str))

    def _group_values(self, rows: pa.Table, name: str) -> np.ndarray:
        values = ["" if value is None else str(value) for value in rows.column(name).to_pylist()]
        return np.array(["" if self._rules.is_missing(value) else value for value in values], dtype=str)


def evaluate_classification(
    labelled: LabelledProfiles,
    known: KnownGroups,
    features: Mapping[str, Features],
    settings: ClassificationSettings,
    seed: int,
    search: Search | None = None,
) -> TaskResult:
    """Cross-validate heads on each set of features (rows as in ``labelled``).

    Without a ``search``, each with its fixed settings.
    """
    # scikit-learn takes a second to import, and --help does without it
    from evaluation.scores.classification_scores import curves_of, metrics_of, statistics_of

    kept = kept_whole(labelled, known, settings.kept)
    repeats = label_folds(labelled, kept, _wanted(settings), settings.repeats, seed)
    search = search or FixedSettings()
    methods = _methods(labelled, features, settings, seed, search)
    asked = [
        method.asked(f"{labelled.label}: {method.name}{f', repeat {number + 1}' * bool(number)}", folds)
        for method in methods
        for number, folds in enumerate(repeats)
    ]
    found = iter(search.predictions_of_all(asked))
    outcomes = {method.name: [next(found) for _ in repeats] for method in methods}
    probabilities = {name: [outcome.predictions for outcome in of] for name, of in outcomes.items()}
    frequencies = np.bincount(labelled.class_of) / len(labelled.class_of)
    probabilities[CHANCE] = [np.tile(frequencies, (len(labelled.class_of), 1))]
    baselines = [*(method.name for method in methods if method.raw), CHANCE]
    statistics = {name: statistics_of(labelled.class_of, found) for name, found in probabilities.items()}
    metrics = metrics_of(len(labelled.classes))
    comparison = compare_methods(statistics, metrics, kept.groups, baselines, _MOST_LEFT_OUT, seed, kept.unit)
    facts = {
        **_facts(labelled, settings),
        "folds": described_folds(labelled, kept, repeats),
        **comparison.facts,
        "chosen": {name: _said_of_choices(found) for name, found in outcomes.items()},
    }
    if kept.by_columns:
        facts["weighted_f1_if_folds_shared_groups"] = _ungrouped(labelled, methods, outcomes, settings, seed)
    first = {name: found[0] for name, found in probabilities.items()}
    curves = curves_of(labelled.classes, labelled.class_of, first)
    if settings.learning_curve:
        curves["learning_curve"] = _learning_curve(labelled, kept, repeats[0], methods, outcomes, settings, seed)
    return TaskResult(
        Classification.name,
        labelled.label,
        comparison.scores,
        facts,
        baselines=baselines,
        judged_by=_JUDGED_BY,
        curves=curves,
        row_ids=labelled.row_ids,
        rescore=comparison.rescore,
    )


@dataclass(frozen=True)
class _Method:
    """Heads on one set of features; ``raw``: those that need no model."""

    name: str
    raw: bool
    features: Features
    class_of: np.ndarray
    space: Space
    forest: Forest

    def asked(self, subject: str, folds: Folds) -> Asked:
        """For probabilities N x C, with the choice whose Brier score of left-out training samples is the smallest."""
        from evaluation.methods.classifiers import class_probabilities, closeness

        fit_predict = class_probabilities(self.features, self.class_of, self.forest, self.space)
        return Asked(subject, folds, self.space, fit_predict, closeness(self.class_of))

    def predicted(self, folds: Folds, choice: Choice) -> OutOfFold:
        """Probabilities N x C, with one choice."""
        from evaluation.methods.classifiers import class_probabilities

        space = {name: [value] for name, value in choice.items()}
        return nested_predictions(folds, space, class_probabilities(self.features, self.class_of, self.forest, space))


def _methods(
    labelled: LabelledProfiles,
    features: Mapping[str, Features],
    settings: ClassificationSettings,
    seed: int,
    search: Search,
) -> list[_Method]:
    from evaluation.methods.classifiers import PUBLISHED_FOREST, Forest, head_space, published_space

    if settings.protocol == "published":
        forest = PUBLISHED_FOREST
        published = {
            " -> PCA -> random forest": published_space(settings.components),
            " -> random forest": published_space(None),
        }
        return [
            _Method(source + suffix, source == RAW, of_source, labelled.class_of, space, forest)
            for source, of_source in features.items()
            for suffix, space in published.items()
        ]
    forest = Forest(settings.trees, None, seed)
    return [
        _Method(
            source,
            source == RAW,
            of_source,
            labelled.class_of,
            search.narrowed(head_space(settings.heads, settings.components, list(of_source.by_pooling))),
            forest,
        )
        for source, of_source in features.items()
    ]


def _wanted(settings: ClassificationSettings) -> int | None:
    return None if settings.leave_one_group_out else settings.folds


def _facts(labelled: LabelledProfiles, settings: ClassificationSettings) -> dict[str, object]:
    sizes = Counter(labelled.classes[number] for number in labelled.class_of)
    facts: dict[str, object] = {
        "samples": len(labelled.row_ids),
        "classes": dict(sizes.most_common()),
        "studies": len(set(labelled.studies)),
        "protocol": settings.protocol,
    }
    if len(labelled.classes) == 2:
        facts["positive"] = labelled.classes[1]
    return facts


def _said_of_choices(outcomes: Sequence[OutOfFold]) -> str:
    """How often each was chosen."""
    from evaluation.methods.classifiers import described_choice

    times = Counter(described_choice(choice) for outcome in outcomes for choice in outcome.choices)
    return "; ".join(said if len(times) == 1 else f"{said} in {count} folds" for said, count in times.most_common())


def _most_chosen(outcomes: Sequence[OutOfFold]) -> Choice:
    choices = [choice for outcome in outcomes for choice in outcome.choices]
    return max(choices, key=choices.count)


def _ungrouped(
    labelled: LabelledProfiles,
    methods: Sequence[_Method],
    outcomes: Mapping[str, Sequence[OutOfFold]],
    settings: ClassificationSettings,
    seed: int,
) -> dict[str, float]:
    """The score that decides, by method, with samples of a group in several folds: what keeping them whole withholds.

    With the settings that were chosen most often.
    """
    from evaluation.scores.classification_scores import statistics_of

    samples = np.arange(len(labelled.class_of))
    folds = group_folds(samples.astype(str), min(settings.folds, _MOST_UNGROUPED_FOLDS), seed, labelled.class_of)
    scores = {}
    for method in methods:
        predicted = method.predicted(folds, _most_chosen(outcomes[method.name])).predictions
        scores[method.name] = round(statistics_of(labelled.class_of, [predicted])[_JUDGED_BY](samples), 4)
    return scores


def _learning_curve(
    labelled: LabelledProfiles,
    kept: KeptWhole,
    folds: Folds,
    methods: Sequence[_Method],
    outcomes: Mapping[str, Sequence[OutOfFold]],
    settings: ClassificationSettings,
    seed: int,
) -> list[dict[str, object]]:
    """The score that decides, of heads that learn from a share of each training part; the test parts stay whole."""
    from evaluation.scores.classification_scores import metrics_of, statistics_of

    (metric,) = [metric for metric in metrics_of(len(labelled.classes)) if metric.name == _JUDGED_BY]
    rows: list[dict[str, object]] = []
    for share in sorted(settings.learning_curve):
        parts = [
            (_share_of_each_class(train, labelled.class_of, share, seed + number), test)
            for number, (train, test) in enumerate(folds.parts)
        ]
        smaller = Folds(folds.rows, parts, folds.groups, folds.described)
        statistics = {}
        for method in methods:
            predicted = method.predicted(smaller, _most_chosen(outcomes[method.name])).predictions
            statistics[method.name] = statistics_of(labelled.class_of, [predicted])
        scores = compare_methods(statistics, [metric], kept.groups, [], _MOST_LEFT_OUT, seed, kept.unit).scores
        learned_from = float(np.mean([len(train) for train, _ in parts]))
        rows += [
            {
                "method": score.method,
                "share": share,
                "training_samples": learned_from,
                _JUDGED_BY: score.interval.value,
                f"{_JUDGED_BY}_low": score.interval.low,
                f"{_JUDGED_BY}_high": score.interval.high,
            }
            for score in scores
        ]
    return rows


def _share_of_each_class(train: np.ndarray, class_of: np.ndarray, share: float, seed: int) -> np.ndarray:
    """That many training rows of each class, drawn at random, one at least; ascending."""
    generator = np.random.default_rng(seed)
    drawn = [
        generator.choice(rows, max(1, round(share * len(rows))), replace=False)
        for rows in (train[class_of[train] == number] for number in np.unique(class_of[train]))
    ]
    return np.sort(np.concatenate(drawn))
