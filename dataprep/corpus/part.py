"""A part of a corpus as a corpus of its own: all of its validation split, and the train profiles of some studies.

Parts of one corpus have the same validation profiles under the same row ids, and so the same masks: what is trained on
one part can be compared with what is trained on another.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator

import numpy as np
import pandas as pd
import pyarrow as pa

from dataprep.corpus.corpus import Corpus, iterate_rows, open_corpus
from dataprep.corpus.manifest import Manifest, SampleCounts, ShardEntry, split_summaries
from dataprep.corpus.replacement import begin_corpus, finish_corpus
from dataprep.corpus.shards import SHARD_BYTES, rows_per_shard, write_shard
from dataprep.corpus.tables import GENES_FILE, REJECTED_FILE, SAMPLES_FILE, table_bytes
from dataprep.runtime.storage import Folder


def nested_studies(corpus: Corpus, fractions: Collection[float], seed: int) -> dict[float, list[str]]:
    """Studies whose profiles are about each of the fractions of the train split, the smaller ones within the larger.

    Studies come in an order drawn with ``seed``; each fraction has as many of them as bring it nearest, at least one.
    """
    samples = corpus.samples().to_pandas()
    sizes = samples.loc[samples["split"] == "train", "study_id"].value_counts().sort_index()
    sizes = sizes.iloc[np.random.default_rng(seed).permutation(len(sizes))]
    shares = sizes.cumsum().to_numpy() / sizes.sum()
    chosen = {fraction: 1 + int(np.abs(shares - fraction).argmin()) for fraction in fractions}
    return {fraction: sorted(sizes.index[:count]) for fraction, count in chosen.items()}


def write_part(corpus: Corpus, folder: Folder, studies: Collection[str]) -> Corpus:
    """Write the part with the train profiles of ``studies``; one that was finished before is replaced.

    Validation profiles come first, so that their row ids do not depend on the studies. The gene graph is the corpus's.
    """
    begin_corpus(folder)
    samples = corpus.samples().to_pandas().sort_values("row_id")
    chosen = (samples["split"] == "validation") | ((samples["split"] == "train") & samples["study_id"].isin(studies))
    kept = samples[chosen].copy()
    kept["split"] = pd.Categorical(kept["split"], ["validation", "train"], ordered=True)
    kept = kept.sort_values(["split", "row_id"]).astype({"split": str})
    entries = [entry for split in ("validation", "train") for entry in _shards(corpus, folder, kept, split)]
    kept["row_id"] = np.arange(len(kept))
    tables = {
        SAMPLES_FILE: pa.Table.from_pandas(kept, schema=corpus.samples().schema, preserve_index=False),
        REJECTED_FILE: corpus.read_rejected().slice(0, 0),
        GENES_FILE: corpus.vocabulary.to_arrow(),
    }
    for name, table in tables.items():
        folder.write_bytes(name, table_bytes(table))
    corpus.graph().write(folder)
    finish_corpus(folder, _manifest(corpus, folder, kept, entries, list(tables)))
    return open_corpus(folder)


def _shards(corpus: Corpus, folder: Folder, kept: pd.DataFrame, split: str) -> Iterator[ShardEntry]:
    first = int((kept["split"] == "validation").sum()) if split == "train" else 0
    row_ids = kept.loc[kept["split"] == split, "row_id"].to_numpy()
    rows_per_group = corpus.manifest.rows_per_row_group
    size = rows_per_shard(SHARD_BYTES, corpus.genes, rows_per_group)
    for number in range(math.ceil(len(row_ids) / size)):
        own = row_ids[number * size : (number + 1) * size]
        expression = np.concatenate([values for _, values in iterate_rows(corpus, own)])
        path = f"split={split}/part-{number:05d}.parquet"
        yield write_shard(folder, path, split, first + number * size, expression, corpus.vocabulary, rows_per_group)


def _manifest(
    corpus: Corpus, folder: Folder, kept: pd.DataFrame, entries: list[ShardEntry], tables: list[str]
) -> Manifest:
    return corpus.manifest.model_copy(
        update={
            "version": 1,
            "splits": split_summaries(kept),
            "shards": entries,
            "tables_sha256": {name: folder.sha256(name) for name in tables},
            "samples": SampleCounts(read=len(kept), kept=len(kept), rejected={}),
            "sources": [],
            "settings": {"part_of": corpus.fingerprint, "settings": corpus.manifest.settings},
        }
    )
