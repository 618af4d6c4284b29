"""What this project changes in lifelines: a fit without what only plots use. A test fails once that saves nothing."""

import time

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from lifelines.fitters.coxph_fitter import SemiParametricPHFitter

from evaluation.methods.lifelines_internals import CoxFit


def patients(rows: int = 200, covariates: int = 12, studies: int = 4) -> pd.DataFrame:
    random = np.random.default_rng(0)
    values = random.standard_normal((rows, covariates))
    time_to_event = np.round(100 * random.exponential(np.exp(values[:, 0])))  # with ties
    return (
        pd.DataFrame(values)
        .add_prefix("x")
        .assign(time=1 + time_to_event, event=random.random(rows) < 0.6, stratum=np.arange(rows) % studies)
    )


@pytest.mark.parametrize("l1_ratio", [0.0, 0.5])
def test_coefficients_are_those_of_the_documented_fitter(l1_ratio: float):
    table = patients()

    ours = CoxFit(penalizer=0.1, l1_ratio=l1_ratio).fit(table, "time", "event", strata=["stratum"])
    documented = CoxPHFitter(penalizer=0.1, l1_ratio=l1_ratio).fit(table, "time", "event", strata=["stratum"])

    assert np.array_equal(ours.params_.to_numpy(), documented.params_.to_numpy())


def test_strata_are_cut_once_for_all_steps_and_anew_for_another_table(monkeypatch):
    cuts = []
    cut = SemiParametricPHFitter._partition_by_strata
    monkeypatch.setattr(
        SemiParametricPHFitter, "_partition_by_strata", lambda self, *tables: cuts.append(1) or cut(self, *tables)
    )
    fit = CoxFit(penalizer=0.1)

    first = fit.fit(patients(), "time", "event", strata=["stratum"]).params_.to_numpy()
    of_first = len(cuts)
    other = fit.fit(patients(160), "time", "event", strata=["stratum"]).params_.to_numpy()
    again = CoxFit(penalizer=0.1).fit(patients(160), "time", "event", strata=["stratum"]).params_.to_numpy()

    assert of_first == 1
    assert len(cuts) == 3
    assert not np.array_equal(first, other)
    assert np.array_equal(other, again)


def test_it_still_saves_time():
    table = patients(covariates=30)

    def seconds(kind: type) -> float:
        begun = time.process_time()
        kind(penalizer=0.1).fit(table, "time", "event", strata=["stratum"])
        return time.process_time() - begun

    seconds(CoxPHFitter), seconds(CoxFit)  # imports
    assert min(seconds(CoxFit) for _ in range(3)) < 0.8 * min(seconds(CoxPHFitter) for _ in range(3))
