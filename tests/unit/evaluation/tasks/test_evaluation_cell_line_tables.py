"""Tables of cell lines are read as people have them, and what does not fit is said with counts and examples."""

import numpy as np
import pyarrow as pa
import pytest

from dataprep.runtime.command_line import UserError
from evaluation.inference.cell_line_tables import (
    first_fields,
    profiles_of_lines,
    read_drug_response,
    read_lines_by_targets,
)

SAMPLES = pa.table(
    {
        "sample_id": ["s1", "s2", "s3", "s4"],
        "row_id": [0, 1, 2, 3],
        "depmap": ["ACH-2", None, "ACH-1", "ACH-2"],
    }
)


def write(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    return str(tmp_path / name)


def test_wide_and_long_tables_of_the_same_responses_are_the_same(tmp_path):
    wide = read_drug_response(write(tmp_path, "w.csv", '"",ACH-1,ACH-2\nA,1.5,NA\nB,,-2\n'))
    long = read_drug_response(
        write(tmp_path, "l.tsv", "drug\tcell_line\tvalue\tx\nB\tACH-2\t-2\t\nA\tACH-1\t1\t\nA\tACH-1\t2\tz\n")
    )
    for table in (wide, long):
        assert (table.lines, table.targets) == (("ACH-1", "ACH-2"), ("A", "B"))
        np.testing.assert_array_equal(table.values, [[1.5, np.nan], [np.nan, -2]])
    assert len(wide.pairs) == 2


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("d,L1,L2\nA,1,high\nB,2,3\n", "1 values are no numbers, e.g. 'high' in column 'L2'"),
        ("d,L1,L1\nA,1,2\n", "1 names of columns occur twice, e.g. L1"),
        ("d,L1,L2\nA,1,2\nA,1,2\n", "1 names of rows occur twice, e.g. A"),
        ("", "is empty"),
    ],
)
def test_what_is_no_table_of_numbers_is_refused(tmp_path, text, complaint):
    with pytest.raises(UserError, match=complaint):
        read_lines_by_targets(write(tmp_path, "t.csv", text))


def test_profiles_of_a_line_are_averaged_and_a_missing_value_leaves_its_profile_out():
    profiles = profiles_of_lines(SAMPLES, "c", "depmap", ["ACH-1", "ACH-2", "ACH-3"], "--x")
    assert profiles.lines == ("ACH-1", "ACH-2")
    values = np.array([[1.0, np.nan], [5, np.nan], [3, 4]])  # of rows 0, 2, 3
    np.testing.assert_array_equal(profiles.mean(values), [[5, np.nan], [2, 4]])
    assert profiles.complete(np.array([0, 1])).tolist() == [0]  # of ACH-2 one of two is gone
    only = profiles.of(["ACH-2"])
    assert only.row_ids.tolist() == [0, 3]
    np.testing.assert_array_equal(only.mean(values[[0, 2]]), [[2, 4]])


def test_lines_that_no_profile_names_are_refused_with_examples_of_both():
    with pytest.raises(UserError, match=r"none of the table's 1 cell lines \(A549\).*\(s1, s2, s3\): --x names"):
        profiles_of_lines(SAMPLES, "c", "sample_id", ["A549"], "--x")
    with pytest.raises(UserError, match=r"c has no column 'line' \(--x\); it has sample_id, row_id, depmap"):
        profiles_of_lines(SAMPLES, "c", "line", ["A549"], "--x")


def test_a_list_of_genes_may_have_further_columns(tmp_path):
    assert first_fields(write(tmp_path, "core.txt", "GENE\tHGNC\nAARS\tx\n\nABCE1\n")) == ["GENE", "AARS", "ABCE1"]
