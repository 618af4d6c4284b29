"""Turn raw bulk RNA-seq into a corpus: normalised profiles in Parquet shards, on a folder or an object store."""
