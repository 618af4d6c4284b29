"""A simulated cohort as one HDF5 file in ARCHS4's layout, version 2: counts of genes x samples, with what GEO has.

Samples and series keep their simulated names: an accession of GEO's kind could be that of a real sample. Of every fifty
samples about one has a high ``singlecellprobability``, as ARCHS4 marks single cells among its bulk samples.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import h5py
import numpy as np
import pandas as pd

from dataprep.genes.vocabulary import GeneVocabulary

ARCHS4_FILE = "human_gene.h5"
_CHUNK_GENES, _CHUNK_SAMPLES = 2_000, 64
_SINGLE_CELL_SHARE = 0.02
_LARGEST_COUNT = np.iinfo(np.uint32).max


class Archs4File:
    """Takes studies one after the other, in the order of the samples. Counts are kept compressed, in memory."""

    def __init__(self, vocabulary: GeneVocabulary, samples: int, seed: int) -> None:
        self._stream = io.BytesIO()
        self._file = h5py.File(self._stream, "w")
        chunks = min(_CHUNK_GENES, vocabulary.size), min(_CHUNK_SAMPLES, samples)
        self._counts = self._file.create_dataset(
            "data/expression", (vocabulary.size, samples), np.uint32, chunks=chunks, compression="gzip"
        )
        self._write_texts("meta/genes/ensembl_gene", vocabulary.ensembl_ids)
        self._write_texts("meta/genes/symbol", vocabulary.symbols)
        self._labels: list[pd.DataFrame] = []
        self._seed = seed
        self._written = 0

    def add(self, counts: np.ndarray, labels: pd.DataFrame) -> None:
        """``counts`` int64 [n, G] of one study; ``labels`` with sample, study, tissue and disease of each."""
        end = self._written + len(counts)
        self._counts[:, self._written : end] = np.minimum(counts, _LARGEST_COUNT).astype(np.uint32).T
        self._labels.append(labels)
        self._written = end

    def content(self) -> bytes:
        """The bytes of the file, which takes no more studies after that."""
        labels = pd.concat(self._labels, ignore_index=True)
        described = zip(labels["tissue"], labels["disease"], strict=True)
        columns = {
            "geo_accession": labels["sample"],
            "series_id": labels["study"],
            "title": labels["sample"] + ", " + labels["tissue"],
            "source_name_ch1": labels["tissue"],
            "characteristics_ch1": [f"tissue: {tissue},disease: {disease}" for tissue, disease in described],
        }
        for name, values in columns.items():
            self._write_texts(f"meta/samples/{name}", list(values))
        self._file["meta/samples/singlecellprobability"] = _single_cell_probability(len(labels), self._seed)
        self._file.close()
        return self._stream.getvalue()

    def _write_texts(self, name: str, values: Sequence[str]) -> None:
        self._file[name] = [value.encode() for value in values]


def _single_cell_probability(samples: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng([seed, 4])
    high = rng.random(samples) < _SINGLE_CELL_SHARE
    return np.where(high, rng.uniform(0.7, 1.0, samples), rng.uniform(0.0, 0.2, samples)).round(3)
