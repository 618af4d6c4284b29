"""Classification: predict a label of profiles from their pooled embeddings, and from raw expression.

Both go through the same steps, see :mod:`evaluation.methods.classifiers`. N samples, F features.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from dataprep.runtime.command_line import Settings, refuse_without_effect
from dataprep.runtime.terminal import log
from dataprep.sources.source import MISSING_LABELS
from evaluation.config import Splits
from evaluation.inference.labels import LabelledProfiles, LabelRules, named_label, usable_labels
from evaluation.inference.profiles import splits_named
from evaluation.scores.intervals import fold_interval
from evaluation.scores.results import Score, TaskResult
from evaluation.tasks.registry import register_task
from evaluation.tasks.task import Needs, NotApplicableError, Task
from pretrain.config import Pooling

_RAW = "raw expression"


class ClassificationSettings(Settings):
    """Labels predicted from pooled embeddings, and from raw expression, through PCA."""

    split: Splits = Field("all", description="which profiles; pretraining has seen those of train, without labels")
    pooling: Pooling = Field("mean", description="of gene embeddings; all = max + mean + median")
    missing_labels: list[str] = Field(
        [*MISSING_LABELS], description="values that stand for a missing label, in any case"
    )
    min_class_samples: int = Field(10, ge=2, description="classes with fewer samples are left out")
    max_labels: int = Field(4, ge=1, description="labels to classify where none is named, those with most samples")
    max_profiles: int = Field(2000, ge=20, description="labelled profiles of one label to use, at the most")
    folds: int = Field(10, ge=2, description="folds, or as many as the smallest class allows")
    grouping: Literal["auto", "study", "none"] = Field(
        "auto", description="keep each study in one fold; auto: where every class comes from several studies"
    )
    components: int = Field(50, ge=1, description="principal components given to the classifiers")
    trees: int = Field(300, ge=1, description="trees of the random forest")


@register_task
class Classification(Task[ClassificationSettings]):
    """Every label that can be, or the one named by ``--label``."""

    name = "classification"
    settings_type = ClassificationSettings
    uses = ("label",)

    def prepare(self) -> Needs:
        self._labels = self._chosen_labels()
        row_ids = np.unique(np.concatenate([labelled.row_ids for labelled in self._labels]))
        return Needs(expression=row_ids, embeddings={self.settings.pooling: row_ids})

    def score(self) -> Sequence[TaskResult]:
        results = []
        for labelled in self._labels:
            log(f"classifying {labelled.label}: {len(labelled.row_ids):,} samples, {len(labelled.classes)} classes")
            features = {
                **self.context.embeddings(labelled.row_ids, self.settings.pooling),
                _RAW: self.context.expression(labelled.row_ids).astype(np.float32),
            }
            results.append(evaluate_classification(labelled, features, self.settings, self.context.settings.seed))
        return results

    def _chosen_labels(self) -> list[LabelledProfiles]:
        context, settings = self.context, self.settings
        where = context.corpus.folder.uri
        samples = context.samples
        samples = samples.filter(np.isin(samples.column("split").to_pylist(), splits_named(settings.split)))
        rules = LabelRules(
            settings.min_class_samples, settings.max_profiles, tuple(settings.missing_labels), context.settings.seed
        )
        if context.settings.label is not None:
            refuse_without_effect(settings, ("max_labels",), "where a label is named")
            return [named_label(samples, where, context.settings.label, rules)]
        labels = usable_labels(samples, rules, settings.max_labels)
        if not labels:
            least = settings.min_class_samples
            raise NotApplicableError(f"{where} has no label with two classes of {least} samples to classify")
        return labels


def evaluate_classification(
    labelled: LabelledProfiles,
    features: Mapping[str, np.ndarray],
    settings: ClassificationSettings,
    seed: int,
) -> TaskResult:
    """Cross-validate both classifiers on each set of features (float [N, F], rows as in ``labelled``)."""
    # scikit-learn takes a second to import, and --help does without it
    from evaluation.methods.classifiers import cross_validate, make_folds

    folds = make_folds(labelled, settings.folds, settings.grouping, seed)
    scores, baselines = [], []
    for source, values in features.items():
        for name, per_fold in cross_validate(
            labelled, values, folds, settings.components, settings.trees, seed
        ).items():
            method = f"{source} -> {name}"
            baselines += [method] if source == _RAW else []
            scores += [
                Score(method, metric, fold_interval([fold[metric] for fold in per_fold], folds.test_share))
                for metric in per_fold[0]
            ]
    sizes = Counter(labelled.classes[number] for number in labelled.class_of)
    facts: dict[str, object] = {
        "samples": len(labelled.row_ids),
        "classes": dict(sizes.most_common()),
        "studies": len(set(labelled.studies)),
        "folds": folds.described,
        "intervals": (
            f"mean over folds and 95 % corrected resampled t interval with {len(folds.parts) - 1} degrees of freedom; "
            f"{'approximate' if folds.by_study else 'approximate, and not about studies that are not in the folds'}"
        ),
    }
    if len(labelled.classes) == 2:
        facts["positive"] = labelled.classes[1]
    return TaskResult(Classification.name, labelled.label, scores, facts, baselines=baselines)
