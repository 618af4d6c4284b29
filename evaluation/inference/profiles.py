"""Profiles to feed a model, in batches, from a corpus or an ``.h5ad`` file; a part of it is in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dataprep.corpus import SPLITS, Corpus, Shard, iterate_row_groups
from dataprep.genes.identifiers import GeneMapping, map_genes
from dataprep.genes.vocabulary import GeneVocabulary
from dataprep.pipeline.normalization import normalise
from dataprep.runtime.command_line import UserError
from dataprep.runtime.terminal import log
from dataprep.sources import H5adSource

# Samples of an .h5ad that are read and normalised together: its metadata is read anew each time.
_H5AD_ROWS = 128
# A file that measures fewer of the model's genes cannot be what the model was trained on.
_LEAST_SHARE_OF_GENES = 0.5


@dataclass(frozen=True)
class ProfileStream:
    """Named profiles and a way to read them: ``parts()`` yields float16 [n, G] pieces in the order of the names."""

    sample_ids: tuple[str, ...]
    parts: Callable[[], Iterator[np.ndarray]]

    def batches(self, size: int) -> Iterator[tuple[int, np.ndarray]]:
        """Number of profiles and expression, float32 [n, G] with n <= ``size``; batches do not span parts."""
        for part in self.parts():
            for start in range(0, len(part), size):
                batch = part[start : start + size].astype(np.float32)
                yield len(batch), batch


def corpus_stream(corpus: Corpus, splits: Sequence[str]) -> ProfileStream:
    """The profiles of some splits of a corpus, in order of row id."""
    samples = corpus.samples()
    samples = samples.filter(pa.array(np.isin(samples.column("split").to_pylist(), splits))).sort_by("row_id")
    shards = shards_of(corpus, splits)
    return ProfileStream(
        tuple(samples.column("sample_id").to_pylist()),
        lambda: (expression for _, expression in iterate_row_groups(corpus, shards)),
    )


def shards_of(corpus: Corpus, splits: Sequence[str]) -> list[Shard]:
    """The shards of some splits, in order of row id."""
    shards = [shard for split in splits for shard in corpus.shards(split)]
    return sorted(shards, key=lambda shard: shard.first_row_id)


def splits_named(name: str) -> tuple[str, ...]:
    """``all`` is every split."""
    return SPLITS if name == "all" else (name,)


def h5ad_stream(address: str, source: H5adSource, vocabulary: GeneVocabulary) -> ProfileStream:
    """The samples of an ``.h5ad``, its units checked, normalised, with genes aligned by Ensembl id (version ignored).

    Raises UserError for values that are not what they are declared as, and for a file whose genes are not the model's.
    """
    sample_ids = source.list_samples(address).sample_ids
    if not sample_ids:
        raise UserError(f"{address} holds no samples")

    def parts() -> Iterator[np.ndarray]:
        genes: GeneMapping | None = None
        for start in range(0, len(sample_ids), _H5AD_ROWS):
            for raw in source.read_samples(address, start, min(start + _H5AD_ROWS, len(sample_ids))):
                genes = genes or _mapped(address, raw.gene_ids, vocabulary)
                yield normalise(address, raw, source, genes, vocabulary.size).expression

    return ProfileStream(sample_ids, parts)


def _mapped(address: str, gene_ids: Sequence[str], vocabulary: GeneVocabulary) -> GeneMapping:
    genes = map_genes(address, gene_ids, "ensembl", vocabulary)
    absent = vocabulary.size - genes.measured
    if genes.measured < _LEAST_SHARE_OF_GENES * vocabulary.size:
        named = set(genes.columns.tolist())
        examples = [gene for column, gene in enumerate(vocabulary.ensembl_ids) if column not in named][:3]
        raise UserError(
            f"{address} measures {genes.measured:,} of the model's {vocabulary.size:,} genes, too few to embed it; "
            f"not in it: {', '.join(examples)}"
        )
    if absent:
        log(f"{address}: {absent:,} of the model's {vocabulary.size:,} genes are not measured and count as missing")
    return genes
