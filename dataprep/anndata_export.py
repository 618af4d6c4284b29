"""A corpus as one AnnData file, for the tools of other people.

Profiles are copied one row group at a time, so memory does not grow with the corpus (its metadata is held whole).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from anndata import AnnData

from dataprep.config import ExportSettings
from dataprep.corpus import SPLITS, Corpus, iterate_row_groups, open_corpus
from dataprep.runtime.command_line import UserError
from dataprep.runtime.local_files import one_line_for_a_full_disk
from dataprep.runtime.storage import Folder, split_file_address


def export(settings: ExportSettings) -> dict[str, Any]:
    """Write profiles in order of their row id to ``settings.output``.

    X is float32 log1p(TPM), NaN where a source does not measure the gene; obs holds the metadata by sample_id, var the
    genes by Ensembl id, uns['unit'] the unit. Raises :class:`UserError` for an empty split and where the file exists.
    """
    corpus = open_corpus(settings.corpus)
    folder_address, name = split_file_address(settings.output)
    folder = Folder(folder_address)
    if not name.endswith(".h5ad"):
        raise UserError(f"{settings.output} does not end in .h5ad", exit_code=2)
    _require_absent(folder, name)
    folder.require_writable(name)
    splits = SPLITS if settings.split == "all" else (settings.split,)
    obs = _observations(corpus, splits)
    if not len(obs):
        raise UserError(f"{corpus.folder.uri} has no profiles in split {settings.split}")
    with tempfile.TemporaryDirectory() as scratch:
        written = Path(scratch) / "export.h5ad"
        with one_line_for_a_full_disk(f"{scratch}, where the file is prepared,"):
            _write(corpus, splits, obs, written)
        # somebody may have written it in the meantime
        _require_absent(folder, name)
        folder.upload(written, name)
        size = written.stat().st_size
    return {"output": settings.output, "samples": len(obs), "genes": corpus.genes, "bytes": size}


def _require_absent(folder: Folder, name: str) -> None:
    if folder.exists(name):
        raise UserError(f"{folder.uri}/{name} exists", exit_code=2)


def _observations(corpus: Corpus, splits: tuple[str, ...]) -> pd.DataFrame:
    samples = corpus.samples()
    chosen = samples.filter(pc.is_in(samples.column("split"), pa.array(splits)))
    frame = chosen.sort_by("row_id").to_pandas().set_index("sample_id")
    # of a label that none of the profiles has, anndata would not know that it is text
    without = [name for name in frame.columns if frame[name].isna().all()]
    return frame.astype(dict.fromkeys(without, "category"))


def _write(corpus: Corpus, splits: tuple[str, ...], obs: pd.DataFrame, path: Path) -> None:
    frame = AnnData(
        obs=obs,
        var=corpus.vocabulary.to_arrow().to_pandas().set_index("ensembl_id"),
        uns={"unit": corpus.manifest.unit, "corpus_sha256": corpus.fingerprint},
    )
    frame.write_h5ad(path)
    with h5py.File(path, "r+") as file:
        values = _empty_matrix(file, len(obs), corpus.genes, corpus.manifest.rows_per_row_group)
        filled = 0
        for row_ids, expression in iterate_row_groups(corpus, corpus.shards(*splits)):
            assert row_ids[0] == obs["row_id"].iloc[filled]
            values[filled : filled + len(row_ids)] = expression.astype(np.float32)
            filled += len(row_ids)
        assert filled == len(obs)


def _empty_matrix(file: h5py.File, rows: int, genes: int, chunk_rows: int) -> h5py.Dataset:
    if "X" in file:
        del file["X"]
    chunks = (min(chunk_rows, rows), genes)
    values = file.create_dataset("X", (rows, genes), np.float32, chunks=chunks, compression="gzip", compression_opts=1)
    # what AnnData's format asks of a dense matrix
    values.attrs["encoding-type"], values.attrs["encoding-version"] = "array", "0.2.0"
    return values
