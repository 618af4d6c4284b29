"""From the values of a source to log1p(TPM) over the vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dataprep.corpus import TpmOver
from dataprep.genes.identifiers import GeneMapping
from dataprep.runtime.command_line import UserError
from dataprep.sources import RawProfiles, Source, Units
from dataprep.sources.source import BY_LENGTH

# TPM of all genes add up to a million; single-precision and rounded tables come out a little above.
TPM_TOTAL = 1e6
_MAX_TPM_TOTAL = 1.01 * TPM_TOTAL
# Sources often publish part of the genes, so the sum may be well below; a tenth is no longer TPM of a transcriptome.
_MIN_TPM_TOTAL = 0.1 * TPM_TOTAL
# The logarithm of any sequencing count stays below this (2^30 reads of one gene), and the largest of thousands of
# real counts or FPKM does not.
_LARGEST_LOGARITHM = 30.0
_LOG_UNITS = ("log1p_tpm", "log2_tpm_plus_1")
_WHOLE_UNITS = ("counts", "base_coverage")
# Units that are numbers of reads.
READS = ("counts", "estimated_counts")
# So many values of a profile are not whole numbers by chance.
_MANY_VALUES = 100
# What rounding to four digits may take from the logarithm of zero plus an offset.
_LOG_ROUNDING = 1e-3
# float16 drops 13 of float32's bits; what is so many units from where it turns from one value to the next is near.
_HALF_OF_LAST_PLACE, _NEAR_HALF = 2**12, 16
# Under it float16 drops more.
_SMALLEST_NORMAL_FLOAT16 = np.float32(2.0**-14)
# Values that are looked at together, in a core's cache.
_VALUES_AT_ONCE = 2**16


@dataclass(frozen=True)
class NormalisedProfiles:
    """Profiles over the vocabulary, and what became of the values they were made of.

    ``expression`` is float16 [n, G], log1p(TPM), NaN where the source does not measure the gene. The rest is float64
    [n]: ``totals`` is the sum of the values over all genes; ``missing_share`` the share of them without a value;
    ``largest_share`` and ``largest_row`` (int64) the part of the transcripts that one gene holds, and its row.
    ``outside_share``, ``unrecognised_share`` and ``left_out_share`` are the parts of the summed values in genes outside
    the vocabulary, in names that no table knows, and in rows that do not enter the sum of TPM. What a source cannot say
    is NaN: ``library_sizes`` where the values are no reads, ``mitochondrial_share`` and ``ribosomal_share`` of the
    summed values where it has no such genes.
    """

    expression: np.ndarray
    totals: np.ndarray
    missing_share: np.ndarray
    largest_share: np.ndarray
    largest_row: np.ndarray
    outside_share: np.ndarray
    unrecognised_share: np.ndarray
    left_out_share: np.ndarray
    library_sizes: np.ndarray
    mitochondrial_share: np.ndarray
    ribosomal_share: np.ndarray


def normalise(
    where: str,
    raw: RawProfiles,
    source: Source,
    genes: GeneMapping,
    vocabulary_size: int,
    tpm_over: TpmOver = "source",
) -> NormalisedProfiles:
    """Check the values of ``raw`` against the units that the source declares, and normalise them.

    Raises :class:`UserError` as :func:`linear_values` does.
    """
    counted = np.flatnonzero(genes.counted)
    values, gene_ids = raw.values, raw.gene_ids
    if len(counted) < len(gene_ids):
        values, gene_ids = raw.values[:, counted], tuple(raw.gene_ids[row] for row in counted)
    linear = linear_values(where, values, source.units, raw.sample_ids, gene_ids, source.log_offset)
    chosen = genes.rows(counted)
    expression = log1p_tpm(linear, source.units, chosen, vocabulary_size, tpm_over)
    filled, missing_share = linear, np.zeros(len(linear))
    if _lacks_values(linear):
        missing = np.isnan(linear)
        filled, missing_share = np.where(missing, np.float32(0), linear), missing.mean(axis=1)
    totals = filled.sum(axis=1, dtype=np.float64)
    left_out = _unchecked_sum(raw.values[:, ~genes.counted], source.units)
    named = _unchecked_sum(raw.values[:, ~genes.counted & genes.unrecognised], source.units)
    outside, unrecognised = (_sum_of(filled, flags) for flags in (chosen.columns < 0, chosen.unrecognised))
    largest_share, largest = _largest(filled, _weights(source.units, chosen))
    return NormalisedProfiles(
        expression=expression,
        totals=totals,
        missing_share=missing_share,
        largest_share=largest_share,
        largest_row=counted[largest],
        outside_share=_share(outside, totals),
        unrecognised_share=_share(unrecognised + named, totals + named),
        left_out_share=_share(left_out, totals + left_out),
        library_sizes=_library_sizes(totals, source),
        mitochondrial_share=_share_of_set(filled, chosen.mitochondrial, totals),
        ribosomal_share=_share_of_set(filled, chosen.ribosomal, totals),
    )


def log1p_tpm(
    linear: np.ndarray, units: Units, genes: GeneMapping, vocabulary_size: int, tpm_over: TpmOver = "source"
) -> np.ndarray:
    """Normalise profiles [n, S] of linear values to float16 [n, G]; NaN where the source does not measure the gene.

    TPM_i = (C_i / L_i) / sum_j(C_j / L_j) * 1e6, the sum over all S genes of the source, or over those
    of them that are in the vocabulary, then ln(TPM + 1). FPKM and TPM
    are divided by their sum alone: they are per length already. Rows of one vocabulary gene are summed. A value that is
    NaN is not measured: it stays NaN and adds nothing. A profile that is zero throughout comes out as zero.
    """
    weight_per_gene = _weights(units, genes)
    summed = weight_per_gene if tpm_over == "source" else np.where(genes.columns >= 0, weight_per_gene, np.float32(0))
    totals = (np.nan_to_num(linear, nan=0.0) if _lacks_values(linear) else linear) @ summed
    scale = np.divide(TPM_TOTAL, totals, out=np.zeros(len(totals), np.float64), where=totals > 0)
    tpm = _onto_vocabulary(linear, weight_per_gene, genes, vocabulary_size)
    tpm *= scale[:, None].astype(np.float32)
    return log1p_float16(tpm)


def log1p_float16(values: np.ndarray) -> np.ndarray:
    """ln(x + 1) of float32 [n, G], which is overwritten, as float16 [n, G]: to the bit what np.log1p rounds to, in half
    of the time. x >= 0, or NaN, which stays NaN.

    NumPy has log1p for one value at a time and log for many. With u = 1 + x as it is rounded, ln(1 + x) is
    ln(u) + (x - (u - 1)) / u, whose last term makes up for what rounding took from x. That is off by four units in the
    last place of float32 at most (measured for x from 2^-16 to 2^21); where it could change the float16, log1p tells.
    """
    for row in values:
        one_more = row + np.float32(1)
        logarithms = np.log(one_more)
        lost = row - (one_more - np.float32(1))
        lost /= one_more
        logarithms += lost
        # the bits that float16 drops, counted from half of its last place
        from_half = logarithms.view(np.uint32) + np.uint32(_HALF_OF_LAST_PLACE + _NEAR_HALF)
        from_half &= np.uint32(2 * _HALF_OF_LAST_PLACE - 1)
        doubtful = (from_half <= 2 * _NEAR_HALF) | ((logarithms < _SMALLEST_NORMAL_FLOAT16) & (logarithms > 0))
        places = np.flatnonzero(doubtful)
        logarithms[places] = np.log1p(row[places])
        row[:] = logarithms
    # by Arrow, in two thirds of NumPy's time
    return pa.array(values.reshape(-1)).cast(pa.float16(), safe=False).to_numpy().reshape(values.shape)


def linear_values(
    where: str,
    values: np.ndarray,
    units: Units,
    sample_ids: Sequence[str],
    gene_ids: Sequence[str],
    log_offset: float = 1.0,
) -> np.ndarray:
    """Check values, float32 [n, S], against the units declared for them, and undo a logarithm. NaN stays NaN.

    Raises :class:`UserError` with counts and an example for values that are infinite, negative, fractional (as counts),
    or of another scale.
    """
    if units in _WHOLE_UNITS and _are_whole(values):
        return values

    def refuse(wrong: np.ndarray, what: str, hint: str = "") -> None:
        if wrong.any():
            sample, gene = np.argwhere(wrong)[0]
            raise UserError(
                f"{where}: {int(wrong.sum()):,} of {wrong.size:,} values {what}, e.g. {values[sample, gene]:g} "
                f"(gene {gene_ids[gene]}, sample {sample_ids[sample]}){hint}"
            )

    missing = np.isnan(values)
    given = np.where(missing, np.float32(0), values) if missing.any() else values
    refuse(np.isinf(given), "are not finite")
    if units in _LOG_UNITS:
        base, name = (np.log, "ln") if units == "log1p_tpm" else (np.log2, "log2")
        lowest, highest = float(base(log_offset)), float(base(_MAX_TPM_TOTAL + log_offset))
        hint = "" if log_offset != 1 else "; was less than 1 added before the logarithm (setting log_offset)?"
        refuse(~missing & (given < lowest - _LOG_ROUNDING), f"are below {name}({log_offset:g})", hint)
        refuse(given > highest, f"are above {name}(1,000,000 + {log_offset:g}), though declared as {units}")
        exponential = np.exp if units == "log1p_tpm" else np.exp2
        linear = np.maximum(exponential(given.astype(np.float64)) - log_offset, 0).astype(np.float32)
        linear[missing] = 0
    else:
        refuse(given < 0, "are negative")
        _refuse_logarithms(where, given, units, sample_ids)
        if units in _WHOLE_UNITS:
            # RSEM and salmon share reads between genes, and say so as estimated_counts
            refuse(given != np.rint(given), f"are fractional, though declared as {units}")
        linear = given
    if units in ("tpm", *_LOG_UNITS):
        _require_tpm_totals(where, linear, units, sample_ids)
    if missing.any():
        linear = np.where(missing, np.float32(np.nan), linear)
    return linear


def _are_whole(values: np.ndarray) -> bool:
    """Whether all values, float32 [n, S], are whole numbers from 0 on, none missing or infinite."""
    rows = max(1, _VALUES_AT_ONCE // max(values.shape[1], 1))
    for start in range(0, len(values), rows):
        some = values[start : start + rows]
        # NaN is the smallest and the largest where there is one
        if not (some.min(initial=0) >= 0 and some.max(initial=0) < np.inf and (np.rint(some) == some).all()):
            return False
    return True


def _lacks_values(values: np.ndarray) -> bool:
    return bool(np.isnan(values.min(initial=0)))


def _library_sizes(totals: np.ndarray, source: Source) -> np.ndarray:
    """Reads of each profile, NaN where the units do not say."""
    if source.units in READS:
        return totals
    return totals / source.read_length if source.read_length is not None else np.full(len(totals), np.nan)


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
    # many whole numbers add up to a million in rounded TPM of all genes, and then only
    whole = (np.abs(tpm - np.rint(tpm)) <= 1e-3 * np.maximum(tpm, 1)).all(axis=1) & (totals > 0)
    whole &= np.count_nonzero(tpm, axis=1) >= _MANY_VALUES
    wrong |= whole & (np.abs(totals - TPM_TOTAL) > 0.01 * TPM_TOTAL)
    if not wrong.any():
        return
    first = int(np.flatnonzero(wrong)[0])
    hint = ""
    if whole[wrong].all():
        hint = (
            "; these look like counts" if units == "tpm" else "; these look like logarithms of counts: undo them first"
        )
    raise UserError(
        f"{where}: {int(wrong.sum()):,} of {len(tpm):,} samples do not add up to a million TPM, though declared as "
        f"{units}: {totals[first]:,.0f} (sample {sample_ids[first]}){hint}"
    )


def _weights(units: Units, genes: GeneMapping) -> np.ndarray:
    """What a value of each row counts in the sum: float32 [S]."""
    weight = 1.0 / genes.lengths_bp if units in BY_LENGTH else np.ones(len(genes.columns))
    return np.where(genes.counted, weight, 0.0).astype(np.float32)


def _unchecked_sum(values: np.ndarray, units: Units) -> np.ndarray:
    """The sum over rows that name no gene, float64 [n]; what they hold is not checked."""
    values = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    if units in _LOG_UNITS:
        values = (
            np.exp(np.minimum(values, _LARGEST_LOGARITHM))
            if units == "log1p_tpm"
            else np.exp2(np.minimum(values, _LARGEST_LOGARITHM))
        )
    return np.maximum(values, 0).sum(axis=1)


def _largest(linear: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The share of each profile's transcripts that its largest gene holds, float64 [n], and that gene's row."""
    rows = np.array([(profile * weights).argmax() for profile in linear], np.int64)
    return _share(linear[np.arange(len(linear)), rows] * weights[rows], linear @ weights), rows


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(len(whole), np.float64), where=whole > 0)


def _sum_of(linear: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The sum over chosen rows, [n]."""
    return linear @ chosen.astype(np.float32) if chosen.any() else np.zeros(len(linear), np.float32)


def _share_of_set(linear: np.ndarray, of_set: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """What the genes of a set hold, float64 [n]; NaN where there are none of them."""
    if not of_set.any():
        return np.full(len(totals), np.nan)
    return _share(linear @ of_set.astype(np.float32), totals)


def _onto_vocabulary(linear: np.ndarray, weight: np.ndarray, genes: GeneMapping, vocabulary_size: int) -> np.ndarray:
    rows = np.flatnonzero(genes.columns >= 0)
    columns, first = np.unique(genes.columns[rows], return_index=True)
    row_of = np.zeros(vocabulary_size, np.int64)
    row_of[columns] = rows[first]
    placed = np.take(linear, row_of, axis=1)
    placed *= weight[row_of]
    placed[:, np.delete(np.arange(vocabulary_size), columns)] = np.nan
    for row in np.delete(rows, first):
        column, added = genes.columns[row], linear[:, row] * weight[row]
        # of two rows of a gene, one may have no value
        placed[:, column] = np.where(np.isnan(placed[:, column]), added, placed[:, column] + np.nan_to_num(added))
    return placed
