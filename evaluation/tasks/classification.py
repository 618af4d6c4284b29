"""Classification: predict a label of profiles from their pooled embeddings, and from raw expression.

Both go through the same steps, all fitted inside the training folds only: missing values to their column's mean,
columns scaled to unit variance, PCA, components scaled, then a random forest (the published protocol) or logistic
regression. N samples, F features.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from sklearn.base import ClassifierMixin
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from dataprep.corpus import Corpus
from dataprep.runtime.command_line import UserError
from dataprep.runtime.terminal import log, tracked
from evaluation.config import ClassificationSettings
from evaluation.inference.profiles import corpus_stream, splits_named
from evaluation.scores.metrics import classification_scores, fold_interval
from evaluation.scores.results import Score, TaskResult

# Columns of samples.parquet that are not labels; `study` is what metadata tables call the study.
_OWN_COLUMNS = ("sample_id", "study_id", "study", "split", "row_id", "source")
_LEAST_CLASSES = 2
# A column of which most values are rare is a name or a measurement, not a class.
_LEAST_SHARE_IN_CLASSES = 0.5


@dataclass(frozen=True)
class LabelledProfiles:
    """N profiles with a class each, in order of row id.

    ``classes``: names; ``class_of``: int [N]; ``studies``: str [N]. Of two classes the rarer one is the second, which
    AUROC and AUPRC take as positive.
    """

    label: str
    row_ids: np.ndarray
    classes: tuple[str, ...]
    class_of: np.ndarray
    studies: np.ndarray


@dataclass(frozen=True)
class Folds:
    """Train and test positions of each fold, and whether studies stay whole."""

    parts: list[tuple[np.ndarray, np.ndarray]]
    by_study: bool

    @property
    def described(self) -> str:
        kind = "grouped by study" if self.by_study else "stratified; folds share studies, so batch effects can help"
        return f"{len(self.parts)} folds, {kind}"


def usable_labels(corpus: Corpus, settings: ClassificationSettings, seed: int) -> list[LabelledProfiles]:
    """Label columns worth classifying, those with most samples first, at most ``max_labels``.

    Such a column has at least two classes of enough samples, which together hold most of its samples.
    """
    samples = _samples(corpus, settings)
    found = []
    for column in _label_columns(samples):
        labelled = _labelled(samples, column, settings, seed)
        sizes = _class_sizes(samples, column)
        kept = sum(sizes[name] for name in labelled.classes)
        if len(labelled.classes) >= _LEAST_CLASSES and kept >= _LEAST_SHARE_IN_CLASSES * sizes.total():
            found.append(labelled)
    found.sort(key=lambda labelled: -len(labelled.row_ids))
    if len(found) > settings.max_labels:
        rest = ", ".join(labelled.label for labelled in found[settings.max_labels :])
        log(f"classifying the {settings.max_labels} labels with most samples; left out: {rest}")
    return found[: settings.max_labels]


def named_label(corpus: Corpus, column: str, settings: ClassificationSettings, seed: int) -> LabelledProfiles:
    """The label the user asked for. Raises UserError where there is no such column or too few samples."""
    samples = _samples(corpus, settings)
    columns = _label_columns(samples)
    if column not in columns:
        raise UserError(f"{corpus.folder.uri} has no label {column!r}; it has {', '.join(columns) or 'none'}")
    labelled = _labelled(samples, column, settings, seed)
    if len(labelled.classes) < _LEAST_CLASSES:
        sizes = ", ".join(f"{name} {size}" for name, size in _class_sizes(samples, column).most_common(5))
        raise UserError(
            f"label {column!r}: {len(labelled.classes)} classes have {settings.min_class_samples} samples or more, "
            f"2 are needed; the largest: {sizes or 'none'}"
        )
    return labelled


def evaluate_classification(
    labelled: LabelledProfiles,
    features: Mapping[str, np.ndarray],
    settings: ClassificationSettings,
    seed: int,
) -> TaskResult:
    """Cross-validate both classifiers on each set of features (float [N, F], rows as in ``labelled``)."""
    folds = make_folds(labelled, settings, seed)
    scores = []
    for source, values in features.items():
        for name, per_fold in cross_validate(labelled, values, folds, settings, seed).items():
            metrics = per_fold[0].keys()
            scores += [
                Score(f"{source} -> {name}", metric, fold_interval([fold[metric] for fold in per_fold]))
                for metric in metrics
            ]
    sizes = Counter(labelled.classes[number] for number in labelled.class_of)
    facts: dict[str, object] = {
        "samples": len(labelled.row_ids),
        "classes": dict(sizes.most_common()),
        "studies": len(set(labelled.studies)),
        "folds": folds.described,
        "intervals": "mean and 95 % t interval over folds",
    }
    if len(labelled.classes) == 2:
        facts["positive"] = labelled.classes[1]
    return TaskResult("classification", labelled.label, scores, facts)


def cross_validate(
    labelled: LabelledProfiles, values: np.ndarray, folds: Folds, settings: ClassificationSettings, seed: int
) -> dict[str, list[dict[str, float]]]:
    """Scores of every fold by classifier. PCA is fitted once per fold, for both classifiers."""
    scores: dict[str, list[dict[str, float]]] = {name: [] for name in _classifiers(settings, seed)}
    for train, test in folds.parts:
        reduction = _reduction(min(settings.components, len(train) - 1, values.shape[1]), seed)
        reduced_train = reduction.fit_transform(values[train])
        reduced_test = reduction.transform(values[test])
        for name, classifier in _classifiers(settings, seed).items():
            classifier.fit(reduced_train, labelled.class_of[train])
            probability = _all_classes(classifier, reduced_test, len(labelled.classes))
            predicted = probability.argmax(axis=1)
            scores[name].append(classification_scores(labelled.class_of[test], predicted, probability))
    return scores


def make_folds(labelled: LabelledProfiles, settings: ClassificationSettings, seed: int) -> Folds:
    """Stratified folds: as many as asked for, as the smallest class allows or, by study, as its studies allow.

    Within one study a batch effect can tell classes apart, so studies stay whole where every class comes from at
    least two. Raises UserError where that is asked for and cannot be.
    """
    studies_of_class = [len(set(labelled.studies[labelled.class_of == c])) for c in range(len(labelled.classes))]
    if settings.grouping == "study" and min(studies_of_class) < 2:
        lone = [labelled.classes[c] for c, studies in enumerate(studies_of_class) if studies < 2]
        raise UserError(
            f"label {labelled.label!r} cannot be split by study: {len(lone)} classes are of one study, e.g. {lone[0]}"
        )
    by_study = settings.grouping != "none" and min(studies_of_class) >= 2
    limit = min(studies_of_class) if by_study else int(np.bincount(labelled.class_of).min())
    kind = StratifiedGroupKFold if by_study else StratifiedKFold
    splitter = kind(min(settings.folds, limit), shuffle=True, random_state=seed)
    groups = labelled.studies if by_study else None
    parts = list(splitter.split(np.zeros(len(labelled.class_of)), labelled.class_of, groups))
    # a fold may leave no example of a class to learn from, or nothing to test on: it can say nothing
    classes = len(labelled.classes)
    usable = [(a, b) for a, b in parts if len(b) and len(np.unique(labelled.class_of[a])) == classes]
    if not usable:
        raise UserError(
            f"label {labelled.label!r}: no fold by study holds every class; use --classification.grouping none"
        )
    return Folds(usable, by_study)


def read_expression(corpus: Corpus, labelled: LabelledProfiles) -> np.ndarray:
    """Raw log1p(TPM) of the labelled profiles, float32 N x G, NaN where not measured."""
    stream = corpus_stream(corpus, splits_named("all"), labelled.row_ids)
    return np.concatenate([part.astype(np.float32) for part in stream.parts()])


def embed_labelled(
    corpus: Corpus, row_ids: np.ndarray, embed: Callable[[np.ndarray], np.ndarray], batch_size: int
) -> np.ndarray:
    """Pooled embeddings of profiles, float32 N x (D+3), in order of row id."""
    stream = corpus_stream(corpus, splits_named("all"), row_ids)
    batches = ((size, batch) for size, batch in stream.batches(batch_size))
    return np.concatenate([embed(batch) for batch in tracked(batches, len(stream.sample_ids), "embedding")])


def _samples(corpus: Corpus, settings: ClassificationSettings) -> pa.Table:
    samples = corpus.samples()
    return samples.filter(pa.array(np.isin(samples.column("split").to_pylist(), splits_named(settings.split))))


def _label_columns(samples: pa.Table) -> list[str]:
    return [
        name for name in samples.column_names if name not in _OWN_COLUMNS and pa.types.is_string(samples[name].type)
    ]


def _class_sizes(samples: pa.Table, column: str) -> Counter[str]:
    return Counter(value for value in samples.column(column).to_pylist() if value not in (None, ""))


def _labelled(samples: pa.Table, column: str, settings: ClassificationSettings, seed: int) -> LabelledProfiles:
    """At most ``max_profiles`` labelled samples, drawn at random, of the classes that are then large enough."""
    values = np.array([value or "" for value in samples.column(column).to_pylist()], dtype=str)
    drawn = np.flatnonzero(values != "")
    if len(drawn) > settings.max_profiles:
        drawn = np.sort(np.random.default_rng(seed).choice(drawn, settings.max_profiles, replace=False))
    sizes = Counter(values[drawn].tolist())
    # most frequent first, ties by name: of two classes the second is the rarer one
    ordered = sorted(sizes, key=lambda name: (-sizes[name], name))
    classes = tuple(name for name in ordered if sizes[name] >= settings.min_class_samples)
    chosen = drawn[np.isin(values[drawn], classes)]
    number_of = {name: number for number, name in enumerate(classes)}
    return LabelledProfiles(
        label=column,
        row_ids=samples.column("row_id").to_numpy()[chosen],
        classes=classes,
        class_of=np.array([number_of[value] for value in values[chosen]], dtype=np.int64),
        studies=np.array(samples.column("study_id").to_pylist(), dtype=str)[chosen],
    )


def _reduction(components: int, seed: int) -> Pipeline:
    return make_pipeline(
        SimpleImputer(keep_empty_features=True),
        StandardScaler(),
        PCA(components, svd_solver="randomized", random_state=seed),
        StandardScaler(),
    )


def _classifiers(settings: ClassificationSettings, seed: int) -> dict[str, ClassifierMixin]:
    return {
        "random forest": RandomForestClassifier(settings.trees, random_state=seed, n_jobs=-1),
        "logistic regression": LogisticRegression(max_iter=2000),
    }


def _all_classes(classifier: ClassifierMixin, values: np.ndarray, classes: int) -> np.ndarray:
    """Probabilities N x C, also for classes the classifier has not seen."""
    probability = np.zeros((len(values), classes))
    probability[:, classifier.classes_] = classifier.predict_proba(values)
    return probability
