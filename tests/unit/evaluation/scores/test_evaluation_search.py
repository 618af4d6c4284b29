"""Choices are proposed before anything is scored, and each outer fold chooses by its own inner folds alone."""

import pickle

import numpy as np
import pytest

from dataprep.runtime.command_line import UserError, read_settings
from dataprep.runtime.storage import Folder
from evaluation.config import RunSettings
from evaluation.scores.folds import group_folds
from evaluation.search.halving import HalvingInFolds, Trials
from evaluation.search.inner_folds import Method, best, kept
from evaluation.search.proposals import proposals
from evaluation.search.search_state import SearchState, TrialRecord, evaluation_folder, search_name

SPACE = {"depth": [4, 1, 2, 3, 5, 6, 7, 8], "head": ["forest", "ridge", "logistic"], "pooling": ["mean", "max", "all"]}
GROUPS = np.array([f"study{row // 4}" for row in range(48)])


def nothing(choice, train, test):
    return np.zeros(len(test))


def zero(predictions, rows):
    return 0.0


def test_proposals_differ_begin_with_the_fixed_setting_and_are_the_same_each_time():
    choices = proposals(SPACE, 20, seed=3)
    assert choices == proposals(SPACE, 20, seed=3) != proposals(SPACE, 20, seed=4)
    assert choices[0] == {"depth": 4, "head": "forest", "pooling": "mean"}
    assert len({tuple(choice.values()) for choice in choices}) == len(choices) == 20
    for name, values in SPACE.items():
        assert {choice[name] for choice in choices} == set(values)


def test_a_small_space_is_tried_whole():
    choices = proposals({"a": [1, 2], "b": ["x", "y", "z"]}, 20, seed=0)
    assert len(choices) == 6
    assert choices[0] == {"a": 1, "b": "x"}


def test_inner_folds_keep_groups_whole_and_never_see_what_the_outer_fold_tests():
    method = Method.of(group_folds(GROUPS, 4, seed=0), nothing, zero, inner=3, seed=0)
    for (train, test), parts in zip(method.outer, method.inner, strict=True):
        assert len(parts) == 3
        assert sorted(np.concatenate([scored for _, scored in parts])) == sorted(train)
        for fit, scored in parts:
            assert not set(GROUPS[fit]) & set(GROUPS[scored])
            assert not set(GROUPS[fit]) & set(GROUPS[test])


def test_a_fold_that_trains_on_one_group_has_no_inner_folds():
    method = Method.of(group_folds(np.repeat(["a", "b"], 5), 2, seed=0), nothing, zero, inner=3, seed=0)
    assert list(method.inner) == [[], []]


def test_each_outer_fold_keeps_its_own_best_third_and_the_fixed_setting():
    first = np.array([[0.0, 0.9], [0.5, 0.1], [0.9, np.nan], [0.6, 0.2], [0.7, 0.3], [0.8, 0.4]])
    chosen = kept(first)
    assert np.flatnonzero(chosen[:, 0]).tolist() == [0, 2, 5]
    assert np.flatnonzero(chosen[:, 1]).tolist() == [0, 5]


def test_scores_of_one_outer_fold_change_nothing_for_another():
    rng = np.random.default_rng(0)
    scores, weights = rng.normal(size=(9, 3, 3)), np.ones((3, 3))
    before, _ = best(scores, weights, kept(scores[:, :, 0]))
    scores[:, 1] = rng.normal(size=(9, 3))
    after, _ = best(scores, weights, kept(scores[:, :, 0]))
    assert before[[0, 2]].tolist() == after[[0, 2]].tolist()


def test_the_best_is_by_rows_of_the_folds_that_define_a_score_else_the_fixed_setting():
    scores = np.array([[[0.5, 0.5]], [[1.0, 0.2]], [[np.nan, 0.55]]])
    chosen, mean = best(scores, np.array([[1.0, 3.0]]), np.ones((3, 1), bool))
    assert mean[:, 0] == pytest.approx([0.5, 0.4, 0.55])
    assert chosen.tolist() == [2]
    assert best(np.full((3, 1, 2), np.nan), np.ones((1, 2)), np.ones((3, 1), bool))[0].tolist() == [0]


def halved(scores_TKI, order, tmp_path, stop_after=None):
    """The outcome of a search whose trials are done in the order that ``order`` draws, and how many were run."""
    folds = group_folds(GROUPS, scores_TKI.shape[1], seed=0)
    method = Method.of(folds, nothing, zero, inner=scores_TKI.shape[2], seed=0)
    state = SearchState(Folder(str(tmp_path)))
    choices = [{"number": number} for number in range(len(scores_TKI))]
    records = [state.read(number, choice) for number, choice in enumerate(choices)]
    halving = HalvingInFolds("a head", method, records, state)
    running, asked = {}, []
    while not halving.finished and len(asked) != stop_after:
        while found := halving.next_trial():
            number, places = found
            running[number] = places
            asked.append((number, tuple(places)))
        number = int(order.choice(sorted(running)))
        halving.done(number, [(k, i, scores_TKI[number, k, i]) for k, i in running.pop(number)], 1.0)
    return halving, asked


