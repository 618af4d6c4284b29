"""AnnData files are read by rows, dense or sparse, from X or a layer."""

import gzip
from pathlib import Path
from typing import Any

import anndata
import h5py
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


def test_values_in_raw_come_with_the_genes_of_raw(tmp_path: Path) -> None:
    whole = anndata.AnnData(VALUES.astype(np.float32), pd.DataFrame(index=SAMPLES), pd.DataFrame(index=GENES))
    part = whole[:, :4].copy()
    part.raw = whole
    part.write_h5ad(tmp_path / "x.h5ad")
    for layer in ("raw", "raw/X"):
        (raw,) = source(layer=layer).read_samples(str(tmp_path / "x.h5ad"), 0, 6)
        assert raw.gene_ids == tuple(GENES)
        assert np.array_equal(raw.values, VALUES)


def test_genes_without_a_name_have_an_empty_one(tmp_path: Path) -> None:
    var = pd.DataFrame({"symbol": [None, *symbols(9)[1:]]}, index=GENES)
    anndata.AnnData(VALUES.astype(np.float32), pd.DataFrame(index=SAMPLES), var).write_h5ad(tmp_path / "x.h5ad")
    (raw,) = source(gene_column="symbol").read_samples(str(tmp_path / "x.h5ad"), 0, 6)
    assert raw.gene_ids == ("", *symbols(9)[1:])


def test_obs_and_var_as_arrays_of_records_are_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5ad", "w") as file:
        file["X"] = VALUES.astype(np.float32)
        file["obs"] = np.array([(name.encode(), b"liver") for name in SAMPLES], [("index", "S9"), ("tissue", "S9")])
        file["var"] = np.array([(gene.encode(),) for gene in GENES], [("index", "S20")])
    address = str(tmp_path / "x.h5ad")
    assert source().list_samples(address).sample_ids == tuple(SAMPLES)
    assert source().read_metadata(address)["tissue"].tolist() == ["liver"] * 6
    (raw,) = source().read_samples(address, 2, 4)
    assert (raw.sample_ids, raw.gene_ids) == (tuple(SAMPLES[2:4]), tuple(GENES))
    assert np.array_equal(raw.values, VALUES[2:4])


@pytest.mark.parametrize(
    ("absent", "message"),
    [
        ("X", r"has no X; it has the layers doubled \(setting layer\)"),
        ("obs/_index", "is not an AnnData file as anndata writes it"),
        ("var/symbol", "is not an AnnData file as anndata writes it"),
        ("obs", "is not an AnnData file: it has no obs and var"),
    ],
)
def test_a_file_with_parts_missing_is_one_line(tmp_path: Path, absent: str, message: str) -> None:
    address = write(tmp_path / "x.h5ad", VALUES.astype(np.float32))
    with h5py.File(address, "a") as file:
        del file[absent]
    with pytest.raises(UserError, match=message) as raised:
        list(source().read_samples(address, 0, 6))
    assert "\n" not in str(raised.value)


def test_a_matrix_of_another_size_is_one_line(tmp_path: Path) -> None:
    address = write(tmp_path / "x.h5ad", VALUES.astype(np.float32))
    with h5py.File(address, "a") as file:
        del file["X"]
        file["X"] = VALUES[:4].astype(np.float32)
    with pytest.raises(UserError, match="a matrix of 4 x 9 with 6 samples in obs and 9 genes in var"):
        list(source().read_samples(address, 0, 6))


