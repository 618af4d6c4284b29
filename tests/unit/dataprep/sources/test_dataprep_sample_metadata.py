"""Metadata is kept as given, and samples without a row or a study are named."""

import gzip
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from dataprep.runtime.command_line import UserError
from dataprep.sources import TableSource
from dataprep.sources.sample_metadata import labels_for, read_metadata


def source(**settings: Any) -> TableSource:
    given = {"name": "x", "path": "x", "gene_id": "ensembl", "units": "counts", "samples": "y", "study_column": "study"}
    return TableSource(**given | settings)


@pytest.mark.parametrize("name", ["s.tsv", "s.tsv.gz", "s.csv"])
def test_values_are_strings_as_given_and_null_where_empty(tmp_path: Path, name: str) -> None:
    text = "sample\tstudy\tage\tstage\na\tS\t044\tNA\nb\tS\t\tii\n".replace("\t", "," if name.endswith("csv") else "\t")
    (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    table = read_metadata(str(tmp_path / name))
    assert table["age"].tolist()[0] == "044"
    assert pd.isna(table["age"].tolist()[1])
    assert table["stage"].tolist() == ["NA", "ii"]


def test_rows_come_in_the_order_of_the_samples() -> None:
    metadata = pd.DataFrame({"study": ["S", "S", "T"], "age": ["1", "2", "3"]}, index=["a", "b", "c"])
    labels = labels_for(source(), ["c", "a"], metadata)
    assert labels["age"].tolist() == ["3", "1"]
    assert labels["study_id"].tolist() == ["T", "S"]


def test_given_columns_do_not_replace_those_of_the_corpus() -> None:
    metadata = pd.DataFrame({"study": ["S"], "sample_id": ["other"], "split": ["x"]}, index=["a"])
    labels = labels_for(source(), ["a"], metadata)
    assert {"sample_id_given", "split_given"} <= set(labels.columns)
    assert "split" not in labels.columns


@pytest.mark.parametrize(
    ("samples", "metadata", "settings", "message"),
    [
        (["a", "z"], {"study": ["S"]}, {}, "1 of 2 samples have no row in the sample metadata, e.g. 'z'"),
        (["a"], {"study": [None]}, {}, "1 of 1 samples have no study"),
        (["a"], {"age": ["1"]}, {}, "no column 'study'; there are age"),
    ],
)
def test_samples_that_cannot_be_placed_are_named(
    samples: list[str], metadata: dict[str, list[Any]], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        labels_for(source(**settings), samples, pd.DataFrame(metadata, index=["a"]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("sample\tage\na\t1\na\t2\n", "1 samples have several rows, e.g. a"),
        ("sample\tage\na\t1\nb\t2\t3\tx\n", "1 of 2 rows have more than its 2 columns, e.g. that of 'b'"),
    ],
)
def test_a_bad_metadata_table_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "s.tsv").write_text(content)
    with pytest.raises(UserError, match=message):
        read_metadata(str(tmp_path / "s.tsv"))


@pytest.mark.parametrize(
    "content",
    [
        "sample\tage\tsex\na\t1\tf\nb\t2\tm\n",
        "age\tsex\na\t1\tf\nb\t2\tm\n",
        "sample\tage\tsex\t\na\t1\tf\t\nb\t2\tm\t\n",
        "sample\tage\tsex\na\t1\tf\t\nb\t2\tm\t\n",
        " sample\tage \tsex\r\na \t1\t f\r\nb\t2\tm\r\n\r\n",
        '\ufeffsample\tage\tsex\n"a"\t1\tf\nb\t2\tm\n',
    ],
)
def test_no_column_is_shifted(tmp_path: Path, content: str) -> None:
    (tmp_path / "s.tsv").write_bytes(content.encode())
    table = read_metadata(str(tmp_path / "s.tsv"))
    assert table.to_dict() == {"age": {"a": "1", "b": "2"}, "sex": {"a": "f", "b": "m"}}


def test_rows_may_end_early_and_columns_repeat(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("sample,age,age,note\na,1,2\nb,3,4,x\n")
    table = read_metadata(str(tmp_path / "s.csv"))
    assert table.columns.tolist() == ["age", "age.1", "note"]
    assert table["note"].tolist() == [None, "x"]


def test_a_metadata_table_in_another_encoding_is_declared(tmp_path: Path) -> None:
    (tmp_path / "s.tsv").write_bytes("sample\ttissue\na\tMünd\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"s\.tsv is not utf-8: byte 0xfc after .*setting encoding, e\.g\. latin-1"):
        read_metadata(str(tmp_path / "s.tsv"))
    assert read_metadata(str(tmp_path / "s.tsv"), "latin-1")["tissue"].tolist() == ["Münd"]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("a.2\ta\ta\ta", ["a.2", "a", "a.1", "a.3"]),
        ("a\ta\ta.1", ["a", "a.1", "a.1.1"]),
        ("a\ta\ta", ["a", "a.1", "a.2"]),
    ],
)
def test_repeated_columns_get_names_that_no_other_has(tmp_path: Path, header: str, expected: list[str]) -> None:
    (tmp_path / "s.tsv").write_text(f"sample\t{header}\ns1" + "\tx" * len(expected) + "\n")
    assert list(read_metadata(str(tmp_path / "s.tsv")).columns) == expected


def test_a_renamed_column_does_not_get_the_name_of_another() -> None:
    metadata = pd.DataFrame({"study": ["S"], "source": ["1"], "source_given": ["2"]}, index=["a"])
    labels = labels_for(source(), ["a"], metadata)
    assert labels.columns.is_unique
    assert labels["source_given"].tolist() == ["1"]
    assert labels["source_given.1"].tolist() == ["2"]


def test_a_long_description_is_kept(tmp_path: Path) -> None:
    (tmp_path / "s.tsv").write_text(f"sample\tabout\ns1\t{'x' * 200_000}\n")
    assert len(read_metadata(str(tmp_path / "s.tsv"))["about"].tolist()[0]) == 200_000
