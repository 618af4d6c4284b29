"""Follow-up as people publish it is read, and scores of survival are those of the literature."""

import math

import numpy as np
import pyarrow as pa
import pytest
from lifelines.utils import concordance_index

from dataprep.runtime.command_line import UserError
from dataprep.sources.source import MISSING_LABELS
from evaluation.inference.follow_up import EndpointColumns, endpoints_of, read_follow_up
from evaluation.inference.patient_features import Covariates
from evaluation.methods.survival import Cox, SurvivalForest, kaplan_meier, log_rank_scores
from evaluation.scores.survival import (
    Censoring,
    Outcome,
    harrell,
    integrated_brier,
    kaplan_meier_rows,
    log_rank_p,
    uno,
)


def outcome_of(time, event, strata=None):
    return Outcome(np.array(time, float), np.array(event, bool), np.array(strata or ["one"] * len(time)))


def drawn(rows, effect, seed=0, studies=4):
    """Features [rows, 5], of which the first raises the log hazard by ``effect``, and what happened."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, 5))
    death = rng.exponential(500 * np.exp(-effect * features[:, 0]))
    censored = rng.uniform(50, 1500, rows)
    names = [f"study {row % studies}" for row in range(rows)]
    return features, outcome_of(np.minimum(death, censored).round(), death <= censored, names)


def test_times_of_several_publishers_become_days_and_what_cannot_be_read_is_counted():
    samples = pa.table(
        {
            "os_days": ["300", "-4", "NA", "12", None, None, None, "a year"],
            "os_event": ["1", "0", "1", "", None, None, None, "0"],
            "survival_time_os": [None, None, None, None, "2", "2", None, None],
            "event_occurred_os": [None, None, None, None, "0", "dead", None, None],
            "survival_unit": [None, None, None, None, "month", "years", "month", None],
        }
    )
    [found] = endpoints_of(samples, MISSING_LABELS)
    assert found.endpoint == "overall survival"
    assert found.positions.tolist() == [0, 4, 5]
    assert found.time == pytest.approx([300, 2 * 365.25 / 12, 2 * 365.25])
    assert found.event.tolist() == [True, False, True]
    assert found.unit == "days"
    assert found.left_out == {
        "time negative": 1,
        "time missing": 1,
        "event missing": 1,
        "no follow-up": 1,
        "time is no number": 1,
    }


def test_named_columns_keep_their_unit_where_nobody_says_it():
    samples = pa.table({"t": [3.0, 5.0], "e": ["1:DECEASED", "0:LIVING"]})
    found = read_follow_up(samples, [EndpointColumns("t", "t", "e")], ())
    assert (found.unit, found.time.tolist(), found.event.tolist()) == ("as given", [3.0, 5.0], [True, False])
    assert read_follow_up(samples, [EndpointColumns("t", "t", "e", "years")], ()).time[0] == pytest.approx(3 * 365.25)
    with pytest.raises(UserError, match="no column 'died'"):
        read_follow_up(samples, [EndpointColumns("t", "t", "died")], ())


def test_concordance_of_one_stratum_is_that_of_lifelines_also_with_ties():
    rng = np.random.default_rng(0)
    time, event, risk = rng.integers(1, 20, 60), rng.random(60) < 0.6, rng.integers(0, 8, 60).astype(float)
    score = harrell(outcome_of(time, event), risk)(np.arange(60))
    assert score == pytest.approx(concordance_index(time, -risk, event))


def test_pairs_of_two_studies_do_not_count():
    """Within each study the order is right; between them it is wrong throughout."""
    outcome = outcome_of([1, 2, 11, 12], [1, 1, 1, 1], ["a", "a", "b", "b"])
    risk = np.array([2.0, 1.0, 9.0, 8.0])
    assert harrell(outcome, risk)(np.arange(4)) == 1
    assert harrell(outcome.pooled(), risk)(np.arange(4)) == pytest.approx(2 / 6)
    assert math.isnan(harrell(outcome, risk)(np.array([0, 2])))


def test_uno_weighs_events_by_the_share_that_is_still_followed():
    """By hand: one of four is censored at 2, so that the share followed is 1 before, and 2/3 after.

    Pairs: (1, each of 3 later) weight 1, (3, 4) weight 1 / (2/3)^2 = 2.25. The risks order the first event right
    against two of three, and the second right.
    """
    outcome = outcome_of([1, 2, 3, 4], [1, 0, 1, 0])
    risk = np.array([2.5, 3.0, 2.0, 1.0])
    score = uno(outcome, risk, Censoring.of(outcome, horizon=10.0))(np.arange(4))
    assert score == pytest.approx((2 + 2.25) / (3 + 2.25))
    # an event at the horizon or later does not count
    assert uno(outcome, risk, Censoring.of(outcome, horizon=3.0))(np.arange(4)) == pytest.approx(2 / 3)


def test_integrated_brier_score_by_hand():
    """Predicted survival 0.5 throughout: 0.25 for each who died or is followed, weighted; 0 after censoring."""
    outcome = outcome_of([1, 2, 3, 4], [1, 0, 1, 0])
    times = np.array([0.0, 0.5, 2.5, 3.5])
    parts = integrated_brier(outcome, np.full((4, 4), 0.5), times, Censoring.of(outcome, horizon=3.5))
    heavier = 0.25 / (2 / 3)
    # row 1 is followed until 2, so that it counts at 0 and 0.5 alone; rows 2 and 3 count by 1 / (2/3) from 2.5 on
    followed = (0.5 * 0.25 + 2 * (0.25 + heavier) / 2 + 1 * heavier) / 3.5
    assert parts == pytest.approx([0.25, (0.5 * 0.25 + 2 * 0.25 / 2) / 3.5, followed, followed])


def test_a_certain_and_right_forecast_has_no_error():
    outcome = outcome_of([1, 2, 3, 4], [1, 1, 1, 1])
    times = np.linspace(0, 4, 41)
    right = (outcome.time[:, None] > times[None]).astype(float)
    assert integrated_brier(outcome, right, times, Censoring.of(outcome, 4.0)) == pytest.approx(np.zeros(4))


def test_the_log_rank_test_is_stratified():
    """The high group dies sooner only because its study does."""
    rng = np.random.default_rng(0)
    time = np.concatenate([rng.exponential(1, 60), rng.exponential(10, 60)])
    high = np.concatenate([rng.random(60) < 0.9, rng.random(60) < 0.1])
    outcome = outcome_of(time, np.full(120, True), ["short"] * 60 + ["long"] * 60)
    assert log_rank_p(outcome.pooled(), high) < 1e-4
    assert log_rank_p(outcome, high) > 0.05
    assert math.isnan(log_rank_p(outcome, np.full(120, True)))


def test_curves_are_tables_that_begin_with_everybody_alive():
    rows = kaplan_meier_rows(outcome_of([1, 2, 3], [1, 0, 1]), method="Cox", group="high risk")
    assert rows[0] == {"method": "Cox", "group": "high risk", "time": 0.0} | {
        **{"survival": 1.0, "low": 1.0, "high": 1.0},
        "at_risk": 3,
    }
    assert [row["survival"] for row in rows] == pytest.approx([1, 2 / 3, 2 / 3, 0])


@pytest.mark.parametrize("head", [Cox(0.1), SurvivalForest(100, 10, 0)])
def test_heads_order_patients_by_what_raises_their_hazard(head):
    features, outcome = drawn(200, 1.5)
    train, test, times = np.arange(120), np.arange(120, 200), np.linspace(0, 800, 20)
    forecast = head(features[train], outcome.rows(train), features[test], times)
    truth = outcome.rows(test)
    assert harrell(truth, forecast.risk)(np.arange(80)) > 0.65
    assert log_rank_p(truth, forecast.high) < 0.01
    assert (np.diff(forecast.survival, axis=1) <= 1e-12).all()
    censoring = Censoring.of(truth, 800.0)
    nothing = kaplan_meier(features[train], outcome.rows(train), features[test], times)
    ours, theirs = (integrated_brier(truth, one.survival, times, censoring).mean() for one in (forecast, nothing))
    assert ours < 0.95 * theirs


def test_a_constant_covariate_is_no_obstacle():
    features, outcome = drawn(60, 1.0)
    features[:, 1:] = 3.0
    assert Cox(0.1)(features, outcome, features, np.array([0.0, 100.0])).risk.std() > 0.1
    # an absolute penalty that is large enough leaves nothing
    assert Cox(10.0, 1.0)(features, outcome, features, np.array([0.0, 100.0])).risk.std() < 0.01
    assert Cox(0.1)(features[:, 1:], outcome, features[:, 1:], np.array([0.0, 100.0])).risk.tolist() == [0.0] * 60


def test_log_rank_scores_add_up_to_nothing_in_each_study():
    _, outcome = drawn(80, 1.0)
    scores = log_rank_scores(outcome)
    for rows in outcome.members():
        assert scores[rows].sum() == pytest.approx(0, abs=1e-9)


def test_covariates_of_several_publishers_agree_and_are_encoded_from_training_rows():
    columns = {
        "age": ["60", "", "40", "50", "70", "80", "30", "20"] * 3,
        "sex": ["F", "female", "M", "male", "", "f", "m", "Male"] * 3,
        "stage": ["stage iia", "II", "IV", "Stage IVB", "iii", "", "2", "4"] * 3,
        "batch": ["one"] * 24,
    }
    covariates = Covariates.of(columns)
    assert covariates.names == ["age", "sex", "stage"]
    assert set(covariates.categories["sex"]) == {"female", "male", ""}
    assert set(covariates.categories["stage"]) == {"ii", "iii", "iv", ""}
    fitted, new = covariates.encoded(np.arange(16), np.arange(16, 24))
    # age, female and male, ii and iv: stage iii is too rare among sixteen
    assert fitted.shape == (16, 5)
    assert fitted[:, 0].mean() == pytest.approx(0)
    assert new[4].tolist()[1:] == [0, 0, 0, 0]
