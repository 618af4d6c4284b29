"""Sources to a corpus, as two Ray Data pipelines.

1. Every task reads some samples of one file, checks, normalises and judges them, and yields blocks of float16
   profiles. The blocks stay in Ray's object store (on its disks where they do not fit: 2 x G bytes per profile).
2. The driver, which sees a few numbers per sample and never a profile, settles duplicates and splits, and draws the
   order of the profiles. Blocks are then shuffled by shard, and every shard is put in order and written by one task.

What comes out depends on the sources and the settings alone, not on the number of machines or the order in which
tasks end. Nothing is written before all sources have been read; the manifest is written last.
"""

from __future__ import annotations

import fnmatch
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import ray
import ray.data
from ray.data.context import ShuffleStrategy

from dataprep.config import BuildSettings
from dataprep.corpus import (
    BYTES_PER_VALUE,
    GENES_FILE,
    GRAPH_FILE,
    MANIFEST_FILE,
    REJECTED_FILE,
    SAMPLES_FILE,
    SPLITS,
    Manifest,
    SampleCounts,
    ShardEntry,
    SourceSummary,
    SplitSummary,
    manifest_text,
    table_bytes,
    write_shard,
)
from dataprep.genes.identifiers import map_genes
from dataprep.genes.vocabulary import GeneVocabulary, default_vocabulary, read_aliases, read_vocabulary
from dataprep.pipeline import quality_control as qc
from dataprep.pipeline.normalization import linear_values, log1p_tpm
from dataprep.pipeline.splits import split_studies
from dataprep.pipeline.task_board import has_failed, raise_mistake, reporting, task_board, watched
from dataprep.runtime.command_line import UserError
from dataprep.runtime.ray_session import connected
from dataprep.runtime.storage import Folder
from dataprep.sources import RawProfiles, Source
from dataprep.sources.sample_metadata import labels_for, metadata_of

_BLOCK_SCHEMA = pa.schema(
    [
        ("ordinal", pa.int64()),
        ("reason", pa.string()),
        ("value", pa.string()),
        ("profile", pa.binary(16)),
        ("genes", pa.int64()),
        ("unknown_genes", pa.int64()),
        ("merged_genes", pa.int64()),
        ("vocabulary_genes", pa.int64()),
        ("expression", pa.large_binary()),
    ]
)

_ENTRY_SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("split", pa.string()),
        ("rows", pa.int64()),
        ("first_row_id", pa.int64()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("content_sha256", pa.string()),
    ]
)


@dataclass(frozen=True)
class SourceFile:
    """A file of a source. Its samples have the ordinals ``first_ordinal``, ``first_ordinal + 1``, ... in the build."""

    source: Source
    address: str
    sample_ids: tuple[str, ...]
    first_ordinal: int


@dataclass(frozen=True)
class ReadTask:
    """Samples ``start`` to ``stop`` of a file."""

    file: SourceFile
    start: int
    stop: int


def build(settings: BuildSettings) -> dict[str, Any]:
    """Build the corpus ``settings.corpus`` and return its summary.

    Raises :class:`UserError`, with counts and examples, for sources that are not what the settings say they are.
    """
    folder = Folder(settings.corpus)
    _require_free(folder, settings.overwrite)
    vocabulary = default_vocabulary()
    if settings.vocabulary is not None:
        vocabulary = read_vocabulary(settings.address(settings.vocabulary))
    if settings.min_nonzero_genes > vocabulary.size:
        raise UserError(
            f"min_nonzero_genes {settings.min_nonzero_genes:,} is more than the vocabulary's {vocabulary.size:,} genes",
            exit_code=2,
        )
    aliases: dict[str, str] = {}
    if settings.gene_aliases is not None:
        aliases = read_aliases(settings.address(settings.gene_aliases))
    files = _list_files(settings)
    samples = _samples_table(settings, files)
    with connected():
        _quiet_ray_data()
        board = task_board(_samples_by_source(files))
        profiles = _read_profiles(settings, files, vocabulary, aliases, board)
        samples = _judged(samples, profiles, settings)
        kept = _in_order(samples[samples["reason"].isna()], settings)
        _clear(folder)
        entries = _write_shards(profiles, kept, folder, vocabulary, settings, board)
    manifest = _manifest(settings, vocabulary, samples, kept, entries, _write_tables(folder, samples, kept, vocabulary))
    folder.write_text(MANIFEST_FILE, manifest_text(manifest))
    return summary(folder, manifest)


