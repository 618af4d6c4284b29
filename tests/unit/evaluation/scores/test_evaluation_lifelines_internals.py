"""What this project uses of lifelines' inside, the Newton steps of Cox regressions: the last test fails once that saves
nothing."""

import time

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from lifelines.fitters.coxph_fitter import SemiParametricPHFitter

from evaluation.methods.lifelines_internals import cox_coefficients

# covariates N x F, times with ties, events, studies
Patients = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def patients(rows: int = 200, covariates: int = 12, studies: int = 4) -> Patients:
    random = np.random.default_rng(0)
    values = 5 + 3 * random.standard_normal((rows, covariates))
    times = 1 + np.round(100 * random.exponential(np.exp(values[:, 0] / 3)))
    return values, times, random.random(rows) < 0.6, np.array([f"study {row % studies}" for row in range(rows)])


def documented(of: Patients, penalizer: float, l1_ratio: float) -> np.ndarray:
    values, times, events, studies = of
    table = pd.DataFrame(values).add_prefix("x").assign(time=times, event=events, stratum=studies)
    fitter = CoxPHFitter(penalizer=penalizer, l1_ratio=l1_ratio).fit(table, "time", "event", strata=["stratum"])
    return fitter.params_.to_numpy()


@pytest.mark.parametrize("l1_ratio", [0.0, 0.5])
@pytest.mark.parametrize("penalizer", [0.01, 0.1])
def test_coefficients_are_those_of_the_documented_fitter(penalizer: float, l1_ratio: float):
    of = patients()
    expected = documented(of, penalizer, l1_ratio)

    exact = cox_coefficients(*of, penalizer, l1_ratio, precision=1e-7)
    as_used = cox_coefficients(*of, penalizer, l1_ratio)

    np.testing.assert_allclose(exact, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(as_used, expected, atol=1e-3 * np.abs(expected).max())


def test_studies_are_cut_out_once_for_all_steps(monkeypatch):
    cuts = []
    cut = SemiParametricPHFitter._partition_by_strata
    monkeypatch.setattr(
        SemiParametricPHFitter, "_partition_by_strata", lambda self, *tables: cuts.append(1) or cut(self, *tables)
    )

    cox_coefficients(*patients(), 0.1, 0.0)

    assert len(cuts) == 1


def test_it_still_saves_time():
    of = patients(covariates=30)

    def seconds(fit) -> float:
        begun = time.process_time()
        fit(of, 0.1, 0.0)
        return time.process_time() - begun

    def ours(of: Patients, *penalty: float) -> np.ndarray:
        return cox_coefficients(*of, *penalty)

    for fit in (ours, documented):
        seconds(fit)  # imports
    assert min(seconds(ours) for _ in range(3)) < 0.5 * min(seconds(documented) for _ in range(3))
