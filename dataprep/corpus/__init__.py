"""The corpus: normalised profiles in Parquet shards, in a folder or an object store.

    CORPUS/split=train/part-00000.parquet ...   split=validation/...   split=test/...
           samples.parquet  genes.parquet  rejected.parquet  manifest.json  [gene_graph.parquet]

A shard has two columns: ``row_id`` (int64) and ``expression`` (FixedSizeBinary: G little-endian float16, log1p of
TPM, NaN where the source does not measure the gene). Row ids are dense over the corpus and ascend without a gap inside
each shard and from shard to shard, so the row ids of any row group follow from the manifest alone. The expression
column is stored plain: bytes of a file are bytes of the matrix, and reading is a view (six times the rate of a list
column). The manifest is written last: a folder without one is not a corpus.
"""

from dataprep.corpus.corpus import Corpus, iterate_row_groups, iterate_rows, open_corpus, read_split
from dataprep.corpus.graph_file import GRAPH_FILE, GeneGraph
from dataprep.corpus.manifest import (
    IN_DISTRIBUTION,
    MANIFEST_FILE,
    SPLITS,
    Manifest,
    SampleCounts,
    Shard,
    ShardEntry,
    SourceSummary,
    SplitSummary,
    TpmOver,
    manifest_text,
    split_summaries,
)
from dataprep.corpus.replacement import begin_corpus, finish_corpus, require_free
from dataprep.corpus.shards import (
    BYTES_PER_VALUE,
    DamagedShardError,
    ReplacedShardError,
    decode_expression,
    encode_expression,
    read_row_groups,
    write_shard,
)
from dataprep.corpus.tables import GENES_FILE, REJECTED_FILE, SAMPLE_COLUMNS, SAMPLES_FILE, table_bytes
from dataprep.corpus.verification import verify, verify_shard, verify_tables

__all__ = [
    "BYTES_PER_VALUE",
    "GENES_FILE",
    "GRAPH_FILE",
    "IN_DISTRIBUTION",
    "MANIFEST_FILE",
    "REJECTED_FILE",
    "SAMPLES_FILE",
    "SAMPLE_COLUMNS",
    "SPLITS",
    "Corpus",
    "DamagedShardError",
    "GeneGraph",
    "Manifest",
    "ReplacedShardError",
    "SampleCounts",
    "Shard",
    "ShardEntry",
    "SourceSummary",
    "SplitSummary",
    "TpmOver",
    "begin_corpus",
    "decode_expression",
    "encode_expression",
    "finish_corpus",
    "iterate_row_groups",
    "iterate_rows",
    "manifest_text",
    "open_corpus",
    "read_row_groups",
    "read_split",
    "require_free",
    "split_summaries",
    "table_bytes",
    "verify",
    "verify_shard",
    "verify_tables",
    "write_shard",
]
