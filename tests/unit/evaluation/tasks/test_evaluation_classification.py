"""Classification finds what is there, and nothing where nothing is."""

import pickle

import numpy as np
import pytest
from pydantic import ValidationError

from dataprep.runtime.command_line import UserError
from evaluation.inference.features import Features
from evaluation.inference.labels import LabelledProfiles
from evaluation.methods.classifiers import (
    PUBLISHED_FOREST,
    Forest,
    class_probabilities,
    described_choice,
    head_space,
    published_space,
)
from evaluation.methods.label_folds import KnownGroups, described_folds, kept_whole, label_folds
from evaluation.scores.verdicts import judged
from evaluation.search.nested import FixedSettings
from evaluation.tasks.classification import CHANCE, RAW, ClassificationSettings, evaluate_classification

MODEL = "model embedding"
HEADS = ("random forest", "logistic regression", "nearest samples", "support vectors")


def settings(**given):
    return ClassificationSettings(
        **{"components": 5, "trees": 10, "folds": 4, "heads": ["logistic regression"]} | given
    )


def labelled_profiles(classes, studies):
    return LabelledProfiles(
        label="tissue",
        row_ids=np.arange(len(classes)),
        classes=tuple(f"class {number}" for number in range(max(classes) + 1)),
        class_of=np.array(classes),
        studies=np.array(studies),
    )


def by_study(labelled, subjects=None):
    nobody = np.full(len(labelled.row_ids), "")
    return KnownGroups({"study_id": labelled.studies}, nobody if subjects is None else subjects)


def evaluated(labelled, features, known=None, **given):
    of = {name: Features.of(values) for name, values in features.items()}
    return evaluate_classification(labelled, known or by_study(labelled), of, settings(**given), seed=0)


def score(result, method, metric):
    return next(s.interval for s in result.scores if s.method == method and s.metric == metric)


@pytest.fixture
def two_classes():
    """200 samples of 10 studies, half of each class in every study; the first features tell the classes apart."""
    generator = np.random.default_rng(0)
    classes = np.tile([0, 1], 100)
    features = generator.normal(0, 1, (200, 60)).astype(np.float32)
    features[:, :10] += 2.0 * classes[:, None]
    return labelled_profiles(classes, np.repeat([f"study {n}" for n in range(10)], 20)), features


@pytest.mark.parametrize("head", HEADS)
def test_classes_that_differ_are_told_apart_by_every_head(two_classes, head):
    labelled, features = two_classes
    space = head_space([head], 5)
    choice = {name: values[0] for name, values in space.items()}
    train, test = np.arange(150), np.arange(150, 200)
    fit_predict = class_probabilities(Features.of(features), labelled.class_of, Forest(20, None, 0), space)
    probability = fit_predict(choice, train, test)
    np.testing.assert_allclose(probability.sum(axis=1), 1)
    assert (probability.argmax(axis=1) == labelled.class_of[test]).mean() > 0.95


def test_a_pooling_is_chosen_among_those_that_features_have(two_classes):
    labelled, features = two_classes
    noise = np.random.default_rng(1).normal(size=(200, 30)).astype(np.float32)
    space = head_space(["nearest samples"], 5, ["mean", "max"])
    assert space["pooling"] == ["mean", "max"]
    assert "pooling" not in head_space(["nearest samples"], 5, ["mean"])
    both = Features({"mean": noise, "max": features})
    fit_predict = class_probabilities(both, labelled.class_of, Forest(5, None, 0), space)
    train, test, right = np.arange(150), np.arange(150, 200), []
    for pooling in space["pooling"]:
        choice = {name: values[0] for name, values in space.items()} | {"pooling": pooling}
        right.append((fit_predict(choice, train, test).argmax(axis=1) == labelled.class_of[test]).mean())
        assert f"5 components of {pooling}, " in described_choice(choice)
    assert right[0] < 0.7 < 0.9 < right[1]


def test_rows_that_come_again_are_reduced_once_and_a_copy_for_another_process_holds_none(two_classes):
    features = Features.of(two_classes[1])
    train, test = np.arange(150), np.arange(150, 200)
    first = features.reduced(None, 5, train, test, seed=0)
    assert features.reduced(None, 5, train, test, seed=0) is first
    assert features.reduced(None, 5, train, test[:10], seed=0)[1].shape == (10, 5)
    copy = pickle.loads(pickle.dumps(features))
    assert copy._reduced == {}
    np.testing.assert_allclose(copy.reduced(None, 5, train, test, seed=0)[1], first[1])


