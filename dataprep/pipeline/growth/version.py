"""A new version of a corpus: the manifest and the tables of the one before with what is added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa

from dataprep.corpus import (
    GENES_FILE,
    REJECTED_FILE,
    SAMPLES_FILE,
    Manifest,
    SampleCounts,
    SourceSummary,
    split_summaries,
    table_bytes,
)
from dataprep.corpus.versions import own_file
from dataprep.pipeline.growth.earlier import Earlier

_SHARES = ("outside_share", "unrecognised_share", "left_out_share")
_SUMS = ("samples", "kept", "missing_values")


def write_grown_tables(earlier: Earlier, added: Mapping[str, pa.Table]) -> tuple[dict[str, str], pd.DataFrame]:
    """Write the tables of the new version, and return the checksums of all its tables, and its samples."""
    corpus = earlier.corpus
    tables = {
        SAMPLES_FILE: _joined(corpus.samples().sort_by("row_id"), added[SAMPLES_FILE]),
        REJECTED_FILE: _joined(corpus.read_rejected(), added[REJECTED_FILE]),
    }
    checksums = {GENES_FILE: corpus.manifest.tables_sha256[GENES_FILE]}
    for name, table in tables.items():
        place = own_file(corpus.version + 1, name)
        corpus.folder.write_bytes(place, table_bytes(table))
        checksums[name] = corpus.folder.sha256(place)
    return checksums, tables[SAMPLES_FILE].select(["split", "study_id"]).to_pandas()


def grown_manifest(
    before: Manifest, added: Manifest, tables_sha256: Mapping[str, str], samples: pd.DataFrame
) -> Manifest:
    """The manifest of the new version. ``added`` is of the new profiles alone, ``samples`` of all."""
    counts = (before.samples, added.samples)
    reasons = dict.fromkeys(reason for one in counts for reason in one.rejected)
    return added.model_copy(
        update={
            "version": before.version + 1,
            "splits": split_summaries(samples),
            "shards": [*before.shards, *added.shards],
            "tables_sha256": dict(tables_sha256),
            "samples": SampleCounts(
                read=sum(one.read for one in counts),
                kept=sum(one.kept for one in counts),
                rejected={reason: sum(one.rejected.get(reason, 0) for one in counts) for reason in reasons},
            ),
            "sources": joined_summaries(before.sources, added.sources),
            "settings": added.settings | {"sources": _joined_settings(before.settings, added.settings)},
        }
    )


def joined_summaries(before: Sequence[SourceSummary], added: Sequence[SourceSummary]) -> list[SourceSummary]:
    """Those of all sources; of one to which samples were added, sums, largest numbers of genes and means over all."""
    joined = {summary.name: summary for summary in before}
    for summary in added:
        joined[summary.name] = _joined_summary(joined[summary.name], summary) if summary.name in joined else summary
    return list(joined.values())


def _joined_summary(before: SourceSummary, added: SourceSummary) -> SourceSummary:
    one, other = before.model_dump(), added.model_dump()
    weights = before.samples, added.samples
    joined: dict[str, Any] = {"name": before.name}
    for name in one:
        if name in _SUMS:
            joined[name] = one[name] + other[name]
        elif name in _SHARES:
            known = [(share, weight) for share, weight in zip((one[name], other[name]), weights, strict=True)]
            known = [(share, weight) for share, weight in known if share is not None]
            total = sum(weight for _, weight in known)
            joined[name] = sum(share * weight for share, weight in known) / total if total else None
        elif name != "name":
            joined[name] = max(one[name], other[name])
    return SourceSummary(**joined)


def _joined_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The settings of all sources of the corpus, also of those that were not given again."""
    given = {source["name"] for source in now["sources"]}
    return [source for source in before["sources"] if source["name"] not in given] + now["sources"]


def _joined(before: pa.Table, added: pa.Table) -> pa.Table:
    """One below the other; columns that one lacks are null there."""
    return pa.concat_tables([before, added], promote_options="permissive")
