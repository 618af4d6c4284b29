"""Which profiles are refused, and why."""

from __future__ import annotations

import numpy as np

EXCLUDED = "excluded_by_settings"
DUPLICATE_SAMPLE = "duplicate_sample_id"
DUPLICATE_PROFILE = "duplicate_profile"
NO_EXPRESSION = "no_expression"
TOO_FEW_GENES = "too_few_nonzero_genes"


def nonzero_genes(expression: np.ndarray) -> np.ndarray:
    """How many vocabulary genes each profile, float16 [n, G], expresses: int64 [n]. Unmeasured (NaN) is not zero
    and not expressed either."""
    return np.count_nonzero(expression > 0, axis=1)


def refusal(totals: np.ndarray, nonzero: np.ndarray, min_nonzero_genes: int) -> list[str | None]:
    """The reason to refuse each profile, or None. ``totals`` [n] are sums over all genes of the source.

    The published corpus asks for 14,000 non-zero genes, which also turns single cells (about 3,050) away.
    """
    return [
        NO_EXPRESSION if total <= 0 else TOO_FEW_GENES if count < min_nonzero_genes else None
        for total, count in zip(totals, nonzero, strict=True)
    ]
