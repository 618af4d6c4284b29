"""Which profiles are refused, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dataprep.pipeline.normalization import NormalisedProfiles

EXCLUDED = "excluded_by_settings"
DUPLICATE_SAMPLE = "duplicate_sample_id"
DUPLICATE_PROFILE = "duplicate_profile"
REPLICATE = "added_to_replicate"
NO_EXPRESSION = "no_expression"
TOO_FEW_GENES = "too_few_nonzero_genes"
MISSING_VALUES = "too_many_missing_values"
ONE_GENE = "one_gene_dominates"
SMALL_LIBRARY = "library_too_small"
MITOCHONDRIAL = "too_much_mitochondrial"
RIBOSOMAL = "too_much_ribosomal"
NEAR_DUPLICATE = "near_duplicate"
OTHER_SEX = "sex_disagrees_with_label"
_INFINITY_BITS = np.float16(np.inf).view(np.int16)


@dataclass(frozen=True)
class Thresholds:
    """What a profile has to keep to; see the settings of the same names."""

    min_nonzero_genes: int
    max_missing_share: float
    max_gene_share: float
    min_library_size: float | None = None
    max_mitochondrial_share: float | None = None
    max_ribosomal_share: float | None = None


def nonzero_genes(expression: np.ndarray) -> np.ndarray:
    """How many vocabulary genes each profile, float16 [n, G], expresses: int64 [n]. Unmeasured (NaN) is not zero
    and not expressed either."""
    # of their bits, as whole numbers: NumPy compares float16 one by one. NaN comes after infinity
    bits = np.asarray(expression, np.float16).view(np.int16)
    return np.count_nonzero((bits > 0) & (bits <= _INFINITY_BITS), axis=1)


def refusals(
    profiles: NormalisedProfiles, gene_ids: Sequence[str], thresholds: Thresholds
) -> list[tuple[str, str] | None]:
    """The reason to refuse each profile and the value that is against it, or None.

    The published corpus asks for 14,000 non-zero genes, which also turns single cells (about 3,050) away. A limit on
    what a source does not say (NaN) refuses nothing.
    """

    def refusal(number: int, nonzero: int) -> tuple[str, str] | None:
        if profiles.missing_share[number] > thresholds.max_missing_share:
            return MISSING_VALUES, f"{profiles.missing_share[number]:.3f}"
        if profiles.totals[number] <= 0:
            return NO_EXPRESSION, "0"
        if profiles.largest_share[number] > thresholds.max_gene_share:
            return ONE_GENE, f"{gene_ids[profiles.largest_row[number]]}: {profiles.largest_share[number]:.3f}"
        if profiles.library_sizes[number] < (thresholds.min_library_size or 0):
            return SMALL_LIBRARY, f"{profiles.library_sizes[number]:.0f}"
        for reason, share, limit in (
            (MITOCHONDRIAL, profiles.mitochondrial_share[number], thresholds.max_mitochondrial_share),
            (RIBOSOMAL, profiles.ribosomal_share[number], thresholds.max_ribosomal_share),
        ):
            if limit is not None and share > limit:
                return reason, f"{share:.3f}"
        if nonzero < thresholds.min_nonzero_genes:
            return TOO_FEW_GENES, str(nonzero)
        return None

    return [refusal(number, int(nonzero)) for number, nonzero in enumerate(nonzero_genes(profiles.expression))]
