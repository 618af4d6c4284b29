"""ARCHS4's files are read by some samples at a time, in both layouts, with what GEO says of the samples."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from dataprep.runtime.command_line import UserError
from dataprep.sources import Archs4Source, archs4
from dataprep.sources.archs4 import joined_series
from tests import made_program_files as written
from tests.made_sources import build_settings, counts, gene_ids, read_without_ray

VALUES, GENES = counts(7, 9), gene_ids(9)
SAMPLES = tuple(f"GSM{number}" for number in range(7))


def source(**settings: Any) -> Archs4Source:
    return Archs4Source(**{"name": "x", "path": "x", "gene_id": "ensembl"} | settings)


def write(folder: Path, **given: Any) -> str:
    (folder / "x.h5").write_bytes(written.archs4(GENES, VALUES, **given))
    return str(folder / "x.h5")


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("part_bytes", "block_bytes"), [(36, 72), (36, 36), (72, 10**6), (10**6, 10**6)])
def test_any_samples_are_read_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int, part_bytes: int, block_bytes: int
) -> None:
    monkeypatch.setattr(archs4, "_PART_BYTES", part_bytes)
    monkeypatch.setattr(archs4, "_BLOCK_BYTES", block_bytes)
    address = write(tmp_path, version=version)
    listed = source().list_samples(address)
    assert (listed.sample_ids, listed.stored_together) == (SAMPLES, 2)
    for start, stop in ((0, 7), (1, 6), (3, 4)):
        parts = list(source().read_samples(address, start, stop))
        assert [name for part in parts for name in part.sample_ids] == list(SAMPLES[start:stop])
        assert [part.first for part in parts] == list(start + np.cumsum([0, *(len(p.values) for p in parts[:-1])]))
        assert np.array_equal(np.concatenate([part.values for part in parts]), VALUES[start:stop])
        assert {part.gene_ids for part in parts} == {tuple(GENES)}
        assert max(part.values.nbytes for part in parts) <= max(part_bytes, 36)


def test_genes_by_symbol(tmp_path: Path) -> None:
    (raw,) = source(gene_id="symbol").read_samples(write(tmp_path), 0, 7)
    assert raw.gene_ids[:2] == ("SYMBOL0", "SYMBOL1")


@pytest.mark.parametrize(
    "probability", [[0.1, 0.9, 0.2, 0.5, 0.1, 0.1, 0.7], ["0.1", "0.9", "0.2", "0.5", "", "0", "0.7"]]
)
def test_what_is_taken_for_single_cells_is_refused(tmp_path: Path, probability: list[Any]) -> None:
    address = write(tmp_path, singlecellprobability=probability)
    assert source(max_single_cell_probability=1.0).list_samples(address).refusals == {}
    entry = {"name": "x", "format": "archs4", "path": address, "gene_id": "ensembl"}
    samples, _ = read_without_ray(build_settings(tmp_path, [entry], min_nonzero_genes=1))
    refused = samples[samples["reason"].notna()]
    assert dict(zip(refused["sample_id"], refused["value"], strict=True)) == {"GSM1": "0.90", "GSM6": "0.70"}
    assert set(refused["reason"]) == {"single_cell"}


def test_studies_are_series_joined_where_a_sample_is_in_several(tmp_path: Path) -> None:
    series = ["GSE20", "GSE3,GSE20", "GSE5", "GSE3\tGSE7", "GSE9", "GSE10,GSE9", ""]
    assert joined_series(series) == ["GSE3", "GSE3", "GSE5", "GSE3", "GSE9", "GSE9", None]
    address = write(tmp_path, series_id=series, title=list("abcdefg"))
    table = source().read_metadata(address)
    assert table["study"].tolist()[:3] == ["GSE3", "GSE3", "GSE5"]
    assert table.columns.tolist() == ["title", "series_id", "study"]


def test_a_file_that_is_none_of_archs4_is_one_line(tmp_path: Path) -> None:
    address = write(tmp_path)
    with h5py.File(address, "a") as file:
        del file["data/expression"]
        file["data/expression"] = VALUES.T[:, :5]
    with pytest.raises(UserError, match="data/expression is 9 x 5 of int64, with 7 samples and 9 genes"):
        source().list_samples(address)
    with h5py.File(address, "a") as file:
        del file["meta/genes/ensembl_gene"]
    with pytest.raises(
        UserError, match=r"x\.h5 is not a file of ARCHS4: no names of genes for gene_id ensembl; /meta/genes has symbol"
    ):
        source().list_samples(address)
    with h5py.File(address, "w") as file:
        file["X"] = VALUES
    with pytest.raises(UserError, match=r"x\.h5 is no file of ARCHS4: it has no meta and data/expression"):
        source().list_samples(address)
