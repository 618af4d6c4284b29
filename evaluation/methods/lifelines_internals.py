"""Private names of lifelines, in one place: the Newton steps of its Cox regression, and nothing around them.

``CoxPHFitter.fit`` also takes medians of every covariate in every study for its plots, baseline hazards, and the errors
of coefficients: of a ridge fit with 500 rows and 30 covariates in seven studies that is nine tenths of the time. Its
steps then cut the same studies out of the same table again and again. A search fits thousands of regressions, of which
it needs coefficients alone. No option leaves the rest out, and nothing about it is known in lifelines' tracker.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from lifelines.fitters.coxph_fitter import SemiParametricPHFitter

# Newton's steps end when coefficients, of covariates with unit variance, change by less. Lifelines' own bound is 1e-7,
# which takes an elastic net a sixth more steps and moves a coefficient by a thousandth of the largest at most.
PRECISION = 1e-6
_STRATUM = "stratum"


def cox_coefficients(
    values_NF: np.ndarray,
    time: np.ndarray,
    event: np.ndarray,
    strata: np.ndarray,
    penalizer: float,
    l1_ratio: float,
    precision: float = PRECISION,
) -> np.ndarray:
    """Log hazard ratios [F] of a stratified Cox regression with an elastic-net penalty, ties as Efron has them.

    They are those of ``CoxPHFitter(penalizer=..., l1_ratio=...)``. Every column of ``values_NF`` has to vary.

    Raises:
        lifelines.exceptions.ConvergenceError: there are none.
    """
    order = np.lexsort((event, time, strata))
    mean, spread = values_NF.mean(axis=0), values_NF.std(axis=0, ddof=1)
    index = pd.Index(strata[order], name=_STRATUM)
    table = pd.DataFrame((values_NF[order] - mean) / spread, index=index)
    steps = _Steps(penalizer=penalizer, l1_ratio=l1_ratio, strata=[_STRATUM])
    steps._batch_mode = None
    steps.event_col = "event"  # what its errors say
    coefficients, _, _ = steps._newton_raphson_for_efron_model(
        table,
        pd.Series(time[order].astype(float), index=index),
        pd.Series(event[order].astype(bool), index=index),
        pd.Series(np.ones(len(order)), index=index),
        None,
        show_progress=False,
        precision=precision,
    )
    found: np.ndarray = coefficients / spread
    return found


class _Steps(SemiParametricPHFitter):
    """Cuts the strata out of the table once."""

    _cut: list[Any] | None = None

    def _partition_by_strata(self, *tables: Any) -> Iterator[Any]:
        if self._cut is None:
            self._cut = list(super()._partition_by_strata(*tables))
        return iter(self._cut)