def summary(folder: Folder, manifest: Manifest) -> dict[str, Any]:
    """The corpus in a few numbers, as ``--json`` prints them."""
    return {
        "corpus": folder.uri,
        "genes": manifest.genes,
        "samples": manifest.samples.model_dump(),
        "splits": {name: {"rows": s.rows, "studies": len(s.studies)} for name, s in manifest.splits.items()},
        "shards": len(manifest.shards),
        "bytes": sum(entry.bytes for entry in manifest.shards),
    }


# ---- what there is to read -------------------------------------------------------------------------------------------


def _require_free(folder: Folder, overwrite: bool) -> None:
    folder.require_reachable()
    if folder.exists(MANIFEST_FILE) and not overwrite:
        raise UserError(f"{folder.uri} is a finished corpus already; --overwrite replaces it")


def _list_files(settings: BuildSettings) -> list[SourceFile]:
    found = [(source, address) for source in settings.sources for address in _addresses(settings, source)]
    with ThreadPoolExecutor(max_workers=16) as pool:
        listed = list(pool.map(lambda pair: _sample_ids(*pair), found))
    files, first = [], 0
    for (source, address), sample_ids in zip(found, listed, strict=True):
        _require_unique_samples(address, sample_ids)
        files.append(SourceFile(source, address, sample_ids, first))
        first += len(sample_ids)
    return files


def _addresses(settings: BuildSettings, source: Source) -> list[str]:
    address = settings.address(source.path)
    if not any(character in source.path for character in "*?["):
        return [address]
    fixed = address[: min(address.index(character) for character in "*?[" if character in address)]
    folder = fixed.rpartition("/")[0] or "/"
    pattern = address[len(folder) :].lstrip("/")
    names = [name for name in Folder(folder).files() if fnmatch.fnmatchcase(name, pattern)]
    if not names:
        raise UserError(f"source {source.name}: no file matches {address}")
    return [f"{folder.rstrip('/')}/{name}" for name in names]


def _sample_ids(source: Source, address: str) -> tuple[str, ...]:
    listed = source.list_samples(address).sample_ids
    if not listed:
        raise UserError(f"{address} has no samples")
    return listed


def _require_unique_samples(address: str, sample_ids: Sequence[str]) -> None:
    repeated = [sample for sample, times in Counter(sample_ids).items() if times > 1]
    if repeated:
        raise UserError(
            f"{address}: {len(repeated):,} of {len(sample_ids):,} sample ids occur more than once, "
            f"e.g. {', '.join(map(repr, repeated[:3]))}"
        )


def _samples_table(settings: BuildSettings, files: Sequence[SourceFile]) -> pd.DataFrame:
    """One row per sample of all sources, by ordinal: sample_id, source, study_id and labels."""
    parts = []
    for source in settings.sources:
        own = [file for file in files if file.source == source]
        address = settings.address(source.samples) if source.samples is not None else None
        given = [sample for file in own for sample in file.sample_ids]
        labels = labels_for(source, given, metadata_of(source, address, [file.address for file in own]))
        unknown = sorted(set(source.exclude_samples) - set(given))
        if unknown:
            raise UserError(f"source {source.name} has no sample {', '.join(unknown[:3])} to exclude")
        excluded = [qc.EXCLUDED if sample in set(source.exclude_samples) else None for sample in given]
        sample_ids = [source.sample_prefix + sample for sample in given]
        parts.append(labels.assign(sample_id=sample_ids, source=source.name, reason=excluded, value=None))
    return pd.concat(parts, ignore_index=True)


# ---- first pipeline: sources to normalised profiles ------------------------------------------------------------------


