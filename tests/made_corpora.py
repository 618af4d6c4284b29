"""Small corpora for tests: low-rank profiles with some genes missing, written in the real format."""

import numpy as np
import pyarrow as pa

from dataprep.corpus import (
    GENES_FILE,
    MANIFEST_FILE,
    REJECTED_FILE,
    SAMPLES_FILE,
    Corpus,
    GeneGraph,
    Manifest,
    SampleCounts,
    SplitSummary,
    manifest_text,
    open_corpus,
    table_bytes,
    write_shard,
)
from dataprep.corpus.replacement import finish_growth
from dataprep.corpus.versions import own_file
from dataprep.genes.vocabulary import GeneVocabulary
from dataprep.runtime.storage import Folder


def make_vocabulary(genes: int) -> GeneVocabulary:
    ids = tuple(f"ENSG{number:011d}" for number in range(genes))
    return GeneVocabulary(ids, tuple(f"G{number}" for number in range(genes)), np.full(genes, 1000.0))


def make_profiles(rows: int, genes: int, seed: int = 0) -> np.ndarray:
    """float16 [rows, genes]: eight latent programs, a tenth of the profiles lacks a fifth of the genes."""
    random = np.random.default_rng(seed)
    programs = np.random.default_rng(1).gamma(1.0, 1.0, (8, genes))
    expression = random.gamma(2.0, 0.3, (rows, 8)) @ programs + random.normal(0, 0.1, (rows, genes))
    expression = np.maximum(expression, 0).astype(np.float16)
    expression[::10, : genes // 5] = np.nan
    return expression


def make_graph(vocabulary: GeneVocabulary, neighbours: int = 3) -> GeneGraph:
    """Each gene hears the next few; the last gene has no edges at all."""
    genes = vocabulary.size - 1
    target = np.repeat(np.arange(genes), neighbours)
    source = (target + np.tile(np.arange(1, neighbours + 1), genes)) % genes
    weight = np.linspace(0.4, 1.0, len(target))
    return GeneGraph(
        source.astype(np.int32), target.astype(np.int32), weight.astype(np.float32), vocabulary.fingerprint
    )


def make_corpus(
    uri: str,
    rows: dict[str, int] | None = None,
    genes: int = 60,
    row_group: int = 8,
    rows_per_shard: int = 64,
    labels: dict[str, list[str]] | None = None,
    seed: int = 0,
    vocabulary: GeneVocabulary | None = None,
) -> Corpus:
    """Write a corpus of synthetic profiles with its gene graph; ``rows`` by split, ``labels`` one per profile."""
    rows = rows or {"train": 100, "validation": 20, "test": 20}
    firsts = np.cumsum([0, *rows.values()])[:-1]
    parts = [
        make_profiles(count, genes, int(first) + 1_000 * seed)
        for count, first in zip(rows.values(), firsts, strict=True)
    ]
    return write_corpus(uri, rows, np.concatenate(parts), labels or {}, row_group, rows_per_shard, vocabulary)


def write_corpus(
    uri: str,
    rows: dict[str, int],
    expression: np.ndarray,
    columns: dict[str, list[str]],
    row_group: int = 8,
    rows_per_shard: int = 64,
    vocabulary: GeneVocabulary | None = None,
) -> Corpus:
    """Write profiles, float16 in the order of ``rows`` by split, as a corpus with its gene graph.

    ``columns`` of the table of samples, one entry per profile, add to what every corpus has, or replace it.
    """
    genes = expression.shape[1]
    folder, vocabulary = Folder(uri), vocabulary or make_vocabulary(genes)
    entries, first, splits = [], 0, []
    for split, count in rows.items():
        for number, start in enumerate(range(0, count, rows_per_shard)):
            part = expression[first + start : first + min(start + rows_per_shard, count)]
            path = f"split={split}/part-{number:05d}.parquet"
            entries.append(write_shard(folder, path, split, first + start, part, vocabulary, row_group))
        first += count
        splits += [split] * count
    samples = {
        "sample_id": [f"S{row}" for row in range(first)],
        "study_id": [f"{split}-{row % 5}" for row, split in enumerate(splits)],
        "split": splits,
        "row_id": pa.array(range(first), pa.int64()),
        "source": ["made"] * first,
        **columns,
    }
    rejected = {name: pa.array([], pa.string()) for name in ("sample_id", "source", "reason", "value")}
    vocabulary_table = vocabulary.to_arrow()
    folder.write_bytes(GENES_FILE, table_bytes(vocabulary_table))
    folder.write_bytes(SAMPLES_FILE, table_bytes(pa.table(samples)))
    folder.write_bytes(REJECTED_FILE, table_bytes(pa.table(rejected)))
    manifest = Manifest(
        genes=genes,
        vocabulary_sha256=vocabulary.fingerprint,
        rows_per_row_group=row_group,
        splits={split: SplitSummary(rows=count, studies=[f"{split}-0"]) for split, count in rows.items()},
        shards=entries,
        tables_sha256={name: folder.sha256(name) for name in (GENES_FILE, SAMPLES_FILE, REJECTED_FILE)},
        samples=SampleCounts(read=first, kept=first, rejected={}),
        sources=[],
        settings={},
    )
    make_graph(vocabulary).write(folder)
    folder.write_text(MANIFEST_FILE, manifest_text(manifest))
    return open_corpus(folder)


def grow(corpus: Corpus) -> Corpus:
    """The next version of a corpus, with the same profiles."""
    folder, manifest = corpus.folder, corpus.manifest.model_copy(update={"version": corpus.version + 1})
    for name in (SAMPLES_FILE, REJECTED_FILE):
        folder.write_bytes(own_file(manifest.version, name), folder.read_bytes(corpus.table_file(name)))
    finish_growth(folder, folder.read_bytes(MANIFEST_FILE), manifest)
    return open_corpus(folder)


def pairs_in_turn(function, blocks, limits):
    """What `dataprep.coexpression.correlation.on_ray` does, in this process, and the last pair first."""
    kept = list(blocks)
    return [function(left, right, limits) for number, left in enumerate(kept) for right in kept[: number + 1]][::-1]