def test_few_components_are_the_first_of_the_most_whoever_asked_before(two_classes):
    train, test = np.arange(150), np.arange(150, 200)
    asked_first, asked_last = Features.of(two_classes[1]), Features.of(two_classes[1])
    few = asked_first.reduced(None, 5, train, test, seed=0, most=20)
    asked_last.reduced(None, 20, train, test, seed=0, most=20)
    again = asked_last.reduced(None, 5, train, test, seed=0, most=20)
    alone = Features.of(two_classes[1]).reduced(None, 5, train, test, seed=0)
    assert [part.shape for part in few] == [(150, 5), (50, 5)]
    for ours, later, exact in zip(few, again, alone, strict=True):
        np.testing.assert_array_equal(ours, later)
        # of the others, all noise of one size, which is which is a matter of rounding
        np.testing.assert_allclose(np.abs(ours[:, 0]), np.abs(exact[:, 0]), atol=0.01)


@pytest.mark.parametrize("head", HEADS)
def test_a_class_that_is_rare_or_alone_in_training_is_no_obstacle(head):
    values = np.random.default_rng(0).normal(size=(12, 4))
    space = head_space([head], 5)
    choice = {name: values[0] for name, values in space.items()}
    class_of = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2])
    fit = class_probabilities(Features.of(values), class_of, Forest(5, None, 0), space)
    assert fit(choice, np.arange(10), np.array([10, 11])).shape == (2, 3)
    assert fit(choice, np.arange(5), np.array([10])).tolist() == [[1, 0, 0]]


def test_known_classes_are_recovered_and_the_verdict_says_what_is_better(two_classes):
    labelled, features = two_classes
    noise = np.random.default_rng(1).normal(size=(200, 30)).astype(np.float32)
    (result,) = judged([evaluated(labelled, {MODEL: features, RAW: noise})])
    assert score(result, MODEL, "weighted_f1").value > 0.95
    assert score(result, MODEL, "auroc").value > 0.98
    assert score(result, MODEL, "brier").value < 0.05
    assert score(result, CHANCE, "auroc").value == 0.5
    assert result.facts["positive"] == "class 1"
    assert "over 10 studies" in result.facts["intervals"]
    assert result.baselines == [RAW, CHANCE]
    assert f"{MODEL} is better than {RAW} and {CHANCE}" in result.verdict


@pytest.mark.parametrize("head", ["random forest", "logistic regression"])
def test_shuffled_labels_are_predicted_at_chance(head):
    # more features than samples: anything fitted outside the folds would show as more than chance
    generator = np.random.default_rng(1)
    features = generator.normal(0, 1, (200, 2000)).astype(np.float32)
    studies = np.repeat([f"study {n}" for n in range(10)], 20)
    labelled = labelled_profiles(generator.permutation(np.tile([0, 1], 100)), studies)
    result = evaluated(labelled, {RAW: features}, heads=[head], trees=30)
    for metric in ("accuracy", "auroc"):
        interval = score(result, RAW, metric)
        assert interval.low <= 0.5 <= interval.high


def test_folds_by_study_withhold_what_batch_effects_would_give_away():
    # each study has one dominant class and a fingerprint of its own; the class itself leaves no trace
    generator = np.random.default_rng(2)
    studies = np.repeat(np.arange(40), 8)
    classes = np.where(generator.random(320) < 0.9, studies % 2, 1 - studies % 2)
    features = generator.normal(0, 0.1, (320, 40)) + 3 * generator.normal(0, 1, (40, 40))[studies]
    labelled = labelled_profiles(classes, studies.astype(str))
    result = evaluated(labelled, {RAW: features}, components=30, heads=["nearest samples"])
    assert score(result, RAW, "weighted_f1").value < 0.65
    assert result.facts["weighted_f1_if_folds_shared_groups"][RAW] > 0.85


def test_where_a_class_is_of_one_study_patients_are_kept_whole_and_the_facts_say_so():
    labelled = labelled_profiles([0] * 30 + [1] * 4, ["a"] * 30 + ["b"] * 4)
    patients = np.array([f"p{n // 2}" for n in range(34)])
    kept = kept_whole(labelled, by_study(labelled, patients), "auto")
    said = described_folds(labelled, kept, label_folds(labelled, kept, 5, 2, seed=0))
    assert "5 folds of whole groups, 2 times: 17 patients are kept whole" in said
    assert "2 of 2 classes are of one of the studies, e.g. class 0" in said
    assert "batch effects can help" in said
    for train, test in label_folds(labelled, kept, 5, 1, seed=0)[0].parts:
        assert not set(patients[train]) & set(patients[test])
    assert kept_whole(labelled, by_study(labelled), "auto").unit == "samples"


def test_a_patient_in_two_studies_joins_them(two_classes):
    labelled, _ = two_classes
    patients = np.full(200, "")
    patients[[0, 25]] = "TCGA-AA-0001"
    kept = kept_whole(labelled, by_study(labelled, patients), "auto")
    assert kept.groups[0] == kept.groups[25]
    assert len(set(kept.groups)) == 9