def _quiet_ray_data() -> None:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # the default shuffle starts a pool of aggregators, which takes longer than a small build
    context.shuffle_strategy = ShuffleStrategy.SORT_SHUFFLE_PULL_BASED
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _read_profiles(
    settings: BuildSettings,
    files: Sequence[SourceFile],
    vocabulary: GeneVocabulary,
    aliases: Mapping[str, str],
    board: Any,
) -> ray.data.Dataset:
    tasks = [
        ReadTask(file, start, min(start + settings.samples_per_task, len(file.sample_ids)))
        for file in files
        for start in range(0, len(file.sample_ids), settings.samples_per_task)
    ]
    read = partial(
        _profile_blocks,
        tasks=ray.put(tasks),
        genes=ray.put((vocabulary, aliases)),
        min_nonzero_genes=settings.min_nonzero_genes,
        board=board,
    )
    numbers = ray.data.from_items([{"task": number} for number in range(len(tasks))], override_num_blocks=len(tasks))
    with watched(board):
        profiles = numbers.map_batches(read, batch_size=1, batch_format="pyarrow").materialize()
    raise_mistake(board)
    return profiles


def _samples_by_source(files: Sequence[SourceFile]) -> dict[str, int]:
    samples: Counter[str] = Counter()
    for file in files:
        samples[file.source.name] += len(file.sample_ids)
    return dict(samples)


def _profile_blocks(
    batch: pa.Table,
    tasks: ray.ObjectRef,
    genes: ray.ObjectRef,
    min_nonzero_genes: int,
    board: Any,
) -> Iterator[pa.Table]:
    vocabulary, aliases = ray.get(genes)
    all_tasks: list[ReadTask] = ray.get(tasks)
    for number in batch.column("task").to_pylist():
        task = all_tasks[number]
        if has_failed(board):
            return
        with reporting(board):
            for raw in task.file.source.read_samples(task.file.address, task.start, task.stop):
                block = profile_block(task.file, raw, vocabulary, aliases, min_nonzero_genes)
                refused = len(block) - block.column("reason").null_count
                # waiting keeps the counts true when the last task ends
                ray.get(board.add.remote(task.file.source.name, len(block), refused))
                yield block


def profile_block(
    file: SourceFile,
    raw: RawProfiles,
    vocabulary: GeneVocabulary,
    aliases: Mapping[str, str],
    min_nonzero_genes: int,
) -> pa.Table:
    """Check, normalise and judge some profiles of a file. Refused ones come without their expression."""
    source, where = file.source, f"source {file.source.name} ({file.address})"
    genes = map_genes(where, raw.gene_ids, source.gene_id, vocabulary, aliases)
    linear = linear_values(where, raw.values, source.units, raw.sample_ids, raw.gene_ids)
    totals = linear.sum(axis=1, dtype=np.float64)
    expression = log1p_tpm(linear, source.units, genes, vocabulary.size)
    nonzero = qc.nonzero_genes(expression)
    reasons = qc.refusal(totals, nonzero, min_nonzero_genes)
    profiles = [None if reason else row.tobytes() for reason, row in zip(reasons, expression, strict=True)]
    first, rows = file.first_ordinal + raw.first, len(reasons)
    return pa.table(
        {
            "ordinal": np.arange(first, first + rows),
            "reason": reasons,
            "value": [
                None if reason is None else str(count) if reason == qc.TOO_FEW_GENES else "0"
                for reason, count in zip(reasons, nonzero, strict=True)
            ],
            "profile": [None if p is None else blake2b(p, digest_size=16).digest() for p in profiles],
            "genes": np.full(rows, len(raw.gene_ids)),
            "unknown_genes": np.full(rows, genes.unknown),
            "merged_genes": np.full(rows, genes.merged),
            "vocabulary_genes": np.full(rows, genes.measured),
            "expression": profiles,
        },
        schema=_BLOCK_SCHEMA,
    )


# ---- the driver's decisions ------------------------------------------------------------------------------------------


def _judged(samples: pd.DataFrame, profiles: ray.data.Dataset, settings: BuildSettings) -> pd.DataFrame:
    """The samples with what reading found, and the reason why each refused one was refused."""
    columns = [name for name in _BLOCK_SCHEMA.names if name != "expression"]
    found = pa.concat_tables(ray.get(profiles.select_columns(columns).to_arrow_refs()))
    frame = found.to_pandas().set_index("ordinal").sort_index()
    assert len(frame) == len(samples), f"{len(frame)} profiles for {len(samples)} samples"
    judged = samples.assign(**{name: frame[name] for name in columns[3:]})
    # what the settings exclude is excluded whatever its quality
    by_quality = samples["reason"].isna() & frame["reason"].notna()
    judged.loc[by_quality, ["reason", "value"]] = frame.loc[by_quality, ["reason", "value"]]
    for column, reason in (("sample_id", qc.DUPLICATE_SAMPLE), ("profile", qc.DUPLICATE_PROFILE)):
        _refuse_duplicates(judged, column, reason)
    if judged["reason"].notna().all():
        counts = ", ".join(f"{reason} {count:,}" for reason, count in judged["reason"].value_counts().items())
        raise UserError(
            f"none of {len(judged):,} samples can be kept ({counts}); "
            f"min_nonzero_genes is {settings.min_nonzero_genes:,}"
        )
    return judged


