"""TPM has the properties that define it, and values that are not what they are declared as are refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from dataprep.genes.identifiers import GeneMapping
from dataprep.pipeline import quality_control as qc
from dataprep.pipeline.normalization import NormalisedProfiles, linear_values, log1p_float16, log1p_tpm
from dataprep.runtime.command_line import UserError
from dataprep.sources import Units

# float16 holds about three decimal digits
RELATIVE = 2e-3


def mapping(columns: list[int], lengths: list[float]) -> GeneMapping:
    placed = [column for column in columns if column >= 0]
    every, none = np.ones(len(columns), bool), np.zeros(len(columns), bool)
    return GeneMapping(np.array(columns), np.array(lengths), every, none, none, none, len(placed) - len(set(placed)))


def normalise(values: np.ndarray, units: Units, genes: GeneMapping, size: int) -> np.ndarray:
    samples, ids = [f"s{n}" for n in range(len(values))], [f"g{n}" for n in range(values.shape[1])]
    return log1p_tpm(linear_values("x", values.astype(np.float32), units, samples, ids), units, genes, size)


def refusals(expression: np.ndarray, min_nonzero_genes: int = 1, **found: np.ndarray) -> list[tuple[str, str] | None]:
    zero, one = np.zeros(len(expression)), np.ones(len(expression))
    given = {"totals": one, "missing_share": zero, "largest_share": zero, "largest_row": np.full(len(expression), 2)}
    shares = dict.fromkeys(("outside_share", "unrecognised_share", "left_out_share"), zero)
    unknown = dict.fromkeys(("library_sizes", "mitochondrial_share", "ribosomal_share"), np.nan * zero)
    profiles = NormalisedProfiles(expression=expression, **(given | shares | unknown | found))
    ids = [f"g{n}" for n in range(expression.shape[1])]
    return qc.refusals(profiles, ids, qc.Thresholds(min_nonzero_genes, 0.1, 0.8))


def check(values: np.ndarray, units: Units) -> np.ndarray:
    samples, ids = [f"s{n}" for n in range(len(values))], [f"g{n}" for n in range(values.shape[1])]
    return linear_values("source x", values.astype(np.float32), units, samples, ids)


def test_tpm_of_two_genes_by_hand() -> None:
    # 10 reads on 1,000 bp and 30 on 3,000 bp: the same density, half a million each
    expression = normalise(np.array([[10, 30]]), "counts", mapping([0, 1], [1000, 3000]), 2)
    assert np.allclose(expression, np.log1p(500_000), rtol=RELATIVE)


def test_tpm_can_be_shares_of_the_vocabulary_alone() -> None:
    genes, values = mapping([0, -1, 1], [1000, 500, 3000]), np.array([[10, 500, 30]], np.float32)
    expression = log1p_tpm(values, "counts", genes, 2, "vocabulary")
    assert np.allclose(expression, np.log1p(500_000), rtol=RELATIVE)
    assert np.allclose(log1p_tpm(values, "counts", genes, 2), np.log1p(1e6 * 0.01 / 1.02), rtol=RELATIVE)


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


def test_logarithms_are_rounded_as_those_of_each_value_by_itself() -> None:
    """Also where the logarithm lies between two float16, where the last bit of float32 decides."""
    one_after_the_other = np.arange(np.float16(15).view(np.uint16), dtype=np.uint16).view(np.float16).astype(np.float64)
    between = np.expm1((one_after_the_other[:-1] + one_after_the_other[1:]) / 2).astype(np.float32)
    near = (between.view(np.int32) + np.arange(-8, 9)[:, None]).astype(np.int32).view(np.float32)
    drawn = np.random.default_rng(0).lognormal(0, 4, (64, 10_000)).astype(np.float32)
    special = np.array([[0, np.nan, 1e6, 2.0**-30]], np.float32)
    for values in (near[:, 8:], drawn, special):
        expected = np.log1p(values).astype(np.float16)
        assert (log1p_float16(values.copy()).view(np.uint16) == expected.view(np.uint16)).all()


def test_tpm_and_fpkm_ignore_lengths() -> None:
    tpm = np.array([[250_000.0, 749_990.5]])
    short, long = mapping([0, 1], [500, 500]), mapping([0, 1], [500, 9000])
    for units in ("tpm", "fpkm"):
        assert np.array_equal(normalise(tpm, units, short, 2), normalise(tpm, units, long, 2))


def test_a_profile_of_zeros_is_zero_and_refused() -> None:
    genes = mapping([0, 1], [500, 500])
    expression = normalise(np.zeros((1, 2)), "counts", genes, 2)
    assert (expression == 0).all()
    assert refusals(expression, totals=np.zeros(1)) == [(qc.NO_EXPRESSION, "0")]


def test_quality_counts_measured_genes_that_are_not_zero() -> None:
    expression = np.array([[1, 0, np.nan, 2], [1, 1, 1, 1]], np.float16)
    assert qc.nonzero_genes(expression).tolist() == [2, 4]
    assert refusals(expression, min_nonzero_genes=3) == [(qc.TOO_FEW_GENES, "2"), None]


def test_a_profile_that_one_gene_dominates_or_with_many_missing_values_is_refused() -> None:
    expression = np.ones((3, 4), np.float16)
    found = refusals(expression, largest_share=np.array([0.9, 0.5, 0.8]), missing_share=np.array([0, 0.11, 0.1]))
    assert found == [(qc.ONE_GENE, "g2: 0.900"), (qc.MISSING_VALUES, "0.110"), None]


BIG = [[1000.0, 2000.0, 40.0], [1000.0, 2000.0, 40.0]]


@pytest.mark.parametrize(
    ("place", "value", "units", "message"),
    [
        ((1, 2), -1.0, "counts", r"1 of 6 values are negative, e\.g\. -1 \(gene g2, sample s1\)"),
        ((0, 1), np.inf, "tpm", r"1 of 6 values are not finite, e\.g\. inf \(gene g1, sample s0\)"),
        ((0, 1), -9.97, "log2_tpm_plus_1", r"1 of 6 values are below log2\(1\).*setting log_offset"),
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


def test_a_value_that_is_missing_stays_missing_and_adds_nothing() -> None:
    expression = normalise(np.array([[10, np.nan, 30]]), "counts", mapping([0, 1, 2], [1000, 1000, 1000]), 3)
    assert np.isnan(expression[0, 1])
    assert np.allclose(np.expm1(expression[0, [0, 2]].astype(float)), [250_000, 750_000], rtol=10 * RELATIVE)


def test_of_two_rows_of_a_gene_one_may_have_no_value() -> None:
    values = np.array([[10, np.nan, 70], [np.nan, 20, 80], [np.nan, np.nan, 5]])
    expression = normalise(values, "counts", mapping([0, 0, 1], [1000, 1000, 1000]), 2)
    found = np.expm1(expression.astype(float))
    assert np.allclose(found[:2], [[125_000, 875_000], [200_000, 800_000]], rtol=10 * RELATIVE)
    assert np.isnan(found[2, 0])


def test_another_offset_of_the_logarithm_is_undone() -> None:
    tpm = np.array([[250_000.0, 749_990.0, 10.0, 0.0]])
    values = np.round(np.log2(tpm + 0.001), 4).astype(np.float32)
    linear = linear_values("x", values, "log2_tpm_plus_1", ["s"], list("abcd"), 0.001)
    assert np.allclose(linear, tpm, rtol=1e-4)
    assert linear[0, 3] == 0


@pytest.mark.parametrize(
    ("units", "values", "message"),
    [
        ("tpm", np.arange(1.0, 500), "124,750 .*these look like counts"),
        ("log2_tpm_plus_1", np.round(np.log2(np.arange(500.0) + 1), 4), "124,750 .*look like logarithms of counts"),
    ],
)
def test_counts_declared_as_tpm_are_recognised(units: Units, values: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(values[None], units)