def test_groups_that_cannot_be_kept_whole_are_refused_where_they_are_demanded():
    labelled = labelled_profiles([0] * 30 + [1] * 30, ["a"] * 30 + ["b"] * 30)
    with pytest.raises(UserError, match="cannot be split by studies: 2 of 2 classes"):
        kept_whole(labelled, by_study(labelled), ClassificationSettings(leave_one_group_out=True).kept)


def test_every_group_can_be_left_out_once_and_a_class_that_training_lacks_is_told():
    studies = np.repeat(["a", "b", "c"], 10)
    labelled = labelled_profiles([0, 1] * 10 + [0] * 5 + [2] * 5, studies)
    kept = kept_whole(labelled, by_study(labelled), "auto")
    assert kept.unit == "samples"
    kept = kept_whole(labelled_profiles([0, 1] * 15, studies), by_study(labelled), "groups")
    (folds,) = label_folds(labelled, kept, None, 1, seed=0)
    assert sorted("".join(set(studies[test])) for _, test in folds.parts) == ["a", "b", "c"]
    assert "5 samples are of a class that is in no training sample" in described_folds(labelled, kept, [folds])


def test_missing_values_and_features_that_are_never_measured_are_no_obstacle(two_classes):
    labelled, features = two_classes
    features[:, 20] = np.nan
    features[::3, 0] = np.nan
    assert score(evaluated(labelled, {RAW: features}), RAW, "accuracy").value > 0.9


def test_more_labelled_samples_teach_more_and_repeats_are_averaged(two_classes):
    labelled, features = two_classes
    features[:, :10] -= 1.2 * labelled.class_of[:, None]
    result = evaluated(labelled, {RAW: features}, learning_curve=[1, 0.05], repeats=2)
    few, all_of_them = result.curves["learning_curve"]
    assert (few["share"], all_of_them["share"]) == (0.05, 1)
    assert few["training_samples"] < 10 < all_of_them["training_samples"]
    assert few["weighted_f1_low"] < few["weighted_f1"] < all_of_them["weighted_f1"]
    assert "2 times" in result.facts["folds"]


def test_the_published_protocol_is_both_papers_forest_in_folds_of_samples(monkeypatch, two_classes):
    labelled, features = two_classes
    assert (PUBLISHED_FOREST.trees, PUBLISHED_FOREST.depth, PUBLISHED_FOREST.seed) == (500, 16, 42)
    assert published_space(None)["leaf"] == [2]
    monkeypatch.setattr("evaluation.methods.classifiers.PUBLISHED_FOREST", Forest(5, 16, 42))
    monkeypatch.setattr("evaluation.tasks.classification._MOST_LEFT_OUT", 5)
    published = ClassificationSettings(protocol="published", components=5, folds=3)
    result = evaluate_classification(labelled, by_study(labelled), {RAW: Features.of(features)}, published, seed=0)
    assert result.baselines == [f"{RAW} -> PCA -> random forest", f"{RAW} -> random forest", CHANCE]
    assert "200 samples are kept whole; samples of one study are in several" in result.facts["folds"]
    donors = ClassificationSettings(protocol="published", group_columns=["donor"])
    assert (published.kept, donors.kept) == ("none", "groups")


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"protocol": "published", "trees": 9}, "trees would have no effect with classification.protocol published"),
        ({"leave_one_group_out": True, "repeats": 3}, "repeats would have no effect"),
        ({"leave_one_group_out": True, "grouping": "none"}, "needs groups"),
        ({"grouping": "none", "group_columns": ["patient"]}, "group_columns would have no effect"),
        ({"learning_curve": [1.5]}, "1.5 is not a share"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(given, complaint):
    with pytest.raises((UserError, ValidationError), match=complaint):
        ClassificationSettings(**given)


def test_a_search_is_asked_for_every_method_and_prefers_probabilities_near_the_truth(two_classes):
    labelled, features = two_classes
    asked = []

    class Spy(FixedSettings):
        def predictions(self, subject, folds, space, fit_predict, score):
            asked.append(subject)
            rows = np.arange(len(labelled.class_of))
            sure = np.eye(len(labelled.classes))[labelled.class_of]
            assert score(sure, rows) > score(np.full_like(sure, 1 / len(labelled.classes)), rows)
            assert space["head"] == ["logistic regression"]
            return super().predictions(subject, folds, space, fit_predict, score)

    found = settings(folds=3, trees=10)
    result = evaluate_classification(labelled, by_study(labelled), {RAW: Features.of(features)}, found, 0, Spy())
    assert asked == [f"{labelled.label}: {RAW}"]
    assert np.array_equal(result.row_ids, labelled.row_ids)
    assert result.rescore is not None
