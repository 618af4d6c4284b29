"""The command `dataprep build`: sources to a corpus in four steps, listing, reading, deciding, writing.

Before all sources have been read nothing is written but the state of the build, with which the same command goes on
after a kill (:mod:`dataprep.pipeline.restart`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from dataprep.config import BuildSettings
from dataprep.corpus import (
    MANIFEST_FILE,
    Manifest,
    begin_corpus,
    finish_corpus,
    manifest_text,
    open_corpus,
    require_free,
)
from dataprep.corpus.replacement import finish_growth, remove_unlisted_shards, tidy_up
from dataprep.genes.vocabulary import GeneVocabulary, default_vocabulary, read_vocabulary
from dataprep.pipeline.coordinator import start_coordinator
from dataprep.pipeline.deciding import apply_quality_control, assign_splits, require_profiles
from dataprep.pipeline.gene_rows import gene_tables
from dataprep.pipeline.growth.earlier import Earlier
from dataprep.pipeline.growth.version import grown_manifest, write_grown_tables
from dataprep.pipeline.listing import list_files, samples_table
from dataprep.pipeline.near_duplicates import refuse_near_duplicates
from dataprep.pipeline.reading import FOUND_COLUMNS, divided, quiet_ray_data, read_here, read_profiles
from dataprep.pipeline.replicates import join_replicates
from dataprep.pipeline.restart.inputs import build_inputs
from dataprep.pipeline.restart.state import BuildState, finished_but_not_tidied, opened_state
from dataprep.pipeline.source_report import report_sources
from dataprep.pipeline.writing import make_manifest, metadata_tables, write_shards, write_shards_here, write_tables
from dataprep.runtime.command_line import UserError, refuse_without_effect
from dataprep.runtime.lease import Lease, LeaseKey
from dataprep.runtime.ray_session import LostTaskError, connected, require_plugins_on_workers
from dataprep.runtime.storage import Folder, StorageError
from dataprep.runtime.terminal import log

# In the corpus while it is being built: another build of it is refused.
LEASE_FILE = "build_lease.json"


def build(settings: BuildSettings) -> dict[str, Any]:
    """Build the corpus ``settings.corpus`` and return its summary.

    Raises :class:`UserError`, with counts and examples, for sources that are not what the settings say they are.
    """
    folder = Folder(settings.corpus)
    _require_free(folder, settings)
    # also tries whether the folder can be written to, before anything is read
    with Lease(folder, LEASE_FILE, f"the corpus {folder.uri}") as lease:
        if finished_but_not_tidied(folder):
            tidy_up(folder)
            manifest = open_corpus(folder).manifest
            if manifest.settings == settings.resolved():
                return _told(folder, manifest)
        # another build may have finished since
        _require_free(folder, settings)
        return _build(settings, folder, lease.key)


def _require_free(folder: Folder, settings: BuildSettings) -> None:
    if not settings.grow and not finished_but_not_tidied(folder):
        require_free(folder, settings.overwrite)


def _build(settings: BuildSettings, folder: Folder, lease: LeaseKey) -> dict[str, Any]:
    earlier = Earlier.in_folder(folder) if settings.grow else None
    vocabulary = _vocabulary(settings)
    genes = gene_tables(settings, vocabulary)
    files = list_files(settings)
    samples = join_replicates(samples_table(settings, files), settings)
    inputs = build_inputs(settings, files, samples, genes)
    wanted = np.ones(len(samples), bool)
    if earlier is not None:
        earlier.require_same(settings, vocabulary)
        wanted = earlier.lacks(samples)
        inputs["corpus"] = earlier.corpus.fingerprint
        if not wanted.any():
            log(f"{folder.uri} has all {len(samples):,} samples already: nothing to add")
            return summary(folder, earlier.corpus.manifest)
        log(f"adding to version {earlier.corpus.version}: {wanted.sum():,} of {len(samples):,} samples are new")
    state = opened_state(folder, inputs, vocabulary.size)
    with connected():
        require_plugins_on_workers(settings.plugins)
        quiet_ray_data()
        tasks = divided(files, settings.samples_per_task, samples["summed_into"].to_numpy(), wanted)
        samples = samples[wanted]
        coordinator = start_coordinator(samples.groupby("source", sort=False).size().to_dict())
        with removed_after_mistakes(state):
            found = read_profiles(settings, tasks, genes, state.parts, coordinator)
            bound = settings.max_correlation_between_studies
            present, sketches = earlier.with_digests(bound is not None) if earlier is not None else (None, None)
            samples = apply_quality_control(samples, found, settings, present)
            if bound is not None:
                refuse_near_duplicates(samples, state.parts, bound, present, sketches)
            summaries = report_sources(samples, settings)
            require_profiles(samples, settings)
            kept = assign_splits(samples[samples["reason"].isna()], settings, present)
        lease.require()
        _clear_place(folder, state, earlier)
        shards = earlier.corpus.manifest.shards if earlier is not None else ()
        entries = write_shards(kept, folder, vocabulary, settings, state, coordinator, shards)
    tables = metadata_tables(samples, kept, vocabulary)
    if earlier is None:
        checksums = write_tables(folder, tables)
        manifest = make_manifest(settings, vocabulary, samples, summaries, kept, entries, checksums)
    else:
        checksums, everyone = write_grown_tables(earlier, tables)
        added = make_manifest(settings, vocabulary, samples, summaries, kept, entries, checksums)
        manifest = grown_manifest(earlier.corpus.manifest, added, checksums, everyone)
    lease.require()
    state.note_manifest(manifest_text(manifest))
    if earlier is None:
        finish_corpus(folder, manifest)
    else:
        finish_growth(folder, earlier.content, manifest)
    return _told(folder, manifest)


@contextmanager
def removed_after_mistakes(state: BuildState) -> Iterator[None]:
    """A build whose sources are at fault leaves nothing: mended, they are other inputs, which no state serves."""
    try:
        yield
    except (StorageError, LostTaskError):
        raise
    except UserError:
        state.remove()
        raise


def _clear_place(folder: Folder, state: BuildState, earlier: Earlier | None) -> None:
    """Remove what is in the way of new shards, once; what an earlier start of this build has written stays."""
    if earlier is not None:
        if not state.place_is_cleared:
            remove_unlisted_shards(folder, earlier.corpus.manifest)
    elif not state.place_is_cleared or folder.exists(MANIFEST_FILE):
        begin_corpus(folder)
    state.note_place_cleared()


def _vocabulary(settings: BuildSettings) -> GeneVocabulary:
    if settings.vocabulary is None:
        vocabulary = default_vocabulary()
    else:
        vocabulary = read_vocabulary(settings.address(settings.vocabulary))
    _require_enough_genes(settings, vocabulary)
    return vocabulary


def _require_enough_genes(settings: BuildSettings, vocabulary: GeneVocabulary) -> None:
    if settings.min_nonzero_genes > vocabulary.size:
        raise UserError(
            f"min_nonzero_genes {settings.min_nonzero_genes:,} is more than the vocabulary's {vocabulary.size:,} genes",
            exit_code=2,
        )


def read_decided(settings: BuildSettings, vocabulary: GeneVocabulary) -> tuple[pd.DataFrame, pa.Table]:
    """Listing, reading and quality control in this process, without Ray: what became of each sample, by ordinal, and
    the blocks of profiles. All profiles are in memory, 2 x G bytes each."""
    _require_enough_genes(settings, vocabulary)
    refuse_without_effect(settings, ("max_correlation_between_studies",), "without dataprep build, which compares them")
    genes = gene_tables(settings, vocabulary)
    files = list_files(settings)
    samples = join_replicates(samples_table(settings, files), settings)
    tasks = divided(files, settings.samples_per_task, samples["summed_into"].to_numpy())
    profiles = read_here(settings, tasks, genes, len(samples))
    return apply_quality_control(samples, profiles.select(FOUND_COLUMNS), settings), profiles


def build_here(settings: BuildSettings, folder: Folder, vocabulary: GeneVocabulary) -> Manifest:
    """As :func:`build`, in this process and without Ray, for sources that fit in memory.

    Where the settings say nothing of splits, all profiles are held out, in the test split. Raises UserError as
    :func:`build` does.
    """
    samples, profiles = read_decided(settings, vocabulary)
    summaries = report_sources(samples, settings)
    require_profiles(samples, settings)
    kept = samples[samples["reason"].isna()]
    if "split" in settings.model_fields_set:
        kept = assign_splits(kept, settings)
    else:
        kept = kept.assign(split="test", row_id=range(len(kept)))
    begin_corpus(folder)
    entries = write_shards_here(profiles, kept, folder, vocabulary, settings)
    tables = write_tables(folder, metadata_tables(samples, kept, vocabulary))
    manifest = make_manifest(settings, vocabulary, samples, summaries, kept, entries, tables)
    finish_corpus(folder, manifest)
    return manifest


def _told(folder: Folder, manifest: Manifest) -> dict[str, Any]:
    sizes = ", ".join(f"{name} {split.rows:,}" for name, split in manifest.splits.items())
    version = f", version {manifest.version}" if manifest.version > 1 else ""
    log(f"{folder.uri}{version}: {manifest.samples.kept:,} profiles written ({sizes})")
    return summary(folder, manifest)


def summary(folder: Folder, manifest: Manifest) -> dict[str, Any]:
    """The corpus in a few numbers, as ``--json`` prints them."""
    return {
        "corpus": folder.uri,
        "version": manifest.version,
        "genes": manifest.genes,
        "samples": manifest.samples.model_dump(),
        "splits": {name: {"rows": s.rows, "studies": len(s.studies)} for name, s in manifest.splits.items()},
        "shards": len(manifest.shards),
        "bytes": sum(entry.bytes for entry in manifest.shards),
    }