def _refuse_duplicates(judged: pd.DataFrame, column: str, reason: str) -> None:
    """Of kept samples with the same value the first stays; sources come in the order of the settings."""
    kept = judged[judged["reason"].isna()]
    repeated = kept[kept[column].duplicated()]
    first = kept.drop_duplicates(column).set_index(column)
    judged.loc[repeated.index, "reason"] = reason
    judged.loc[repeated.index, "value"] = [
        f"{first.at[value, 'source']}: {value if column == 'sample_id' else first.at[value, 'sample_id']}"
        for value in repeated[column]
    ]


def _in_order(kept: pd.DataFrame, settings: BuildSettings) -> pd.DataFrame:
    """The kept samples with their split, in the order of their row ids: by split, shuffled inside each."""
    split_of = split_studies(kept["study_id"].value_counts().to_dict(), settings.split, settings.seed)
    kept = kept.assign(split=kept["study_id"].map(split_of))
    shuffled = kept.iloc[np.random.default_rng(settings.seed).permutation(len(kept))]
    ordered = shuffled.sort_values("split", key=lambda split: split.map(SPLITS.index), kind="stable")
    return ordered.assign(row_id=np.arange(len(ordered)))


# ---- second pipeline: profiles to shards -----------------------------------------------------------------------------


def _clear(folder: Folder) -> None:
    """Remove an older corpus, its manifest first, or what an interrupted build left."""
    folder.remove(MANIFEST_FILE)
    for name in (SAMPLES_FILE, GENES_FILE, REJECTED_FILE, GRAPH_FILE, *(f"split={split}" for split in SPLITS)):
        folder.remove(name)


def _write_shards(
    profiles: ray.data.Dataset,
    kept: pd.DataFrame,
    folder: Folder,
    vocabulary: GeneVocabulary,
    settings: BuildSettings,
    board: Any,
) -> list[ShardEntry]:
    rows_per_shard = settings.rows_per_shard(vocabulary.size)
    shard_of_row, plan = _shard_plan(kept["split"].to_numpy(), rows_per_shard)
    by_ordinal = np.argsort(kept.index.to_numpy())
    places = ray.put((kept.index.to_numpy()[by_ordinal], by_ordinal, shard_of_row[by_ordinal]))
    write = partial(
        _write_group,
        plan=plan,
        folder=folder,
        vocabulary=ray.put(vocabulary),
        rows_per_row_group=settings.rows_per_row_group,
        board=board,
    )
    written = (
        profiles.map_batches(partial(_placed, places=places), batch_size=None, batch_format="pyarrow")
        .groupby("shard")
        .map_groups(write, batch_format="pyarrow")
    )
    rows = [row for ref in written.to_arrow_refs() for row in ray.get(ref).to_pylist()]
    raise_mistake(board)
    entries = [ShardEntry(**row) for row in sorted(rows, key=lambda row: row["first_row_id"])]
    assert [entry.path for entry in entries] == [path for path, _, _ in plan]
    return entries


def _shard_plan(splits: np.ndarray, rows_per_shard: int) -> tuple[np.ndarray, list[tuple[str, str, int]]]:
    """The shard number of every row id, int64 [N], and (path, split, first_row_id) of every shard."""
    shard_of_row = np.empty(len(splits), np.int64)
    plan: list[tuple[str, str, int]] = []
    for split in SPLITS:
        rows = np.flatnonzero(splits == split)
        for part, start in enumerate(range(0, len(rows), rows_per_shard)):
            shard_of_row[rows[start : start + rows_per_shard]] = len(plan)
            plan.append((f"split={split}/part-{part:05d}.parquet", split, int(rows[start])))
    return shard_of_row, plan


