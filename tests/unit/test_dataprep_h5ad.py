"""AnnData files are read by rows, dense or sparse, from X or a layer."""

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from dataprep.runtime.command_line import UserError
from dataprep.sources import H5adSource
from dataprep.sources.sample_metadata import labels_for, metadata_of
from tests.made_sources import counts, gene_ids, names, symbols

VALUES, GENES, SAMPLES = counts(6, 9), gene_ids(9), names("s", 6)


def source(**settings: Any) -> H5adSource:
    given = {"name": "x", "path": "x", "gene_id": "ensembl", "units": "counts", "study": "x"}
    return H5adSource(**given | settings)


def write(path: Path, matrix: Any) -> str:
    obs = pd.DataFrame({"tissue": pd.Categorical(["a", "b", None] * 2), "age": range(6)}, index=SAMPLES)
    var = pd.DataFrame({"symbol": symbols(9)}, index=GENES)
    anndata.AnnData(matrix, obs=obs, var=var, layers={"doubled": matrix * 2}).write_h5ad(path)
    return str(path)


@pytest.mark.parametrize("form", [np.asarray, scipy.sparse.csr_matrix, scipy.sparse.csc_matrix])
def test_dense_and_sparse_matrices_give_the_same_profiles(tmp_path: Path, form: Any) -> None:
    address = write(tmp_path / "x.h5ad", form(VALUES.astype(np.float32)))
    assert source().list_samples(address).sample_ids == tuple(SAMPLES)
    (raw,) = source().read_samples(address, 1, 4)
    assert (raw.first, raw.sample_ids, raw.gene_ids) == (1, tuple(SAMPLES[1:4]), tuple(GENES))
    assert np.array_equal(raw.values, VALUES[1:4])


def test_a_layer_and_a_gene_column_can_be_chosen(tmp_path: Path) -> None:
    address = write(tmp_path / "x.h5ad", VALUES.astype(np.float32))
    (raw,) = source(layer="doubled", gene_column="symbol").read_samples(address, 0, 6)
    assert np.array_equal(raw.values, 2 * VALUES)
    assert raw.gene_ids == tuple(symbols(9))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layer": "counts"}, "has no layer 'counts'; it has doubled"),
        ({"gene_column": "ensembl"}, "var has no column 'ensembl'; it has symbol"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(tmp_path: Path, settings: dict[str, str], message: str) -> None:
    address = write(tmp_path / "x.h5ad", VALUES.astype(np.float32))
    with pytest.raises(UserError, match=message):
        list(source(**settings).read_samples(address, 0, 6))


def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.h5ad").write_text("gene\ta\n")
    with pytest.raises(UserError, match=r"x\.h5ad is not a readable HDF5 file"):
        source().list_samples(str(tmp_path / "x.h5ad"))


def test_obs_becomes_metadata_as_strings(tmp_path: Path) -> None:
    address = write(tmp_path / "x.h5ad", VALUES.astype(np.float32))
    labels = labels_for(source(), SAMPLES, metadata_of(source(), None, [(address, SAMPLES)]))
    assert labels["tissue"].tolist() == ["a", "b", None, "a", "b", None]
    assert labels["age"].tolist() == ["0", "1", "2", "3", "4", "5"]
