"""Classification finds what is there, and nothing where nothing is."""

import numpy as np
import pytest

from dataprep.runtime.command_line import UserError
from evaluation.inference.labels import LabelledProfiles
from evaluation.methods.classifiers import make_folds
from evaluation.tasks.classification import ClassificationSettings, evaluate_classification

SETTINGS = ClassificationSettings(components=5, trees=20, folds=5)


def labelled_profiles(classes, studies):
    return LabelledProfiles(
        label="tissue",
        row_ids=np.arange(len(classes)),
        classes=tuple(f"class {number}" for number in range(max(classes) + 1)),
        class_of=np.array(classes),
        studies=np.array(studies),
    )


def score(result, method, metric):
    return next(s.interval for s in result.scores if s.method.endswith(method) and s.metric == metric)


@pytest.fixture
def two_classes():
    """200 samples of 10 studies, half of each class in every study; feature 0 tells the classes apart."""
    generator = np.random.default_rng(0)
    classes = np.tile([0, 1], 100)
    features = generator.normal(0, 1, (200, 60)).astype(np.float32)
    features[:, :10] += 2.0 * classes[:, None]
    return labelled_profiles(classes, np.repeat([f"study {n}" for n in range(10)], 20)), features


@pytest.mark.parametrize("classifier", ["random forest", "logistic regression"])
def test_classes_that_differ_are_told_apart(two_classes, classifier):
    labelled, features = two_classes
    result = evaluate_classification(labelled, {"raw": features}, SETTINGS, seed=0)
    assert score(result, classifier, "weighted_f1").value > 0.95
    assert score(result, classifier, "auroc").value > 0.98
    assert result.facts["positive"] == "class 1"


def test_shuffled_labels_are_predicted_at_chance():
    # more features than samples: anything fitted outside the folds would show as more than chance
    generator = np.random.default_rng(1)
    features = generator.normal(0, 1, (200, 2000)).astype(np.float32)
    labelled = labelled_profiles(generator.permutation(np.tile([0, 1], 100)), ["one"] * 200)
    result = evaluate_classification(labelled, {"raw": features}, SETTINGS, seed=0)
    for classifier in ("random forest", "logistic regression"):
        assert 0.4 < score(result, classifier, "accuracy").value < 0.6
        assert 0.38 < score(result, classifier, "auroc").value < 0.62


def test_folds_by_study_withhold_what_batch_effects_would_give_away():
    # each study has one dominant class and a fingerprint of its own; the class itself leaves no trace
    generator = np.random.default_rng(2)
    studies = np.repeat(np.arange(40), 8)
    classes = np.where(generator.random(320) < 0.9, studies % 2, 1 - studies % 2)
    features = generator.normal(0, 0.1, (320, 40)) + 3 * generator.normal(0, 1, (40, 40))[studies]
    labelled = labelled_profiles(classes, studies.astype(str))

    def accuracy(grouping):
        settings = SETTINGS.model_copy(update={"grouping": grouping, "components": 30})
        result = evaluate_classification(labelled, {"raw": features.astype(np.float32)}, settings, seed=0)
        return score(result, "random forest", "accuracy").value

    assert accuracy("none") > 0.85
    assert accuracy("auto") < 0.65


def test_folds_keep_studies_whole_where_every_class_comes_from_several(two_classes):
    labelled, _ = two_classes
    folds = make_folds(labelled, 5, "auto", seed=0)
    assert folds.by_study
    assert len(folds.parts) == 5
    for train, test in folds.parts:
        assert not set(labelled.studies[train]) & set(labelled.studies[test])


def test_folds_are_as_many_as_the_smallest_class_allows_and_say_that_studies_are_shared():
    labelled = labelled_profiles([0] * 30 + [1] * 4, ["a"] * 30 + ["b"] * 4)
    folds = make_folds(labelled, 5, "auto", seed=0)
    assert len(folds.parts) == 4
    assert "share studies" in folds.described


def test_folds_by_study_that_cannot_be_are_refused():
    labelled = labelled_profiles([0] * 30 + [1] * 30, ["a"] * 30 + ["b"] * 30)
    with pytest.raises(UserError, match="2 classes are of one study"):
        make_folds(labelled, 10, "study", seed=0)


def test_missing_values_and_features_that_are_never_measured_are_no_obstacle(two_classes):
    labelled, features = two_classes
    features[:, 20] = np.nan
    features[::3, 0] = np.nan
    result = evaluate_classification(labelled, {"raw": features}, SETTINGS, seed=0)
    assert score(result, "logistic regression", "accuracy").value > 0.9
