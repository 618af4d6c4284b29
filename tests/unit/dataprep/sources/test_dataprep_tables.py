"""Delimited tables are read as people write them, and what cannot be read is named."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataprep.runtime.command_line import UserError
from dataprep.sources import RawProfiles, TableSource, text_columns
from tests.made_sources import counts, delimited, gene_ids, names

VALUES, GENES, SAMPLES = counts(6, 9), gene_ids(9), names("s", 6)


def source(**settings: Any) -> TableSource:
    return TableSource(**{"name": "x", "path": "x", "gene_id": "ensembl", "units": "counts", "study": "x"} | settings)


def write(path: Path, text: str) -> str:
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


def read(address: str, settings: TableSource, start: int = 0, stop: int = 10**6) -> RawProfiles:
    parts = list(settings.read_samples(address, start, stop))
    return RawProfiles(
        parts[0].first,
        tuple(sample for part in parts for sample in part.sample_ids),
        parts[0].gene_ids,
        np.concatenate([part.values for part in parts]),
    )


@pytest.mark.parametrize("name", ["x.tsv", "x.txt", "x.tsv.gz", "x.csv", "x.csv.gz"])
def test_genes_x_samples_plain_or_gzip_tab_or_comma(tmp_path: Path, name: str) -> None:
    text = delimited(VALUES, GENES, SAMPLES, "," if ".csv" in name else "\t")
    address = write(tmp_path / name, text)
    assert source().list_samples(address).sample_ids == tuple(SAMPLES)
    raw = read(address, source())
    assert np.array_equal(raw.values, VALUES)
    assert raw.gene_ids == tuple(GENES)
    assert raw.sample_ids == tuple(SAMPLES)


def test_some_samples_of_a_table(tmp_path: Path) -> None:
    address = write(tmp_path / "x.tsv.gz", delimited(VALUES, GENES, SAMPLES))
    raw = read(address, source(), 2, 4)
    assert raw.first == 2
    assert raw.sample_ids == tuple(SAMPLES[2:4])
    assert np.array_equal(raw.values, VALUES[2:4])


@pytest.mark.parametrize(("start", "stop"), [(0, 100), (0, 2), (3, 5), (5, 6)])
def test_samples_x_genes(tmp_path: Path, start: int, stop: int) -> None:
    transposed = delimited(VALUES.T, SAMPLES, GENES)
    address = write(tmp_path / "x.tsv.gz", transposed)
    settings = source(orientation="samples_x_genes")
    assert settings.list_samples(address).sample_ids == tuple(SAMPLES)
    raw = read(address, settings, start, stop)
    assert raw.first == start
    assert raw.gene_ids == tuple(GENES)
    assert np.array_equal(raw.values, VALUES[start:stop])


def test_samples_x_genes_larger_than_a_block_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_columns, "_BLOCK_BYTES", 300)
    values = counts(50, 9)
    address = write(tmp_path / "x.tsv", delimited(values.T, names("s", 50), GENES))
    parts = list(source(orientation="samples_x_genes").read_samples(address, 5, 45))
    assert len(parts) > 3
    assert np.array_equal(np.concatenate([part.values for part in parts]), values[5:45])
    firsts = [part.first for part in parts]
    assert firsts == list(5 + np.cumsum([0] + [len(part.values) for part in parts[:-1]]))


def test_a_header_without_a_name_for_the_row_names(tmp_path: Path) -> None:
    lines = delimited(VALUES, GENES, SAMPLES).splitlines()
    address = write(tmp_path / "x.tsv", "\n".join(["\t".join(SAMPLES), *lines[1:]]) + "\n")
    assert source().list_samples(address).sample_ids == tuple(SAMPLES)
    assert np.array_equal(read(address, source()).values, VALUES)


def test_quoted_names_and_a_byte_order_mark(tmp_path: Path) -> None:
    text = "\ufeffgene," + ",".join(f'"{sample}"' for sample in SAMPLES) + "\n"
    text += "".join(f'"{gene}",' + ",".join(map(str, row)) + "\n" for gene, row in zip(GENES, VALUES.T, strict=True))
    address = write(tmp_path / "x.csv", text)
    assert source().list_samples(address).sample_ids == tuple(SAMPLES)
    assert read(address, source()).gene_ids == tuple(GENES)


def test_columns_that_are_not_samples_are_dropped(tmp_path: Path) -> None:
    address = write(tmp_path / "x.tsv", delimited(VALUES, GENES, SAMPLES))
    settings = source(drop_columns=[SAMPLES[1], SAMPLES[5]])
    kept = [0, 2, 3, 4]
    assert settings.list_samples(address).sample_ids == tuple(SAMPLES[i] for i in kept)
    assert np.array_equal(read(address, settings).values, VALUES[kept])
    with pytest.raises(UserError, match="has no column 'width'; it has 's_000'"):
        source(drop_columns=["width"]).list_samples(address)


@pytest.mark.parametrize("empty", ["", "NA", "NaN"])
def test_an_empty_cell_is_missing_and_not_zero(tmp_path: Path, empty: str) -> None:
    text = delimited(VALUES, GENES, SAMPLES).replace(f"\t{VALUES[0, 0]}\t", f"\t{empty}\t", 1)
    raw = read(write(tmp_path / "x.tsv", text), source())
    assert np.isnan(raw.values[0, 0])
    assert np.isnan(raw.values).sum() == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.tsv", b"", "is empty"),
        ("x.tsv.gz", b"", "is empty"),
        ("x.tsv.gz", gzip.compress(b""), "is empty"),
        ("x.tsv", b"gene\n", r"no columns in its first line, if '\\t' divides them"),
        ("x.tsv", b"gene,a,b\nENSG1,1,2\n", r"no columns in its first line"),
        ("x.tsv", b"gene\ta\tb\n", "has a header but no genes"),
        ("x.tsv", b"gene\ta\tb\nENSG1\t1\t2\nENSG2\t1\thigh\n", "column 'b' holds text, not numbers, e.g. 'high'"),
        ("x.tsv", b"gene\ta\tb\nENSG1\t1\t2\nENSG2\t1\n", "is not a rectangular table: .*Expected 3 columns, got 2"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_reason(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{name}.*{message}") as raised:
        read(str(path), source())
    assert "\n" not in str(raised.value)


def test_a_truncated_gzip_is_cut_off(tmp_path: Path) -> None:
    packed = gzip.compress(delimited(counts(50, 2000), gene_ids(2000), names("s", 50)).encode())
    for share in (0.3, 0.9, 0.9999):
        (tmp_path / "x.tsv.gz").write_bytes(packed[: int(len(packed) * share)])
        with pytest.raises(UserError, match=r"x\.tsv\.gz is cut off or damaged"):
            read(str(tmp_path / "x.tsv.gz"), source())


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"no such file: {tmp_path}/none.tsv"):
        source().list_samples(f"{tmp_path}/none.tsv")


def test_a_long_line_that_another_character_divides_is_named_with_that(tmp_path: Path) -> None:
    samples = names("a_sample_with_a_long_name_", 8000)
    address = write(tmp_path / "x.tsv", delimited(np.ones((8000, 2)), gene_ids(2), samples, ","))
    with pytest.raises(UserError, match=r"no columns in its first line, if '\\t' divides them; ',' does"):
        source().list_samples(address)


@pytest.mark.parametrize("mark", ["\u2028", "\x85", "\x0c", "\x1e"])
def test_a_name_is_not_cut_where_only_python_divides_lines(tmp_path: Path, mark: str) -> None:
    samples = [*SAMPLES[:-1], f"last{mark}one"]
    raw = read(write(tmp_path / "x.tsv", delimited(VALUES, GENES, samples)), source())
    assert raw.sample_ids == tuple(samples)
    assert np.array_equal(raw.values, VALUES)


def test_a_table_in_utf_32(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_bytes(delimited(VALUES, GENES, SAMPLES).encode("utf-32"))
    assert np.array_equal(read(str(tmp_path / "x.tsv"), source(encoding="utf-32")).values, VALUES)


def test_a_line_without_end_is_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataprep.sources.text_columns._MOST_FIRST_BYTES", 3 * 1024 * 1024)
    (tmp_path / "x.tsv.gz").write_bytes(gzip.compress(b"gene\t" + b"a" * 5 * 1024 * 1024))
    with pytest.raises(UserError, match=r"x\.tsv\.gz is no table: its first lines have more than 3,145,728 bytes"):
        source().list_samples(str(tmp_path / "x.tsv.gz"))
