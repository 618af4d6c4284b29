"""TPM has the properties that define it, and values that are not what they are declared as are refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from dataprep.genes.identifiers import GeneMapping
from dataprep.pipeline import quality_control as qc
from dataprep.pipeline.normalization import linear_values, log1p_tpm
from dataprep.runtime.command_line import UserError
from dataprep.sources import Units

# float16 holds about three decimal digits
RELATIVE = 2e-3


def mapping(columns: list[int], lengths: list[float]) -> GeneMapping:
    placed = [column for column in columns if column >= 0]
    return GeneMapping(np.array(columns), np.array(lengths), 0, len(placed) - len(set(placed)))


def normalise(values: np.ndarray, units: Units, genes: GeneMapping, size: int) -> np.ndarray:
    samples, ids = [f"s{n}" for n in range(len(values))], [f"g{n}" for n in range(values.shape[1])]
    return log1p_tpm(linear_values("x", values.astype(np.float32), units, samples, ids), units, genes, size)


def check(values: np.ndarray, units: Units) -> np.ndarray:
    samples, ids = [f"s{n}" for n in range(len(values))], [f"g{n}" for n in range(values.shape[1])]
    return linear_values("source x", values.astype(np.float32), units, samples, ids)


def test_tpm_of_two_genes_by_hand() -> None:
    # 10 reads on 1,000 bp and 30 on 3,000 bp: the same density, half a million each
    expression = normalise(np.array([[10, 30]]), "counts", mapping([0, 1], [1000, 3000]), 2)
    assert np.allclose(expression, np.log1p(500_000), rtol=RELATIVE)


@hypothesis_settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    genes=st.integers(2, 50),
    units=st.sampled_from(["counts", "estimated_counts", "fpkm"]),
)
def test_tpm_add_up_to_a_million_when_all_genes_are_in_the_vocabulary(seed: int, genes: int, units: Units) -> None:
    rng = np.random.default_rng(seed)
    values = rng.poisson(300, (3, genes)) + 40.0
    lengths = rng.uniform(200, 20_000, genes)
    expression = normalise(values, units, mapping(list(range(genes)), list(lengths)), genes)
    total = np.expm1(expression.astype(np.float64)).sum(axis=1)
    assert np.allclose(total, 1e6, rtol=10 * RELATIVE)


@hypothesis_settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), factor=st.integers(2, 1000))
def test_sequencing_deeper_changes_nothing(seed: int, factor: int) -> None:
    rng = np.random.default_rng(seed)
    values, genes = rng.poisson(50, (2, 20)) + 1.0, mapping(list(range(20)), list(rng.uniform(200, 9000, 20)))
    once, deeper = (normalise(values * scale, "counts", genes, 20) for scale in (1, factor))
    assert np.allclose(once, deeper, rtol=RELATIVE)


def test_genes_outside_the_vocabulary_count_in_the_sum() -> None:
    expression = normalise(np.array([[10, 90]]), "counts", mapping([0, -1], [1000, 1000]), 1)
    assert np.allclose(expression, np.log1p(100_000), rtol=RELATIVE)


def test_what_a_source_does_not_measure_is_missing_and_not_zero() -> None:
    expression = normalise(np.array([[0, 90]]), "counts", mapping([2, 0], [1000, 1000]), 3)
    assert expression[0, 2] == 0
    assert np.isnan(expression[0, 1])
    assert np.isnan(expression[0]).sum() == 1


def test_rows_of_one_gene_are_summed() -> None:
    expression = normalise(np.array([[10, 20, 70]]), "counts", mapping([0, 0, 1], [1000, 1000, 1000]), 2)
    assert np.allclose(np.expm1(expression.astype(float)), [[300_000, 700_000]], rtol=10 * RELATIVE)


@pytest.mark.parametrize(
    ("units", "transform"), [("log1p_tpm", np.log1p), ("log2_tpm_plus_1", lambda x: np.log2(x + 1))]
)
def test_logarithms_of_tpm_come_out_as_the_tpm_they_are_of(units: Units, transform: np.ufunc) -> None:
    tpm = np.array([[250_000.0, 749_990.0, 10.0, 0.0]])
    genes = mapping([0, 1, 2, 3], [500, 9000, 100, 70])
    assert np.allclose(normalise(transform(tpm), units, genes, 4), normalise(tpm, "tpm", genes, 4), rtol=RELATIVE)


def test_tpm_and_fpkm_ignore_lengths() -> None:
    tpm = np.array([[250_000.0, 749_990.5]])
    short, long = mapping([0, 1], [500, 500]), mapping([0, 1], [500, 9000])
    for units in ("tpm", "fpkm"):
        assert np.array_equal(normalise(tpm, units, short, 2), normalise(tpm, units, long, 2))


def test_a_profile_of_zeros_is_zero_and_refused() -> None:
    genes = mapping([0, 1], [500, 500])
    expression = normalise(np.zeros((1, 2)), "counts", genes, 2)
    assert (expression == 0).all()
    assert qc.refusal(np.zeros(1), qc.nonzero_genes(expression), 1) == [qc.NO_EXPRESSION]


def test_quality_counts_measured_genes_that_are_not_zero() -> None:
    expression = np.array([[1, 0, np.nan, 2], [1, 1, 1, 1]], np.float16)
    assert qc.nonzero_genes(expression).tolist() == [2, 4]
    assert qc.refusal(np.ones(2), np.array([2, 4]), 3) == [qc.TOO_FEW_GENES, None]


BIG = [[1000.0, 2000.0, 40.0], [1000.0, 2000.0, 40.0]]


@pytest.mark.parametrize(
    ("place", "value", "units", "message"),
    [
        ((1, 2), -1.0, "counts", r"1 of 6 values are negative, e\.g\. -1 \(gene g2, sample s1\)"),
        ((0, 1), np.nan, "counts", r"1 of 6 values are missing or not finite, e\.g\. nan \(gene g1, sample s0\)"),
        ((0, 1), np.inf, "tpm", r"1 of 6 values are missing or not finite, e\.g\. inf"),
        ((0, 0), 3.5, "counts", r"1 of 6 values are fractional, though declared as counts, e\.g\. 3\.5 \(gene g0"),
        ((0, 0), 13.9, "log1p_tpm", r"values are above ln\(1,000,000 \+ 1\)"),
        ((0, 0), 19.99, "log2_tpm_plus_1", r"values are above log2\(1,000,000 \+ 1\)"),
        ((0, 0), 2e6, "tpm", r"1 of 2 samples do not add up to a million TPM, though declared as tpm"),
    ],
)
def test_values_that_are_not_what_they_are_declared_as_are_named(
    place: tuple[int, int], value: float, units: Units, message: str
) -> None:
    values = np.array(BIG)
    if units == "tpm":
        values *= 1e6 / values.sum(axis=1, keepdims=True)
    if units.startswith("log"):
        values = np.log1p(values)
    values[place] = value
    with pytest.raises(UserError, match=message):
        check(values, units)


@pytest.mark.parametrize("units", ["counts", "estimated_counts", "tpm", "fpkm"])
def test_logarithms_declared_as_something_else_are_recognised(units: Units) -> None:
    with pytest.raises(UserError, match=rf"2 of 2 samples look like logarithms, not {units}"):
        check(np.log2(np.array(BIG) + 1), units)


def test_few_whole_reads_are_no_logarithms() -> None:
    assert check(np.array([[0.0, 3.0, 12.0]]), "counts").tolist() == [[0, 3, 12]]


def test_tables_of_part_of_the_genes_are_still_tpm() -> None:
    check(np.array([[300_000.0, 270_000.0]]), "tpm")
