"""The command `dataprep build`: sources to a corpus in four steps, listing, reading, deciding, writing.

Nothing is written before all sources have been read.
"""

from __future__ import annotations

from typing import Any

from dataprep.config import BuildSettings
from dataprep.corpus import Manifest, begin_corpus, finish_corpus, require_free
from dataprep.genes.vocabulary import default_vocabulary, read_vocabulary
from dataprep.pipeline.coordinator import start_coordinator
from dataprep.pipeline.deciding import apply_quality_control, assign_splits, require_profiles
from dataprep.pipeline.gene_rows import gene_tables
from dataprep.pipeline.listing import list_files, samples_by_source, samples_table
from dataprep.pipeline.near_duplicates import refuse_near_duplicates
from dataprep.pipeline.reading import found_by_reading, quiet_ray_data, read_profiles
from dataprep.pipeline.replicates import join_replicates
from dataprep.pipeline.source_report import report_sources
from dataprep.pipeline.writing import make_manifest, write_shards, write_tables
from dataprep.runtime.command_line import UserError
from dataprep.runtime.lease import Lease, LeaseKey
from dataprep.runtime.ray_session import connected, require_plugins_on_workers
from dataprep.runtime.storage import Folder
from dataprep.runtime.terminal import log

# In the corpus while it is being built: another build of it is refused.
LEASE_FILE = "build_lease.json"


def build(settings: BuildSettings) -> dict[str, Any]:
    """Build the corpus ``settings.corpus`` and return its summary.

    Raises :class:`UserError`, with counts and examples, for sources that are not what the settings say they are.
    """
    folder = Folder(settings.corpus)
    require_free(folder, settings.overwrite)
    # also tries whether the folder can be written to, before anything is read
    with Lease(folder, LEASE_FILE, f"the corpus {folder.uri}") as lease:
        # another build may have finished since
        require_free(folder, settings.overwrite)
        return _build(settings, folder, lease.key)


def _build(settings: BuildSettings, folder: Folder, lease: LeaseKey) -> dict[str, Any]:
    vocabulary = default_vocabulary()
    if settings.vocabulary is not None:
        vocabulary = read_vocabulary(settings.address(settings.vocabulary))
    if settings.min_nonzero_genes > vocabulary.size:
        raise UserError(
            f"min_nonzero_genes {settings.min_nonzero_genes:,} is more than the vocabulary's {vocabulary.size:,} genes",
            exit_code=2,
        )
    genes = gene_tables(settings, vocabulary)
    files = list_files(settings)
    samples = join_replicates(samples_table(settings, files), settings)
    with connected():
        require_plugins_on_workers(settings.plugins)
        quiet_ray_data()
        coordinator = start_coordinator(samples_by_source(files))
        profiles = read_profiles(settings, files, genes, samples["summed_into"].to_numpy(), coordinator)
        samples = apply_quality_control(samples, found_by_reading(profiles), settings)
        if settings.max_correlation_between_studies is not None:
            refuse_near_duplicates(samples, profiles, settings.max_correlation_between_studies)
        summaries = report_sources(samples, settings)
        require_profiles(samples, settings)
        kept = assign_splits(samples[samples["reason"].isna()], settings)
        lease.require()
        begin_corpus(folder)
        entries = write_shards(profiles, kept, folder, vocabulary, settings, coordinator)
    manifest = make_manifest(
        settings, vocabulary, samples, summaries, kept, entries, write_tables(folder, samples, kept, vocabulary)
    )
    lease.require()
    finish_corpus(folder, manifest)
    sizes = ", ".join(f"{name} {split.rows:,}" for name, split in manifest.splits.items())
    log(f"{folder.uri}: {manifest.samples.kept:,} profiles written ({sizes})")
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
