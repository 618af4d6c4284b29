"""From the values of a source to log1p(TPM) over the vocabulary."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dataprep.genes.identifiers import GeneMapping
from dataprep.runtime.command_line import UserError
from dataprep.sources import Units

# TPM of all genes add up to a million; single-precision and rounded tables come out a little above.
TPM_TOTAL = 1e6
_MAX_TPM_TOTAL = 1.01 * TPM_TOTAL
# Sources often publish part of the genes, so the sum may be well below; a tenth is no longer TPM of a transcriptome.
_MIN_TPM_TOTAL = 0.1 * TPM_TOTAL
# The logarithm of any sequencing count stays below this (2^30 reads of one gene), and the largest of thousands of
# real counts or FPKM does not.
_LARGEST_LOGARITHM = 30.0
_LOG_UNITS = {"log1p_tpm": "ln(TPM + 1)", "log2_tpm_plus_1": "log2(TPM + 1)"}


def log1p_tpm(linear: np.ndarray, units: Units, genes: GeneMapping, vocabulary_size: int) -> np.ndarray:
    """Normalise profiles [n, S] of linear values to float16 [n, G]; NaN where the source does not measure the gene.

    TPM_i = (C_i / L_i) / sum_j(C_j / L_j) * 1e6, the sum over all S genes of the source, then ln(TPM + 1)
    (docs/model.md, Input). FPKM and TPM are divided by their sum alone: they are per length already. Rows of one
    vocabulary gene are summed. A profile that is zero throughout comes out as zero.
    """
    per_base = units in ("counts", "estimated_counts")
    weight_per_gene = (1.0 / genes.lengths_bp if per_base else np.ones(len(genes.columns))).astype(np.float32)
    totals = linear @ weight_per_gene
    scale = np.divide(TPM_TOTAL, totals, out=np.zeros(len(totals), np.float64), where=totals > 0)
    tpm = _onto_vocabulary(linear, weight_per_gene, genes, vocabulary_size)
    tpm *= scale[:, None].astype(np.float32)
    return np.log1p(tpm, out=tpm).astype(np.float16)


def linear_values(
    where: str, values: np.ndarray, units: Units, sample_ids: Sequence[str], gene_ids: Sequence[str]
) -> np.ndarray:
    """Check values, float32 [n, S], against the units declared for them, and undo a logarithm.

    Raises :class:`UserError` with counts and an example for values that are not finite, negative, fractional (as
    counts), or of another scale.
    """

    def refuse(wrong: np.ndarray, what: str) -> None:
        if wrong.any():
            sample, gene = np.argwhere(wrong)[0]
            raise UserError(
                f"{where}: {int(wrong.sum()):,} of {wrong.size:,} values {what}, e.g. {values[sample, gene]:g} "
                f"(gene {gene_ids[gene]}, sample {sample_ids[sample]})"
            )

    refuse(~np.isfinite(values), "are missing or not finite")
    refuse(values < 0, "are negative")
    _refuse_logarithms(where, values, units, sample_ids)
    if units == "counts":
        # only counts: RSEM and salmon share reads between genes, and say so as estimated_counts
        refuse(values != np.rint(values), "are fractional, though declared as counts")
    if units == "log1p_tpm":
        refuse(values > np.log1p(_MAX_TPM_TOTAL), "are above ln(1,000,000 + 1), though declared as log1p_tpm")
        values = np.expm1(values)
    if units == "log2_tpm_plus_1":
        refuse(values > np.log2(_MAX_TPM_TOTAL + 1), "are above log2(1,000,000 + 1), though declared as such")
        values = np.exp2(values) - np.float32(1)
    if units in ("tpm", *_LOG_UNITS):
        _require_tpm_totals(where, values, units, sample_ids)
    return values


def _refuse_logarithms(where: str, values: np.ndarray, units: Units, sample_ids: Sequence[str]) -> None:
    if units in _LOG_UNITS or not values.size:
        return
    largest = values.max(axis=1)
    suspect = (largest > 0) & (largest <= _LARGEST_LOGARITHM)
    suspect[suspect] = (values[suspect] != np.rint(values[suspect])).any(axis=1)
    if suspect.any():
        first = int(np.flatnonzero(suspect)[0])
        raise UserError(
            f"{where}: {int(suspect.sum()):,} of {len(values):,} samples look like logarithms, not {units}: fractional "
            f"and at most {largest[first]:.4g} (sample {sample_ids[first]})"
        )


def _require_tpm_totals(where: str, tpm: np.ndarray, units: Units, sample_ids: Sequence[str]) -> None:
    totals = tpm.sum(axis=1, dtype=np.float64)
    wrong = (totals > _MAX_TPM_TOTAL) | ((totals < _MIN_TPM_TOTAL) & (totals > 0))
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise UserError(
            f"{where}: {int(wrong.sum()):,} of {len(tpm):,} samples do not add up to a million TPM, though declared as "
            f"{units}: {totals[first]:,.0f} (sample {sample_ids[first]})"
        )


def _onto_vocabulary(linear: np.ndarray, weight: np.ndarray, genes: GeneMapping, vocabulary_size: int) -> np.ndarray:
    rows = np.flatnonzero(genes.columns >= 0)
    columns, first = np.unique(genes.columns[rows], return_index=True)
    placed = np.full((len(linear), vocabulary_size), np.nan, np.float32)
    placed[:, columns] = linear[:, rows[first]] * weight[rows[first]]
    for row in np.delete(rows, first):
        placed[:, genes.columns[row]] += linear[:, row] * weight[row]
    return placed
