"""Matrix Market files with their two lists are read by some samples at a time, and to their end."""

import gzip
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from dataprep.runtime.command_line import UserError
from dataprep.sources import MatrixMarketSource, matrix_market
from tests.made_sources import counts, gene_ids, names

VALUES = counts(6, 9) * (np.random.default_rng(1).random((6, 9)) < 0.6)
GENES, SAMPLES = gene_ids(9), names("s", 6)


def source(**settings: Any) -> MatrixMarketSource:
    lists = {"gene_names": "features.tsv.gz", "sample_names": "samples.txt"}
    given = {"name": "x", "path": "x", "gene_id": "ensembl", "units": "counts", "study": "x"}
    return MatrixMarketSource(**given | lists | settings)


def content(matrix: np.ndarray = VALUES.T) -> bytes:
    written = io.BytesIO()
    scipy.io.mmwrite(written, scipy.sparse.coo_matrix(matrix), comment="made by hand")
    return written.getvalue()


def write(folder: Path, text: bytes, name: str = "x.mtx") -> str:
    (folder / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    rows = "".join(f"{gene}\tSYMBOL{number}\tGene\n" for number, gene in enumerate(GENES))
    (folder / "features.tsv.gz").write_bytes(gzip.compress(rows.encode()))
    (folder / "samples.txt").write_text("\n".join(SAMPLES))
    return str(folder / name)


@pytest.mark.parametrize("name", ["x.mtx", "x.mtx.gz"])
@pytest.mark.parametrize(("start", "stop"), [(0, 6), (2, 5)])
def test_some_samples_in_either_orientation(tmp_path: Path, name: str, start: int, stop: int) -> None:
    for orientation, matrix in (("genes_x_samples", VALUES.T), ("samples_x_genes", VALUES)):
        address = write(tmp_path, content(matrix), name)
        chosen = source(orientation=orientation)
        assert chosen.list_samples(address).sample_ids == tuple(SAMPLES)
        (raw,) = chosen.read_samples(address, start, stop)
        assert (raw.first, raw.sample_ids, raw.gene_ids) == (start, tuple(SAMPLES[start:stop]), tuple(GENES))
        assert np.array_equal(raw.values, VALUES[start:stop])


def test_many_samples_are_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix_market, "_PART_BYTES", 4 * 9 * 4)
    parts = list(source(gene_column=2).read_samples(write(tmp_path, content()), 0, 6))
    assert [part.first for part in parts] == [0, 4]
    assert parts[0].gene_ids[:2] == ("SYMBOL0", "SYMBOL1")
    assert np.array_equal(np.concatenate([part.values for part in parts]), VALUES)


def list_and_read(address: str) -> None:
    samples = source().list_samples(address).sample_ids
    list(source().read_samples(address, 0, len(samples)))


HEADER = b"%%MatrixMarket matrix coordinate integer general\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (content()[: content()[:-1].rindex(b"\n") + 1], r"is cut off or damaged: (\d+) of (\d+) values are there"),
        (content(VALUES.T[:5]), r"is 5 x 6, with 9 names in features\.tsv\.gz and 6 in samples\.txt"),
        (content(VALUES), r"is 6 x 9, with 9 names .* \(setting orientation\)"),
        (HEADER + b"9 6 1\n10 1 5\n", "1 values are outside of 9 x 6"),
        (HEADER + b"9 6 1\n1 1 many\n", "is not a rectangular table: .*many"),
        (HEADER + b"9 6\n", "no line says how many rows, columns and values it has"),
        (HEADER.replace(b"coordinate", b"array") + b"9 6\n", "a matrix that is array integer general"),
        (b"gene\ts1\n", "is no Matrix Market file: it begins with 'gene"),
        (b"", "is empty"),
    ],
)
def test_a_wrong_matrix_is_one_line(tmp_path: Path, text: bytes, message: str) -> None:
    address = write(tmp_path, text)
    with pytest.raises(UserError, match=message) as raised:
        list_and_read(address)
    assert "\n" not in str(raised.value)


def test_a_list_without_the_column_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"features\.tsv\.gz: line 1 has no column 4"):
        source(gene_column=4).list_samples(write(tmp_path, content()))
