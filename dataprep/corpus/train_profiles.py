"""By what an export's train profiles can be known again, for whoever asks whether a model has seen a profile before.

A table without any expression beside the weights, see :mod:`dataprep.corpus.fingerprints`. N profiles.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dataprep.corpus.corpus import Corpus, iterate_row_groups
from dataprep.corpus.fingerprints import BANDS, BITS_PER_BAND, Fingerprinter, Fingerprints
from dataprep.corpus.subjects import subjects_of
from dataprep.runtime.command_line import UserError, one_line

TRAIN_PROFILES_FILE = "train_profiles.parquet"
_SKETCH = {"bands": BANDS, "bits_per_band": BITS_PER_BAND}
_METADATA_KEY = b"fingerprints"


@dataclass(frozen=True)
class TrainProfiles:
    """Of each train profile, in order of row id, its names and fingerprints. ``corpus``: that of the corpus."""

    corpus: str
    sample_ids: Sequence[str]
    study_ids: Sequence[str]
    subjects: Sequence[str | None]
    fingerprints: Fingerprints

    @classmethod
    def of_corpus(cls, corpus: Corpus) -> TrainProfiles:
        """Reads the whole train split, a row group at a time."""
        samples = corpus.samples().sort_by("row_id")
        samples = samples.filter(np.isin(samples.column("split").to_pylist(), ["train"]))
        fingerprinter = Fingerprinter(corpus.vocabulary)
        parts = [fingerprinter.of(expression) for _, expression in iterate_row_groups(corpus, corpus.shards("train"))]
        return cls(
            corpus.fingerprint,
            samples.column("sample_id").to_pylist(),
            samples.column("study_id").to_pylist(),
            subjects_of(samples),
            Fingerprints.joined(parts),
        )

    def to_bytes(self) -> bytes:
        """A Parquet file."""
        columns = {
            "sample_id": pa.array(self.sample_ids, pa.string()),
            "study_id": pa.array(self.study_ids, pa.string()),
            "subject": pa.array(self.subjects, pa.string()),
            "content": _binary(self.fingerprints.content),
            "sketch": _binary(self.fingerprints.sketch.astype("<u8").view(np.uint8)),
        }
        about = {"corpus": self.corpus, **_SKETCH}
        table = pa.table(columns).replace_schema_metadata({_METADATA_KEY: json.dumps(about).encode()})
        sink = pa.BufferOutputStream()
        # names repeat, digests cannot be compressed
        pq.write_table(table, sink, compression="zstd", use_dictionary=["study_id"])
        return sink.getvalue().to_pybytes()

    @classmethod
    def from_bytes(cls, content: bytes, origin: str) -> TrainProfiles:
        """The inverse of :meth:`to_bytes`. Raises UserError where the file is another or of another form."""
        try:
            table = pq.read_table(pa.BufferReader(content))
            about = json.loads((table.schema.metadata or {})[_METADATA_KEY])
            if any(about[name] != value for name, value in _SKETCH.items()):
                raise UserError(f"{origin} has fingerprints of another form: {about}")
            sketch = _bytes_of(table, "sketch", BANDS * 8).view("<u8").astype(np.uint64)
            fingerprints = Fingerprints(_bytes_of(table, "content", Fingerprints.CONTENT_BYTES), sketch)
            samples, studies, subjects = (
                table.column(name).to_pylist() for name in ("sample_id", "study_id", "subject")
            )
            return cls(str(about["corpus"]), samples, studies, subjects, fingerprints)
        except (pa.ArrowException, KeyError, TypeError, ValueError, OSError) as error:
            raise UserError(f"{origin} is damaged: {one_line(error)}") from None


def readable_train_profiles(corpus: Corpus, log: Callable[[str], None]) -> TrainProfiles | None:
    """Those of a corpus, or None, with a line that says why: an export is worth having without them."""
    try:
        return TrainProfiles.of_corpus(corpus)
    except UserError as error:
        log(f"no fingerprints of train profiles were made, and without them no leak audit can be made: {error}")
        return None


def _binary(rows: np.ndarray) -> pa.Array:
    """uint8 N x W as N values of W bytes."""
    kind = pa.binary(rows.shape[1])
    return pa.FixedSizeBinaryArray.from_buffers(kind, len(rows), [None, pa.py_buffer(np.ascontiguousarray(rows))])


def _bytes_of(table: pa.Table, name: str, width: int) -> np.ndarray:
    """The inverse of :func:`_binary`, uint8 N x ``width``. Raises ValueError for values of another width."""
    values = table.column(name).to_pylist()
    return np.frombuffer(b"".join(values), np.uint8).reshape(len(values), width)
