"""Time and memory of the principal directions of a corpus that is streamed through Ray.

Makes a corpus of low-rank profiles in a temporary folder, fits, and prints one line of JSON: seconds, and the largest
sum of what this process and Ray's processes hold for themselves alone (shared memory is the object store's, and the
page cache)::

    python benchmarks/linear_prior.py --profiles 10000 --components 200
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time

import numpy as np
import psutil

from dataprep.corpus import (
    GENES_FILE,
    MANIFEST_FILE,
    Corpus,
    Manifest,
    SampleCounts,
    SplitSummary,
    manifest_text,
    open_corpus,
    table_bytes,
    write_shard,
)
from dataprep.genes.vocabulary import GeneVocabulary
from dataprep.runtime.ray_session import connected
from dataprep.runtime.storage import Folder
from pretrain.prior.streamed import PASSES, corpus_parts, streamed_directions

ROW_GROUP = 64
PROFILES_OF_SHARD = 64 * 50
PLANTED = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profiles", type=int, default=10_000)
    parser.add_argument("--genes", type=int, default=20_024)
    parser.add_argument("--components", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="prior-bench-") as place:
        corpus = make_corpus(place, arguments.profiles, arguments.genes)
        with connected(), PeakMemory() as memory:
            began = time.perf_counter()
            found = streamed_directions(corpus_parts(corpus, "train"), corpus.genes, arguments.components)
            seconds = time.perf_counter() - began
    planted = float(found.variances[:PLANTED].sum()) / found.total_variance
    print(
        json.dumps(
            {
                **vars(arguments),
                "seconds": round(seconds, 1),
                "passes": PASSES + 1,
                "peak_private_gib": round(memory.peak / 2**30, 2),
                "variance_in_planted_directions": round(planted, 4),
            }
        )
    )


def make_corpus(place: str, profiles: int, genes: int) -> Corpus:
    """A train split of profiles of rank 50 with noise; a tenth of them lacks a fifth of the genes."""
    folder, names = Folder(place), tuple(f"ENSG{number:011d}" for number in range(genes))
    vocabulary = GeneVocabulary(names, names, np.full(genes, 1000.0))
    random = np.random.default_rng(0)
    loading = random.standard_normal((PLANTED, genes), np.float32) * 0.2
    shards = []
    for number, start in enumerate(range(0, profiles, PROFILES_OF_SHARD)):
        rows = min(PROFILES_OF_SHARD, profiles - start)
        latent = random.standard_normal((rows, PLANTED), np.float32)
        expression = np.empty((rows, genes), np.float16)
        for first in range(0, rows, 256):
            part = slice(first, first + 256)
            values = 3 + latent[part] @ loading
            expression[part] = values + 0.5 * random.standard_normal(values.shape, np.float32)
        expression[::10, : genes // 5] = np.nan
        path = f"split=train/part-{number:05d}.parquet"
        shards.append(write_shard(folder, path, "train", start, expression, vocabulary, ROW_GROUP))
    folder.write_bytes(GENES_FILE, table_bytes(vocabulary.to_arrow()))
    manifest = Manifest(
        genes=genes,
        vocabulary_sha256=vocabulary.fingerprint,
        rows_per_row_group=ROW_GROUP,
        splits={"train": SplitSummary(rows=profiles, studies=["made"])},
        shards=shards,
        tables_sha256={GENES_FILE: folder.sha256(GENES_FILE)},
        samples=SampleCounts(read=profiles, kept=profiles, rejected={}),
        sources=[],
        settings={},
    )
    folder.write_text(MANIFEST_FILE, manifest_text(manifest))
    return open_corpus(folder)


class PeakMemory:
    """The largest sum, looked at four times a second, of private memory of this process and all its children."""

    def __init__(self) -> None:
        self.peak = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(0.25):
            held = 0
            for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
                try:
                    memory = process.memory_info()
                except psutil.Error:
                    continue
                held += memory.rss - memory.shared
            self.peak = max(self.peak, held)


if __name__ == "__main__":
    main()
