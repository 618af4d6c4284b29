"""AnnData in Zarr is read by rows as in HDF5, of both formats, and what is broken in its folder is one line."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import anndata
import numcodecs
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataprep.probing.recognise import recognise
from dataprep.runtime.command_line import UserError
from dataprep.sources import ZarrSource
from dataprep.sources.anndata_forms import elements
from dataprep.sources.registry import source_of
from dataprep.sources.sample_metadata import labels_for, metadata_of
from tests.made_sources import build_settings, counts, gene_ids, names, read_without_ray, symbols, write_source

VALUES, GENES, SAMPLES = counts(6, 9), gene_ids(9), names("s", 6)
VALUES[2:4, 3:6] = 0
FORMS = {"dense": np.asarray, "csr": scipy.sparse.csr_matrix, "csc": scipy.sparse.csc_matrix}


def source(**more: Any) -> ZarrSource:
    given = {"name": "x", "path": "x.zarr/", "gene_id": "ensembl", "units": "counts", "study": "x", "format": "zarr"}
    chosen = source_of(given | more)
    assert isinstance(chosen, ZarrSource)
    return chosen


def write(path: Path, form: str = "dense", zarr_format: int = 2, **more: Any) -> str:
    matrix = FORMS[form](VALUES.astype(np.float32))
    labels = {"tissue": pd.Categorical(["a", "b", None] * 2), "kit": pd.Categorical(["k"] * 6)}
    obs = pd.DataFrame(labels, index=SAMPLES)
    var = pd.DataFrame({"symbol": symbols(9)}, index=GENES)
    data = anndata.AnnData(matrix, obs=obs, var=var, layers={"doubled": matrix * 2})
    data.raw = data
    with anndata.settings.override(zarr_write_format=zarr_format):
        data[:, :5].copy().write_zarr(path, **more)
    return str(path)


def read(address: str, start: int = 0, stop: int = 6, **more: Any) -> np.ndarray:
    (raw,) = source(**more).read_samples(address, start, stop)
    assert (raw.first, raw.sample_ids) == (start, tuple(SAMPLES[start:stop]))
    assert raw.values.dtype == np.float32
    return raw.values


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("form", FORMS)
def test_dense_and_sparse_matrices_of_both_formats_give_the_same_profiles(
    tmp_path: Path, form: str, zarr_format: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = write(tmp_path / "x.zarr", form, zarr_format)
    assert source().list_samples(address).sample_ids == tuple(SAMPLES)
    # few enough that columns are read in several parts
    monkeypatch.setattr(elements, "_VALUES_AT_ONCE", 10)
    for start, stop in ((0, 6), (1, 4), (3, 4)):
        assert np.array_equal(read(address, start, stop), VALUES[start:stop, :5])
        assert np.array_equal(read(address, start, stop, layer="doubled"), 2 * VALUES[start:stop, :5])
        assert np.array_equal(read(address, start, stop, layer="raw"), VALUES[start:stop])
    (raw,) = source(layer="raw", gene_column="symbol").read_samples(address, 0, 6)
    assert raw.gene_ids == tuple(symbols(9))
    labels = labels_for(source(), SAMPLES, metadata_of(source(), None, [(address, SAMPLES)]))
    assert labels["tissue"].tolist() == ["a", "b", None, "a", "b", None]
    assert labels["kit"].tolist() == ["k"] * 6


def test_only_the_chunks_of_the_samples_asked_for_are_read(tmp_path: Path) -> None:
    address = write(tmp_path / "x.zarr", chunks=(2, 5))
    assert source().list_samples(address).stored_together == 2
    for chunk in (tmp_path / "x.zarr" / "X").glob("[12].0"):
        chunk.unlink()
    assert np.array_equal(read(address, 0, 2), VALUES[:2, :5])
    with pytest.raises(UserError, match=r"x\.zarr: chunk X/1\.0 is missing, .* missing_chunks: zeros"):
        read(address, 1, 3)
    assert np.array_equal(read(address, 1, 3, missing_chunks="zeros")[1], np.zeros(5))


def test_a_chunk_of_zeros_that_the_writer_left_out_is_read_where_the_settings_say_so(tmp_path: Path) -> None:
    address = write(tmp_path / "x.zarr", chunks=(2, 3))
    with zarr.config.set({"array.write_empty_chunks": False}):
        zarr.open_group(address)["X"][2:4, 3:5] = 0
    with pytest.raises(UserError, match=r"chunk X/1\.1 is missing"):
        read(address)
    assert np.array_equal(read(address, missing_chunks="zeros"), VALUES[:, :5])


def test_a_build_reads_folders_by_a_pattern_and_ends_with_what_the_table_gives(tmp_path: Path) -> None:
    values = counts(6)
    for part, rows in (("one", slice(0, 2)), ("two", slice(2, 6))):
        obs, var = pd.DataFrame(index=names("s", 6)[rows]), pd.DataFrame(index=gene_ids())
        anndata.AnnData(values[rows].astype(np.float32), obs, var).write_zarr(tmp_path / f"parts/{part}.zarr")
    table = write_source(tmp_path, "s", values)
    folders = {"name": "z", "format": "zarr", "path": "parts/*.zarr", "gene_id": "ensembl", "units": "counts"}
    _, expected = read_without_ray(build_settings(tmp_path, [table]))
    _, found = read_without_ray(build_settings(tmp_path, [folders | {"study": "z"}]))
    assert list(found) == list(expected)
    assert all(np.array_equal(found[sample], expected[sample]) for sample in found)


def test_probe_tells_anndata_in_zarr_from_other_folders(tmp_path: Path) -> None:
    for zarr_format in (2, 3):
        address = write(tmp_path / f"{zarr_format}.zarr", zarr_format=zarr_format)
        assert ("format", "zarr") in [setting[:2] for setting in recognise(address).settings]
    zarr.create_array(tmp_path / "other.zarr", shape=(2, 2), dtype="f4")
    zarr.create_group(tmp_path / "group.zarr").create_array("x", shape=(2, 2), dtype="f4")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x.txt").write_text("x")
    for name, message in (
        ("other.zarr", r"other\.zarr is not an AnnData file as anndata writes it: An array"),
        ("group.zarr", "is not an AnnData file: it has no obs and var"),
        ("folder", "is a folder, not a file"),
        ("gone.zarr", "no such file"),
    ):
        with pytest.raises(UserError, match=message):
            recognise(str(tmp_path / name))


@pytest.mark.parametrize(
    ("settings_of", "message"),
    [
        ({"layer": "counts"}, "has no layer 'counts'; it has doubled, raw"),
        ({"gene_column": "ensembl"}, "var has no column 'ensembl'; it has symbol"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(tmp_path: Path, settings_of: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(write(tmp_path / "x.zarr"), **settings_of)


def test_a_folder_of_another_kind_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.zarr").mkdir()
    with pytest.raises(UserError, match=r"no such folder: .*x\.zarr"):
        source().list_samples(str(tmp_path / "x.zarr"))
    (tmp_path / "x.zarr" / "a.tsv").write_text("x")
    with pytest.raises(UserError, match=r"x\.zarr is not a folder that Zarr wrote: it has no zarr\.json or \.zgroup"):
        source().list_samples(str(tmp_path / "x.zarr"))
    with pytest.raises(ValueError, match=r"x\.zarr/ is AnnData in Zarr, which format: zarr reads"):
        source(format="h5ad")


# ---- folders that a stranger has made --------------------------------------------------------------------------------


class _Code:
    def __reduce__(self) -> tuple[Any, tuple[str, ...]]:
        return Path.touch, (Path("/nowhere"),)


def pickled(folder: Path) -> None:
    """Names that zarr would have to unpickle."""
    metadata = json.loads((folder / "obs/_index/.zarray").read_text())
    changed = {"dtype": "|O", "filters": [{"id": "pickle"}], "compressor": None}
    (folder / "obs/_index/.zarray").write_text(json.dumps(metadata | changed))
    (folder / "obs/_index/0").write_bytes(pickle.dumps(_Code()))


def names_without_end(folder: Path) -> None:
    metadata = json.loads((folder / "var/_index/.zarray").read_text())
    (folder / "var/_index/.zarray").write_text(json.dumps(metadata | {"shape": [2**32], "chunks": [2**20]}))


def of_another_size(folder: Path) -> None:
    metadata = json.loads((folder / "X/.zarray").read_text())
    (folder / "X/.zarray").write_text(json.dumps(metadata | {"shape": [4, 5]}))


def outside(folder: Path) -> None:
    metadata = json.loads((folder / "obs/.zattrs").read_text())
    (folder / "obs/.zattrs").write_text(json.dumps(metadata | {"_index": "../../other"}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (pickled, "has arrays of pickled Python objects, which are not read"),
        (names_without_end, "var/_index says that it has 4,294,967,296 rows"),
        (of_another_size, "a matrix of 4 x 5 with 6 samples in obs and 5 genes in var"),
        (outside, "is not an AnnData file as anndata writes it"),
        (lambda folder: shutil.rmtree(folder / "obs"), "it has no obs and var"),
        (lambda folder: shutil.rmtree(folder / "X"), r"has no X; it has the layers doubled \(setting layer\)"),
        (lambda folder: (folder / "X/.zarray").write_text("[" * 10**5), "is not an AnnData file as anndata writes it"),
    ],
)
def test_a_folder_that_would_run_code_or_end_the_process_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    address = write(tmp_path / "x.zarr")
    change(tmp_path / "x.zarr")
    with pytest.raises(UserError, match=message) as refused:
        read(address)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("zarr_format", "codec"), [(2, numcodecs.Blosc()), (3, zarr.codecs.BloscCodec())])
def test_a_chunk_of_blosc_that_says_another_length_does_not_end_the_process(
    tmp_path: Path, zarr_format: int, codec: Any
) -> None:
    address = write(tmp_path / "x.zarr", zarr_format=zarr_format)
    group = zarr.open_group(address)
    del group["X"]
    matrix = group.create_array("X", data=VALUES[:, :5].astype(np.float32), compressors=codec)
    matrix.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    assert np.array_equal(read(address), VALUES[:, :5])
    (chunk,) = (path for path in (tmp_path / "x.zarr/X").rglob("*") if path.is_file() and path.name[0] == "0")
    content = chunk.read_bytes()
    for length in (2**31, len(content) - 1):
        chunk.write_bytes(content[:12] + length.to_bytes(4, "little") + content[16:])
        with pytest.raises(UserError, match="is damaged: it says that it has another length"):
            read(address)


@pytest.mark.parametrize(("form", "zarr_format"), [("dense", 2), ("dense", 3), ("csr", 3), ("csc", 2)])
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    which=st.integers(0, 10**6),
    where=st.floats(0, 1, exclude_max=True),
    what=st.sampled_from(["cut", "overwritten", "inserted", "removed"]),
    junk=st.binary(min_size=1, max_size=12),
)
def test_a_broken_folder_is_one_line_or_whole(
    tmp_path: Path, form: str, zarr_format: int, which: int, where: float, what: str, junk: bytes
) -> None:
    if not (tmp_path / "x.zarr").exists():
        write(tmp_path / "x.zarr", form, zarr_format)
    files = sorted(path for path in (tmp_path / "x.zarr").rglob("*") if path.is_file())
    broken = files[which % len(files)]
    content = broken.read_bytes()
    place = int(where * len(content))
    changed = {
        "cut": content[:place],
        "overwritten": content[:place] + junk + content[place + len(junk) :],
        "inserted": content[:place] + junk + content[place:],
    }
    complaint, found = "", None
    try:
        broken.unlink() if what == "removed" else broken.write_bytes(changed[what])
        (found,) = source().read_samples(str(tmp_path / "x.zarr"), 0, 6)
    except UserError as error:
        complaint = str(error)
    finally:
        broken.write_bytes(content)
    assert "\n" not in complaint
    if found is not None:
        assert (found.values.shape, found.values.dtype) == ((6, 5), np.float32)
    if found is not None and what == "removed":
        # what is not there never reads as zeros, or as genes without a name
        assert np.array_equal(found.values, VALUES[:, :5])
        assert (found.sample_ids, found.gene_ids) == (tuple(SAMPLES), tuple(GENES[:5]))
