"""Parquet and Feather matrices are read by columns or by rows, as pandas, polars and Arrow write them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from dataprep.runtime.command_line import UserError
from dataprep.sources.registry import source_of
from dataprep.sources.source import RawProfiles, Source
from tests.made_sources import counts, gene_ids, names

VALUES, GENES, SAMPLES = counts(6, 9), gene_ids(9), names("s", 6)
TABLE = pd.DataFrame(VALUES.T, index=pd.Index(GENES, name="gene"), columns=SAMPLES)
WRITERS: dict[str, Callable[[pa.Table, Path], None]] = {
    "parquet": lambda table, path: pq.write_table(table, path, row_group_size=4),
    "feather": lambda table, path: pa.feather.write_feather(table, path, chunksize=4, compression="lz4"),
}


def source(form: str, **settings: Any) -> Source:
    return source_of(
        {"name": "x", "path": "x", "format": form, "gene_id": "ensembl", "units": "counts", "study": "x"} | settings
    )


def write(folder: Path, form: str, table: pd.DataFrame) -> str:
    WRITERS[form](pa.Table.from_pandas(table), folder / "x")
    return str(folder / "x")


def read(chosen: Source, address: str, start: int = 0, stop: int = 6) -> RawProfiles:
    parts = list(chosen.read_samples(address, start, stop))
    return RawProfiles(
        parts[0].first,
        tuple(sample for part in parts for sample in part.sample_ids),
        parts[0].gene_ids,
        np.concatenate([part.values for part in parts]),
    )


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize(("start", "stop"), [(0, 6), (1, 3), (5, 6)])
@pytest.mark.parametrize("orientation", ["genes_x_samples", "samples_x_genes"])
def test_either_orientation(tmp_path: Path, form: str, start: int, stop: int, orientation: str) -> None:
    address = write(tmp_path, form, TABLE if orientation == "genes_x_samples" else TABLE.T)
    chosen = source(form, orientation=orientation)
    assert chosen.list_samples(address).sample_ids == tuple(SAMPLES)
    raw = read(chosen, address, start, stop)
    assert (raw.first, raw.sample_ids, raw.gene_ids) == (start, tuple(SAMPLES[start:stop]), tuple(GENES))
    assert raw.values.dtype == np.float32
    assert np.array_equal(raw.values, VALUES[start:stop])


@pytest.mark.parametrize("form", WRITERS)
def test_names_in_a_column_annotation_and_missing_values(tmp_path: Path, form: str) -> None:
    table = TABLE.astype(float).reset_index()
    table.insert(1, "symbol", "A")
    table.insert(2, "Length", 900)
    table["total"] = 5
    table.loc[2, "s_001"] = None
    address = write(tmp_path, form, table)
    listed = source(form).list_samples(address)
    assert (listed.sample_ids, listed.ignored_columns) == (tuple(SAMPLES), ("symbol", "Length", "total"))
    raw = read(source(form), address)
    assert np.isnan(raw.values[1, 2])
    assert np.isnan(raw.values).sum() == 1
    assert read(source(form, names_column="symbol"), address).gene_ids == ("A",) * 9
    assert source(form, drop_columns=["s_000"]).list_samples(address).sample_ids == tuple(SAMPLES[1:])


@pytest.mark.parametrize("form", WRITERS)
def test_what_is_not_there_is_one_line(tmp_path: Path, form: str) -> None:
    address = write(tmp_path, form, TABLE.reset_index(drop=True))
    with pytest.raises(UserError, match=r"x: no column of text names the rows \(setting names_column\)"):
        source(form).list_samples(address)
    with pytest.raises(UserError, match="has no column 'gene'; it has s_000, s_001"):
        source(form, names_column="gene").list_samples(address)
    with pytest.raises(UserError, match="has no column 'total' to drop"):
        source(form, names_column="s_000", drop_columns=["total"]).list_samples(address)
    with pytest.raises(UserError, match="no column holds numbers; it has 's_000'"):
        source(form).list_samples(write(tmp_path, form, TABLE.astype(str).reset_index(drop=True)))
    (tmp_path / "x").write_text("gene\ts_000\n")
    with pytest.raises(UserError, match=rf"x is not a readable {form.capitalize()} file: \w"):
        source(form).list_samples(address)
    with pytest.raises(UserError, match="no such file"):
        source(form).list_samples(str(tmp_path / "y"))