def _placed(block: pa.Table, places: ray.ObjectRef) -> pa.Table:
    """The kept profiles of a block with their row id and the number of their shard."""
    ordinals, row_ids, shards = ray.get(places)
    wanted = block.column("ordinal").to_numpy()
    position = np.minimum(np.searchsorted(ordinals, wanted), len(ordinals) - 1)
    kept = ordinals[position] == wanted
    return pa.table(
        {
            "shard": shards[position[kept]],
            "row_id": row_ids[position[kept]],
            "expression": block.column("expression").filter(pa.array(kept)),
        }
    )


def _write_group(
    group: pa.Table,
    plan: Sequence[tuple[str, str, int]],
    folder: Folder,
    vocabulary: ray.ObjectRef,
    rows_per_row_group: int,
    board: Any,
) -> pa.Table:
    path, split, first_row_id = plan[group.column("shard")[0].as_py()]
    order = np.argsort(group.column("row_id").to_numpy())
    genes: GeneVocabulary = ray.get(vocabulary)
    width = BYTES_PER_VALUE * genes.size
    packed = group.column("expression").cast(pa.binary(width)).combine_chunks()
    expression = np.frombuffer(packed.buffers()[1], "<f2").reshape(-1, genes.size)[order]
    written: list[dict[str, Any]] = []
    with reporting(board):
        entry = write_shard(folder, path, split, first_row_id, expression, genes, rows_per_row_group)
        written.append(entry.model_dump())
    return pa.Table.from_pylist(written, schema=_ENTRY_SCHEMA)


def _write_tables(
    folder: Folder, samples: pd.DataFrame, kept: pd.DataFrame, vocabulary: GeneVocabulary
) -> dict[str, str]:
    """Write the metadata tables and return their checksums."""
    own = ["sample_id", "study_id", "split", "row_id", "source"]
    working = {"reason", "value", "profile", "genes", "unknown_genes", "merged_genes", "vocabulary_genes"}
    labels = [name for name in kept.columns if name not in {*own, *working}]
    rejected = samples[samples["reason"].notna()]
    tables = {
        SAMPLES_FILE: _arrow(kept, [*own, *labels]),
        REJECTED_FILE: _arrow(rejected, ["sample_id", "source", "reason", "value"]),
        GENES_FILE: vocabulary.to_arrow(),
    }
    for name, content in tables.items():
        folder.write_bytes(name, table_bytes(content))
    return {name: folder.sha256(name) for name in tables}


def _arrow(frame: pd.DataFrame, columns: Sequence[str]) -> pa.Table:
    types = {name: pa.int64() if name == "row_id" else pa.string() for name in columns}
    arrays = [pa.array(frame[name], type=types[name], from_pandas=True) for name in columns]
    return pa.table(arrays, schema=pa.schema(list(types.items())))


def _manifest(
    settings: BuildSettings,
    vocabulary: GeneVocabulary,
    samples: pd.DataFrame,
    kept: pd.DataFrame,
    entries: list[ShardEntry],
    tables_sha256: Mapping[str, str],
) -> Manifest:
    refused = samples["reason"].value_counts().to_dict()
    in_split = {split: kept[kept["split"] == split] for split in SPLITS}
    return Manifest(
        genes=vocabulary.size,
        vocabulary_sha256=vocabulary.fingerprint,
        rows_per_row_group=settings.rows_per_row_group,
        splits={
            split: SplitSummary(rows=len(rows), studies=sorted(rows["study_id"].unique()))
            for split, rows in in_split.items()
        },
        shards=entries,
        tables_sha256=dict(tables_sha256),
        samples=SampleCounts(read=len(samples), kept=len(kept), rejected=refused),
        sources=[_source_summary(source.name, samples) for source in settings.sources],
        settings=settings.resolved(),
    )


def _source_summary(name: str, samples: pd.DataFrame) -> SourceSummary:
    own = samples[samples["source"] == name]
    return SourceSummary(
        name=name,
        samples=len(own),
        kept=int(own["reason"].isna().sum()),
        genes=int(own["genes"].max()),
        unknown_genes=int(own["unknown_genes"].max()),
        merged_genes=int(own["merged_genes"].max()),
        vocabulary_genes=int(own["vocabulary_genes"].max()),
    )
