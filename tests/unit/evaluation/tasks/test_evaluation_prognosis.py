"""Prognosis recovers the hazard of a simulated cohort, finds nothing in shuffled follow-up, and keeps groups whole."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from made_corpora import make_corpus, make_vocabulary
from made_exports import write_model

from dataprep.config import SimulateSettings
from dataprep.runtime.command_line import UserError, main
from dataprep.simulate import draw_studies, draw_truth
from evaluation.__main__ import COMMANDS
from evaluation.inference.follow_up import endpoints_of
from evaluation.search.nested import FixedSettings
from evaluation.tasks.prognosis import (
    PrognosisSettings,
    make_folds,
    patients_of,
    score_alive_or_dead,
    score_survival,
)

FAST = PrognosisSettings(components=10, trees=50, resamples=100, missing_labels=[""])


@pytest.fixture(scope="module")
def cohort():
    """Labels of 300 patients of five studies as text, activities of programs, and log-TPM-like values."""
    settings = SimulateSettings(output="unused", samples=300, studies=5, genes=200, programs=4, seed=3)
    vocabulary = make_vocabulary(200)
    studies = list(draw_studies(settings, vocabulary, draw_truth(settings, vocabulary)))
    labels = pd.concat([study.labels for study in studies], ignore_index=True).astype(str)
    labels = labels.rename(columns={"sample": "sample_id", "study": "study_id"}).assign(row_id=np.arange(300))
    counts = np.concatenate([study.counts for study in studies])
    raw = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e6).astype(np.float32)
    return labels, np.concatenate([study.activities for study in studies]).astype(np.float32), raw


def scored(labels, activities, raw, settings=FAST):
    samples = pa.Table.from_pandas(labels, preserve_index=False)
    [follow_up] = endpoints_of(samples, settings.missing_labels)
    patients = patients_of(samples, follow_up, 0, settings, seed=0)
    chosen = patients.row_ids
    folds = make_folds(patients, settings, seed=0)
    embeddings, expression = {"programs": activities[chosen]}, {"raw expression": raw[chosen]}
    if settings.protocol == "published":
        return patients, folds, score_alive_or_dead(patients, folds, embeddings, expression, settings, 0)
    return patients, folds, score_survival(patients, folds, embeddings, expression, settings, 0, FixedSettings())


def interval(result, method, metric):
    return next(s.interval for s in result.scores if (s.method, s.metric) == (method, metric))


@pytest.fixture(scope="module")
def recovered(cohort):
    return scored(*cohort)


def test_studies_are_left_out_one_by_one_and_none_is_fitted_on(recovered):
    patients, folds, result = recovered
    assert len(folds.parts) == 5
    for train, test in folds.parts:
        assert not set(patients.studies[train]) & set(patients.studies[test])
    assert result.facts["unit"] == "days"
    assert result.facts["groups"] == "5 by study_id"


@pytest.mark.parametrize("head", ["Cox", "survival forest"])
def test_the_hazard_of_a_simulated_cohort_is_recovered(recovered, head):
    _, _, result = recovered
    for metric in ("c_index", "uno_c"):
        assert interval(result, f"programs -> {head}", metric).low > 0.6
    assert interval(result, f"raw expression -> {head}", "c_index").value > 0.6
    assert interval(result, f"programs -> {head}", "log_rank_p").value < 1e-4
    better = interval(result, f"programs -> {head}", "integrated_brier_minus_Kaplan-Meier")
    assert better.high < 0
    assert interval(result, "Kaplan-Meier", "c_index").value == 0.5
    assert {"raw expression -> Cox", "Kaplan-Meier"} <= set(result.baselines)


def test_pictures_have_their_data(recovered):
    _, _, result = recovered
    plain = json.loads(json.dumps(result.plain(), allow_nan=False))
    groups = {(row["method"], row["group"]) for row in plain["curves"]["kaplan_meier"]}
    assert {("programs -> Cox", "high risk"), ("programs -> Cox", "low risk"), ("Kaplan-Meier", "all")} <= groups
    [first, *_] = plain["curves"]["c_index_by_study"]
    assert first["study"] == "simulated_01"
    assert first["profiles"] == 60
    assert first["programs -> Cox"] > 0.5


def test_shuffled_follow_up_is_predicted_at_chance(cohort):
    labels, activities, raw = cohort
    order = np.random.default_rng(0).permutation(len(labels))
    shuffled = labels.assign(**{name: labels[name].to_numpy()[order] for name in ("os_days", "os_event")})
    _, _, result = scored(shuffled, activities, raw)
    for method in ("programs -> Cox", "programs -> survival forest", "raw expression -> Cox"):
        found = interval(result, method, "c_index")
        assert found.low < 0.5 < found.high
        assert 0.42 < found.value < 0.58


def test_the_published_protocol_asks_who_was_seen_to_die(cohort):
    settings = FAST.model_copy(update={"protocol": "published"})
    _, folds, result = scored(*cohort, settings)
    assert len(folds.parts) == 10
    assert result.subject == "overall survival, event seen"
    assert interval(result, "programs -> random forest", "auroc").low > 0.5
    assert "a study may be on both sides" in result.facts["folds"]


def test_a_patient_of_few_studies_stays_in_one_fold(cohort):
    labels, _, _ = cohort
    two = labels.iloc[:120].assign(
        patient=[f"P{row // 2}" for row in range(120)], age=[str(40 + r % 7) for r in range(120)]
    )
    samples = pa.Table.from_pandas(two, preserve_index=False)
    [follow_up] = endpoints_of(samples, ("",))
    patients = patients_of(samples, follow_up, 0, FAST, seed=0)
    assert patients.facts["groups"] == "60 by patient"
    assert patients.facts["patients_with_several_profiles"] == 60
    assert list(patients.covariates) == ["age"]
    for train, test in make_folds(patients, FAST, seed=0).parts:
        assert not {*patients.groups[train]} & {*patients.groups[test]}


ROWS = {"train": 60, "validation": 20, "test": 20}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("prognosis")
    rng = np.random.default_rng(0)
    labels = {
        "os_months": [str(round(time, 1)) for time in rng.exponential(10, 100)],
        "os_event": [str(int(event)) for event in rng.random(100) < 0.6],
        "late_days": ["10"] * 100,
        "late_event": ["0"] * 100,
        "sample_type": ["Solid Tissue Normal" if row % 10 == 0 else "Primary" for row in range(100)],
        "sex": [("F", "M")[row % 2] for row in range(100)],
    }
    corpus = make_corpus(str(place / "corpus"), ROWS, labels=labels)
    write_model(place / "model", corpus.vocabulary)
    return place


def run(folder, *more):
    paths = ["--model", str(folder / "model"), "--corpus", str(folder / "corpus"), "--batch-size", "16"]
    small = ["--prognosis.components", "3", "--prognosis.trees", "10", "--prognosis.folds", "3"]
    return main("evaluation", "", COMMANDS, ["run", "--tasks", "prognosis", *paths, *small, *more])


def test_a_corpus_with_follow_up_is_scored_from_the_command_line(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert run(folder, "--output", str(tmp_path / "results.json")) == 0
    [result] = json.loads((tmp_path / "results.json").read_text())["results"]
    assert result["facts"]["profiles"] == 90
    assert result["facts"]["left_out"] == {"excluded": 10}
    methods = {score["method"] for score in result["scores"]}
    assert {"clinical covariates -> Cox", "BulkFormer mean embedding + clinical covariates -> Cox"} <= methods
    assert "overall survival" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--prognosis.time", "late_days"], "give both or neither"),
        (["--prognosis.time", "late_days", "--prognosis.event", "late_event"], "no endpoint with 20 events"),
        (["--prognosis.time", "died", "--prognosis.event", "late_event"], "no column 'died'"),
        (["--prognosis.unit", "days"], "unit would have no effect"),
        (["--prognosis.protocol", "published"], "folds would have no effect"),
        (["--prognosis.covariates", "weight"], "no column 'weight'"),
        (["--prognosis.excluded", "kind=normal"], "no column 'kind'"),
        (["--prognosis.excluded", "normal"], "is not COLUMN=PATTERN"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(folder, capsys, arguments, complaint):
    assert run(folder, *arguments) != 0
    assert complaint in capsys.readouterr().err.splitlines()[-1]


def test_folds_with_nothing_to_learn_from_are_refused(cohort):
    labels, _, _ = cohort
    lonely = labels.assign(os_event=np.where(labels["study_id"] == "simulated_02", "1", "0"))
    samples = pa.Table.from_pandas(lonely, preserve_index=False)
    [follow_up] = endpoints_of(samples, ("",))
    patients = patients_of(samples, follow_up, 0, FAST, seed=0)
    with pytest.raises(UserError, match="without simulated_02 there are 0 events to learn from"):
        make_folds(patients, FAST, seed=0)