def test_a_file_that_was_cut_off_is_one_line(tmp_path: Path) -> None:
    address = Path(write(tmp_path / "x.h5ad", VALUES.astype(np.float32)))
    address.write_bytes(address.read_bytes()[: address.stat().st_size // 2])
    with pytest.raises(UserError, match=r"x\.h5ad is not a readable HDF5 file"):
        source().list_samples(str(address))


def test_values_that_are_text_or_do_not_fit_their_indices_are_one_line(tmp_path: Path) -> None:
    text, cut = tmp_path / "text.h5ad", tmp_path / "cut.h5ad"
    write(text, VALUES.astype(np.float32))
    with h5py.File(text, "a") as file:
        del file["X"]
        file["X"] = np.full((6, 9), b"high")
    write(cut, scipy.sparse.csr_matrix(VALUES.astype(np.float32)))
    with h5py.File(cut, "a") as file:
        indices = file["X/indices"][:-5]
        del file["X/indices"]
        file["X/indices"] = indices
    for path in (text, cut):
        with pytest.raises(UserError, match=rf"{path.name} is not an AnnData file as anndata writes it: .*\w"):
            list(source().read_samples(str(path), 0, 6))


def test_a_compressed_file_is_named_as_one(tmp_path: Path) -> None:
    (tmp_path / "x.h5ad").write_bytes(gzip.compress(b"any"))
    with pytest.raises(UserError, match="is compressed with gzip; unpack it first"):
        source().list_samples(str(tmp_path / "x.h5ad"))


# ---- files that a stranger has made ----------------------------------------------------------------------------------


def put(group: h5py.Group, name: str, **dataset: Any) -> None:
    """Another dataset in the place of one, with its attributes."""
    attributes = dict(group[name].attrs)
    del group[name]
    group.create_dataset(name, **dataset).attrs.update(attributes)


def in_another_file(file: h5py.File) -> None:
    put(file, "X", shape=(6, 9), dtype="u1", external=[("/etc/passwd", 0, 54)])


def names_in_another_file(file: h5py.File) -> None:
    put(file["obs"], "_index", shape=(6,), dtype="S20", external=[("/etc/passwd", 0, 120)])


def linked(file: h5py.File) -> None:
    del file["X"]
    file["X"] = h5py.ExternalLink("/etc/passwd", "/X")


def virtual(file: h5py.File) -> None:
    del file["X"]
    layout = h5py.VirtualLayout((6, 9), "f4")
    layout[:] = h5py.VirtualSource(file.filename, "layers/doubled", shape=(6, 9))
    file.create_virtual_dataset("X", layout)


def names_without_end(file: h5py.File) -> None:
    put(file["var"], "_index", shape=(2**32,), dtype="S16", chunks=(2**16,), compression="gzip")


def sparse(file: h5py.File, indices: list[int], starts: list[int]) -> None:
    del file["X"]
    matrix = file.create_group("X")
    matrix.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": np.array([6, 9])})
    matrix["data"] = np.ones(len(indices), np.float32)
    matrix["indices"], matrix["indptr"] = np.array(indices), np.array(starts)


def around(file: h5py.File) -> None:
    del file["obs"]
    file["obs"] = h5py.SoftLink("/")


def of_another_encoding(file: h5py.File) -> None:
    file["obs"].attrs["encoding-type"] = "nonsense"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (in_another_file, "the values of X are in another file"),
        (names_in_another_file, "the values of obs/_index are in another file"),
        (virtual, "the values of X are in another file"),
        (linked, "X is in another file: write it into this one"),
        (names_without_end, "var/_index says that it has 4,294,967,296 rows"),
        (lambda file: sparse(file, [0, 2**40], [0, 1, 2, 2, 2, 2, 2]), "indices must be < 9"),
        (lambda file: sparse(file, [0, -5], [0, 1, 2, 2, 2, 2, 2]), "indices must be >= 0"),
        (lambda file: sparse(file, [0, 1], [0, 10**9, 2, -3, 2, 2, 2]), "its indptr does not divide its values"),
        (lambda file: sparse(file, [0, 1], [0, 1, 2]), "its indptr does not divide its values"),
        (lambda file: put(file, "X", data=np.ones((6, 9), complex)), "X holds complex128, not numbers"),
        (lambda file: put(file, "X", data=np.full((6, 9), b"7")), r"X holds \|S1, not numbers"),
        (around, "is not an AnnData file as anndata writes it"),
        (of_another_encoding, "is not an AnnData file as anndata writes it"),
    ],
)
def test_a_file_that_would_read_others_or_end_the_process_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    address = write(tmp_path / "x.h5ad", VALUES.astype(np.float32))
    with h5py.File(address, "r+") as file:
        change(file)
    with pytest.raises(UserError, match=message) as refused:
        list(source().read_samples(address, 0, 6))
    assert "\n" not in str(refused.value)
