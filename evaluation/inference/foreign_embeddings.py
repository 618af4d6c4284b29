"""Embeddings and predictions that were made elsewhere, matched with the samples of a corpus by their ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dataprep.corpus import Corpus
from dataprep.genes.identifiers import strip_version
from dataprep.genes.vocabulary import GeneVocabulary
from dataprep.runtime.command_line import UserError, one_line
from dataprep.runtime.storage import Folder, split_file_address
from dataprep.sources import H5adSource
from dataprep.sources.columnar import ParquetSource

# Ids of fewer samples of the corpus than this share mean that the file is about others, or names them otherwise.
_LEAST_SHARE = 0.5


@dataclass(frozen=True)
class ForeignEmbeddings:
    """``values``: float32 N x width for the N profiles of a corpus by row id, NaN where the file has none."""

    name: str
    values: np.ndarray

    @property
    def missing(self) -> np.ndarray:
        """Boolean [N]."""
        return np.isnan(self.values).any(axis=1)


def read_foreign_embeddings(name: str, address: str, corpus: Corpus) -> ForeignEmbeddings:
    """A Parquet file with ``sample_id`` and either one column of lists or numbers, or ``FILE.h5ad#KEY`` (of obsm).

    Raises UserError for a file of another form, samples named twice, and where half of the corpus is not in it.
    """
    ids, values = _read_h5ad(address) if ".h5ad" in address.rpartition("/")[2] else _read_parquet(address)
    repeated = [sample for sample, times in Counter(ids).items() if times > 1]
    if repeated:
        raise UserError(f"{address} has {len(repeated):,} samples twice, e.g. {', '.join(repeated[:3])}")
    broken = ~np.isfinite(values).all(axis=1)
    if broken.any():
        examples = ", ".join(ids[row] for row in np.flatnonzero(broken)[:3])
        raise UserError(f"{address}: {broken.sum():,} samples have numbers that are not finite, e.g. {examples}")
    row_of = {sample: row for row, sample in enumerate(ids)}
    samples = corpus.samples().sort_by("row_id").column("sample_id").to_pylist()
    rows = np.array([row_of.get(sample, -1) for sample in samples], np.int64)
    found = int((rows >= 0).sum())
    if found < _LEAST_SHARE * len(samples):
        raise UserError(
            f"{address} has {found:,} of the {len(samples):,} samples of {corpus.address} (there: {samples[0]}; in "
            f"the file: {', '.join(ids[:1]) or 'none'}); half are needed"
        )
    aligned = np.full((len(samples), values.shape[1]), np.nan, np.float32)
    aligned[rows >= 0] = values[rows[rows >= 0]]
    return ForeignEmbeddings(name, aligned)


def _read_parquet(address: str) -> tuple[list[str], np.ndarray]:
    folder, name = split_file_address(address)
    try:
        table = pq.read_table(pa.BufferReader(Folder(folder).read_bytes(name)))
        ids = [str(sample) for sample in table.column("sample_id").to_pylist()]
        others = [column for column in table.column_names if column != "sample_id"]
        lists = [column for column in others if pa.types.is_nested(table.schema.field(column).type)]
        if lists:
            if len(others) > 1:
                raise UserError(f"{address} has {len(others)} columns beside sample_id: give lists in one, or numbers")
            return ids, _matrix(table.column(others[0]).to_pylist(), address)
        return ids, _matrix(np.stack([table.column(column).to_numpy() for column in others], axis=1), address)
    except FileNotFoundError:
        raise UserError(f"{address} does not exist") from None
    except (pa.ArrowException, KeyError) as error:
        raise UserError(f"{address} has no embeddings: {one_line(error)}") from None


def _read_h5ad(address: str) -> tuple[list[str], np.ndarray]:
    place, _, key = address.partition("#")
    folder, name = split_file_address(place)
    try:
        with Folder(folder).open(name) as stream, h5py.File(stream, "r") as file:
            kinds = sorted(file["obsm"]) if "obsm" in file else []
            if not key and len(kinds) != 1:
                example = f"{place}#{(kinds or ['X_pca'])[0]}"
                raise UserError(f"{place} has {len(kinds)} embeddings in obsm: name one, as in {example}")
            obs = file["obs"]
            ids = obs[obs.attrs["_index"]].asstr()[:].tolist()
            values = file["obsm"][key or kinds[0]]
            if not isinstance(values, h5py.Dataset):
                raise UserError(f"{address}: obsm has no dense matrix of that name")
            return ids, _matrix(values[:], address)
    except FileNotFoundError:
        raise UserError(f"{place} does not exist") from None
    except (KeyError, OSError) as error:
        raise UserError(f"{address} has no embeddings: {one_line(error)}") from None


def _matrix(values: Sequence[object] | np.ndarray, address: str) -> np.ndarray:
    """float32 N x width. Raises UserError for rows of unequal length and for what is no number."""
    try:
        matrix = np.asarray(values, np.float32)
    except (ValueError, TypeError):
        matrix = np.empty(0, np.float32)
    if matrix.ndim != 2 or not matrix.shape[1]:
        raise UserError(f"{address}: embeddings are no rows of equally many numbers")
    return matrix


def write_hidden(
    folder: str, name: str, sample_ids: Sequence[str], visible_NG: np.ndarray, vocabulary: GeneVocabulary
) -> None:
    """Write what is visible of profiles, log1p(TPM) with NaN where hidden or not measured, to ``FOLDER/NAME.parquet``.

    Columns: ``sample_id``, then a gene each by Ensembl id.
    """
    columns = {"sample_id": pa.array(sample_ids)}
    columns |= dict(zip(vocabulary.ensembl_ids, map(pa.array, visible_NG.T.astype(np.float32)), strict=True))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, use_dictionary=["sample_id"])
    Folder(folder).write_bytes(f"{name}.parquet", sink.getvalue().to_pybytes())


def predictions_file(address: str, name: str, is_first: bool) -> str | None:
    """The file of predictions for a way to hide genes: in a folder by its name; a single file is for the first way."""
    if address.endswith((".parquet", ".h5ad")):
        return address if is_first else None
    folder = Folder(address)
    return next((f"{address}/{name}{end}" for end in (".parquet", ".h5ad") if folder.exists(f"{name}{end}")), None)


def read_predictions(address: str, sample_ids: Sequence[str], vocabulary: GeneVocabulary) -> np.ndarray:
    """Predicted log1p(TPM), float32 N x G for these samples, NaN where the file has no prediction.

    Parquet with a column of sample names and one for each gene, or the X of an ``.h5ad``; genes by Ensembl id. Raises
    UserError for a file of another form, samples named twice, and where it has none of the samples or genes.
    """
    kind = H5adSource if address.endswith(".h5ad") else ParquetSource
    more = {} if kind is H5adSource else {"orientation": "samples_x_genes"}
    source = kind.model_validate(
        {"name": "predictions", "path": address, "gene_id": "ensembl", "units": "log1p_tpm", "study": "x", **more}
    )
    ids = source.list_samples(address).sample_ids
    repeated = [sample for sample, times in Counter(ids).items() if times > 1]
    if repeated:
        raise UserError(f"{address} has {len(repeated):,} samples twice, e.g. {', '.join(repeated[:3])}")
    row_of = {sample: row for row, sample in enumerate(sample_ids)}
    found = np.full((len(sample_ids), vocabulary.size), np.nan, np.float32)
    for raw in source.read_samples(address, 0, len(ids)):
        columns = np.array([vocabulary.column_of.get(strip_version(gene), -1) for gene in raw.gene_ids])
        rows = np.array([row_of.get(sample, -1) for sample in raw.sample_ids])
        known = np.ix_(rows[rows >= 0], columns[columns >= 0])
        found[known] = raw.values[rows >= 0][:, columns >= 0]
    if np.isnan(found).all():
        raise UserError(
            f"{address} predicts nothing of the {len(sample_ids):,} profiles that are scored (there: {sample_ids[0]} "
            f"and {vocabulary.ensembl_ids[0]}; in the file: {', '.join(ids[:1]) or 'none'})"
        )
    return found
