"""What is in a corpus, after checking that it is whole."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from dataprep.config import InspectSettings
from dataprep.corpus import (
    SPLITS,
    Corpus,
    Shard,
    iterate_row_groups,
    open_corpus,
    verify_shard,
    verify_tables,
)
from dataprep.runtime.terminal import log, write_result

# Enough for reading from an object store while another shard is being checked; memory stays at some row groups each.
_SHARDS_AT_A_TIME = 4


@dataclass(frozen=True)
class ValueSummary:
    """Values of some profiles: counts of all, missing and zero values, and the largest and smallest."""

    values: int
    missing: int
    zero: int
    smallest: float
    largest: float

    def __add__(self, other: ValueSummary) -> ValueSummary:
        return ValueSummary(
            self.values + other.values,
            self.missing + other.missing,
            self.zero + other.zero,
            min(self.smallest, other.smallest),
            max(self.largest, other.largest),
        )


def inspect_corpus(settings: InspectSettings) -> dict[str, Any]:
    """Verify every checksum, print a summary, and return it.

    Raises :class:`UserError` for what is not a corpus, or a damaged one.
    """
    if settings.html is not None:
        # jinja2 takes a while to import, and most inspections do without it
        from dataprep.inspection.page import require_replaceable_page

        require_replaceable_page(settings.html)
    corpus = open_corpus(settings.corpus)
    verify_tables(corpus)
    report = describe(corpus, _checked_values(corpus))
    write_result(as_text(report))
    if settings.html is not None:
        _write_page(settings.html, corpus, report)
    return report


def _write_page(address: str, corpus: Corpus, report: dict[str, Any]) -> None:
    # the same holds of matplotlib
    from dataprep.inspection.corpus_page import corpus_page, measure
    from dataprep.inspection.page import write_page

    write_page(address, corpus_page(corpus, report, measure(corpus)))
    log(f"page: {address}")


def describe(corpus: Corpus, values: ValueSummary) -> dict[str, Any]:
    """The corpus as plain data."""
    manifest = corpus.manifest
    graph = corpus.graph() if corpus.has_graph else None
    return {
        "corpus": corpus.folder.uri,
        "version": corpus.version,
        "fingerprint": corpus.fingerprint,
        "genes": corpus.genes,
        "vocabulary_sha256": manifest.vocabulary_sha256,
        "unit": manifest.unit,
        "shards": len(manifest.shards),
        "bytes": sum(entry.bytes for entry in manifest.shards),
        "samples": manifest.samples.model_dump(),
        "splits": {split: manifest.splits[split].model_dump() for split in SPLITS if split in manifest.splits},
        "sources": [source.model_dump() for source in manifest.sources],
        "missing_share": values.missing / values.values if values.values else 0.0,
        "zero_share": values.zero / values.values if values.values else 0.0,
        "smallest": values.smallest,
        "largest": values.largest,
        "graph_edges": graph.edges if graph is not None else None,
        "graph_fingerprint": graph.fingerprint if graph is not None else None,
    }


def as_text(report: dict[str, Any]) -> str:
    """The report for a reader."""
    samples, edges = report["samples"], report["graph_edges"]
    lines = [
        f"corpus       {report['corpus']}, version {report['version']}",
        f"profiles     {samples['kept']:,} of {samples['read']:,} samples read, {report['genes']:,} genes, "
        f"{report['shards']:,} shards, {report['bytes'] / 1e6:,.1f} MB, every checksum right",
        f"values       {report['unit']}: {report['smallest']:.3f} to {report['largest']:.3f}, "
        f"{report['missing_share']:.1%} missing, {report['zero_share']:.1%} zero",
        f"vocabulary   {report['vocabulary_sha256'][:16]}",
        f"gene graph   {f'{edges:,} edges' if edges is not None else 'none'}",
        "",
        f"{'split':<12} {'profiles':>9}  studies",
    ]
    for split, content in report["splits"].items():
        lines.append(f"{split:<12} {content['rows']:>9,}  {_shortened(content['studies'])}")
    width = max([len(source["name"]) for source in report["sources"]] + [6])
    lines += [
        "",
        f"{'source':<{width}} {'samples':>9} {'kept':>9} {'genes':>8} {'unknown':>8} {'in vocabulary':>14} "
        f"{'reads outside':>14}",
    ]
    for source in report["sources"]:
        lines.append(
            f"{source['name']:<{width}} {source['samples']:>9,} {source['kept']:>9,} {source['genes']:>8,} "
            f"{source['unknown_genes']:>8,} {source['vocabulary_genes']:>14,} {_outside(source):>14}"
        )
    if samples["rejected"]:
        lines += ["", "refused"]
        lines += [f"  {reason:<28} {count:>9,}" for reason, count in sorted(samples["rejected"].items())]
    return "\n".join(lines)


def _outside(source: dict[str, Any]) -> str:
    """The share of a source's reads in ids that are no vocabulary genes."""
    return "" if source["outside_share"] is None else f"{source['outside_share']:.1%}"


def _checked_values(corpus: Corpus) -> ValueSummary:
    with ThreadPoolExecutor(_SHARDS_AT_A_TIME) as pool:
        parts = list(pool.map(lambda shard: _checked_shard(corpus, shard), corpus.shards(*SPLITS)))
    return sum(parts[1:], parts[0])


def _checked_shard(corpus: Corpus, shard: Shard) -> ValueSummary:
    verify_shard(corpus, shard)
    parts = [_values(expression) for _, expression in iterate_row_groups(corpus, [shard])]
    return sum(parts[1:], parts[0])


def _values(expression: np.ndarray) -> ValueSummary:
    measured = expression[~np.isnan(expression)]
    return ValueSummary(
        values=expression.size,
        missing=expression.size - measured.size,
        zero=int((measured == 0).sum()),
        smallest=float(measured.min(initial=np.inf)),
        largest=float(measured.max(initial=-np.inf)),
    )


def _shortened(names: list[str], limit: int = 12) -> str:
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest:,} more" if rest > 0 else "")