def test_what_is_chosen_does_not_depend_on_which_trial_is_done_first(tmp_path):
    scores = np.random.default_rng(1).normal(size=(9, 4, 3))
    outcomes = []
    for seed in range(3):
        halving, asked = halved(scores, np.random.default_rng(seed), tmp_path / str(seed))
        outcomes.append(halving.outcome()[0].tolist())
        assert len(asked) == len(set(asked)) <= 18
        first = [places for _, places in asked[:9]]
        assert first == [((0, 0), (1, 0), (2, 0), (3, 0))] * 9
        assert all(inner > 0 for _, places in asked[9:] for _, inner in places)
    assert outcomes[0] == outcomes[1] == outcomes[2]
    seen = kept(scores[:, :, 0])
    assert outcomes[0] == np.where(seen, scores.mean(axis=2), -np.inf).argmax(axis=0).tolist()


def test_a_search_goes_on_from_what_is_stored_and_asks_for_nothing_twice(tmp_path):
    scores, order = np.random.default_rng(1).normal(size=(9, 4, 3)), np.random.default_rng(0)
    expected = halved(scores, order, tmp_path / "whole")[0].outcome()[0]
    # as ended before trials that were handed out had finished
    halving, _ = halved(scores, order, tmp_path / "parts", stop_after=9)
    assert not halving.finished
    halving, _ = halved(scores, order, tmp_path / "parts")
    again, none = halved(scores, order, tmp_path / "parts")
    assert halving.outcome()[0].tolist() == again.outcome()[0].tolist() == expected.tolist()
    assert none == []


def two_searches(tmp_path):
    method = Method.of(group_folds(GROUPS, 2, seed=0), nothing, zero, inner=2, seed=0)
    return [
        HalvingInFolds(
            name, method, [TrialRecord({"a": 0}), TrialRecord({"a": 1})], SearchState(Folder(str(tmp_path / name)))
        )
        for name in ("a head", "another")
    ]


def test_a_search_ends_with_what_a_method_raises_and_with_a_trial_whose_processes_die(tmp_path):
    for outcome in ({"error": UserError("no such head")}, None):
        trials = Trials(two_searches(tmp_path), "shelf")
        trials.suggest("one")
        trials.on_trial_complete("one", outcome, error=outcome is None)
        assert trials.suggest("two") == trials.FINISHED
        assert str(trials.raised) == ("no such head" if outcome else "None")
        assert trials.killed == (None if outcome else "a head, trial 0")


def test_trials_of_another_search_fill_the_time_until_a_rung_is_complete(tmp_path):
    trials, given = Trials(two_searches(tmp_path), "shelf"), {}
    for number in range(4):
        given[f"trial {number}"] = trials.suggest(f"trial {number}")
    assert [config["search"] for config in given.values()] == [0, 0, 1, 1]
    assert trials.suggest("trial 4") is None
    while given:
        trial, config = given.popitem()
        scores = [(outer, inner, 0.5) for outer, inner in config["places"]]
        trials.on_trial_complete(trial, {"scores": scores, "seconds": 0.1})
        while isinstance(more := trials.suggest(f"after {trial}"), dict):
            given[f"after {trial}"] = more
            trial += "'"
    assert trials.suggest("last") == trials.FINISHED
    assert pickle.loads(pickle.dumps(trials)).__dict__ == {}, "Tune writes no arrays of methods"


def test_what_a_trial_has_done_is_read_back_but_not_for_another_choice(tmp_path):
    state = SearchState(Folder(str(tmp_path)))
    state.store(3, TrialRecord({"depth": 2, "head": "ridge"}, {(0, 0): 0.5, (1, 0): float("nan")}, 1.5))
    state = SearchState(Folder(str(tmp_path)))
    record = state.read(3, {"depth": 2, "head": "ridge"})
    assert record.scores[0, 0] == 0.5
    assert np.isnan(record.scores[1, 0])
    assert state.read(3, {"depth": 3, "head": "ridge"}).scores == {}
    assert state.read(4, {"depth": 2, "head": "ridge"}).scores == {}


def test_a_search_is_continued_for_the_same_truth_folds_and_space_alone():
    truth = np.arange(48.0)
    folds = group_folds(GROUPS, 4, seed=0)

    def name(subject="tissue", space=SPACE, folds=folds, truth=truth):
        return search_name(
            subject, folds, space, nothing, lambda predictions, rows: -abs(predictions - truth[rows]).sum()
        )

    assert name() == name(truth=truth.copy())
    others = [name("sex"), name(space={"depth": [1, 2]}), name(folds=group_folds(GROUPS, 4, 1)), name(truth=truth + 1)]
    assert len({name(), *others}) == 5


def test_an_evaluation_goes_on_wherever_it_writes_but_not_with_other_settings_or_inputs():
    settings = {"seed": 0, "output": "a.json", "search": {"trials": 20, "storage": None, "concurrency": 2}}
    same = {"seed": 0, "output": "b.json", "search": {"trials": 20, "storage": "x", "concurrency": None}}
    inputs = {"model": "sha"}
    folder = evaluation_folder("s3://b/c", settings, inputs)
    assert folder == evaluation_folder("s3://b/c", same, inputs)
    assert folder != evaluation_folder("s3://b/c", settings | {"seed": 1}, inputs)
    assert folder != evaluation_folder("s3://b/c", settings, {"model": "other"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--search.trials", "1"], "chooses nothing"),
        (["--search.inner-folds", "5"], "would have no effect with search.trials 0"),
        (["--search.storage", "x"], "would have no effect with search.trials 0"),
    ],
)
def test_settings_of_a_search_without_effect_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        read_settings(RunSettings, ["--model", "m", "--corpus", "c", *arguments])
