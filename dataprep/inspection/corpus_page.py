"""What is in a corpus as a page: samples by source and study, what was refused, genes detected, sex, and a map."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes

from dataprep.corpus import SPLITS, Corpus, iterate_row_groups
from dataprep.genes.gene_sets import SexGenes
from dataprep.inspection.page import (
    Block,
    Facts,
    Folded,
    Page,
    Paragraph,
    Picture,
    Pictures,
    Section,
    Table,
    missing,
)
from dataprep.inspection.pictures import COLOURS, bars, label, picture
from dataprep.inspection.profile_map import fullest_label, labels_of, map_blocks, principal_components
from dataprep.inspection.sex_check import sex_section

_MOST_MAPPED = 1000
_MOST_GROUPS = 15
_FEWEST_MAPPED = 3


@dataclass(frozen=True)
class Measured:
    """What one reading of all N profiles gives, in the order of row ids.

    ``detected``: int [N], genes above 0; ``sex``: float [N, 2], see :class:`SexGenes`; ``mapped``: row ids of a sample
    of M profiles; ``expression``: float32 M x G, NaN where not measured.
    """

    detected: np.ndarray
    sex: np.ndarray
    mapped: np.ndarray
    expression: np.ndarray


def measure(corpus: Corpus, seed: int = 0) -> Measured:
    """Read every profile once; memory holds no more than the sample and a row group."""
    total = sum(corpus.rows(split) for split in SPLITS)
    chosen = np.sort(np.random.default_rng(seed).permutation(total)[:_MOST_MAPPED])
    genes, detected, sex, kept = SexGenes.of(corpus.vocabulary), [], [], []
    for split in SPLITS:
        for row_ids, expression in iterate_row_groups(corpus, corpus.shards(split)):
            detected.append((expression > 0).sum(axis=1))
            sex.append(genes.expression(expression))
            kept.append(expression[np.isin(row_ids, chosen)].astype(np.float32))
    return Measured(np.concatenate(detected), np.concatenate(sex), chosen, np.concatenate(kept))


def corpus_page(corpus: Corpus, report: Mapping[str, Any], measured: Measured) -> Page:
    """``report``: what :func:`dataprep.inspection.text.describe` says of the corpus."""
    samples = corpus.samples()
    counts = report["samples"]
    return Page(
        f"Corpus {corpus.folder.uri.rpartition('/')[2]}",
        [f"{counts['kept']:,} of {counts['read']:,} samples, {report['genes']:,} genes; every checksum is right."],
        [
            Section("What it is", [_facts(report)]),
            _by_source_and_study(report, samples),
            _refused(corpus, counts),
            _detected(samples, measured.detected),
            sex_section(samples, measured.sex, SexGenes.of(corpus.vocabulary).xist is not None),
            _map(samples, measured),
        ],
        [corpus.folder.uri],
    )


def _facts(report: Mapping[str, Any]) -> Facts:
    names = {
        "corpus": "corpus", "SHA-256 of its manifest": "fingerprint", "vocabulary SHA-256": "vocabulary_sha256",
        "unit": "unit", "shards": "shards", "bytes": "bytes", "smallest value": "smallest", "largest value": "largest",
        "edges of the gene graph": "graph_edges", "SHA-256 of the gene graph": "graph_fingerprint",
    }  # fmt: skip
    shares = {name: f"{report[key]:.1%}" for name, key in (("missing", "missing_share"), ("zero", "zero_share"))}
    return Facts({name: report[key] for name, key in names.items()} | shares)


def _by_source_and_study(report: Mapping[str, Any], samples: pa.Table) -> Section:
    splits = [[name, f"{of['rows']:,}", f"{len(of['studies']):,}"] for name, of in report["splits"].items()]
    blocks: list[Block] = [Table("Profiles by split", ["split", "profiles", "studies"], splits)]
    pictures = [
        _counts(samples.column(column).to_pylist(), what)
        for column, what in (("source", "source"), ("study_id", "study"))
    ]
    blocks.append(Pictures(pictures))
    if report["sources"]:
        rows = [
            [
                source["name"],
                *(f"{source[key]:,}" for key in ("samples", "kept", "genes", "unknown_genes", "vocabulary_genes")),
            ]
            for source in report["sources"]
        ]
        columns = ["source", "samples", "kept", "genes", "unknown", "in vocabulary"]
        blocks.append(_folded_if_long(Table("Samples and genes by source", columns, rows)))
    studies = zip(*(samples.column(name).to_pylist() for name in ("study_id", "source", "split")), strict=True)
    rows = [[*map(str, key), f"{count:,}"] for key, count in Counter(studies).most_common()]
    blocks.append(_folded_if_long(Table("Profiles by study", ["study", "source", "split", "profiles"], rows)))
    return Section("Samples by source and study", blocks)


def _counts(values: Sequence[object], what: str) -> Picture:
    counts = Counter(map(str, values)).most_common()
    largest = dict(counts[:_MOST_GROUPS])
    rest = sum(count for _, count in counts[_MOST_GROUPS:])
    shown = largest | ({f"{len(counts) - _MOST_GROUPS:,} others": rest} if rest else {})
    said = ", ".join(f"{name} {count:,}" for name, count in shown.items())
    return bars(
        shown, f"Bar chart of profiles by {what}: {said}.", f"Profiles by {what}.", "profiles", "{:,.0f}".format
    )


def _folded_if_long(table: Table) -> Block:
    return table if len(table.rows) <= _MOST_GROUPS else Folded(f"{table.caption}: {len(table.rows):,} rows", [table])


def _refused(corpus: Corpus, counts: Mapping[str, Any]) -> Section:
    title = "Refused samples"
    if not counts["rejected"]:
        return Section(title, [Paragraph("No sample was refused.")])
    reasons = {name.replace("_", " "): count for name, count in sorted(counts["rejected"].items())}
    said = ", ".join(f"{name} {count:,}" for name, count in reasons.items())
    drawn = bars(
        reasons,
        f"Bar chart of refused samples by reason: {said}.",
        "Refused samples by reason.",
        "samples",
        "{:,.0f}".format,
    )
    rejected = corpus.read_rejected()
    blocks: list[Block] = [Pictures([drawn])]
    if {"source", "reason"} <= set(rejected.column_names):
        pairs = Counter(zip(rejected.column("source").to_pylist(), rejected.column("reason").to_pylist(), strict=True))
        rows = [
            [str(source), str(reason).replace("_", " "), f"{count:,}"]
            for (source, reason), count in pairs.most_common()
        ]
        blocks.append(
            _folded_if_long(Table("Refused samples by source and reason", ["source", "reason", "samples"], rows))
        )
    return Section(title, blocks)


def _detected(samples: pa.Table, detected_N: np.ndarray) -> Section:
    sources = np.array([str(source) for source in samples.column("source").to_pylist()])
    by_source = {name: detected_N[sources == name] for name, _ in Counter(sources.tolist()).most_common()}
    largest = dict(list(by_source.items())[:_MOST_GROUPS])

    def draw(axes: Axes) -> None:
        axes.boxplot(
            list(largest.values()),
            orientation="horizontal",
            tick_labels=[label(name) for name in largest],
            widths=0.6,
            flierprops={"markersize": 2.5},
            medianprops={"color": COLOURS[1]},
        )
        axes.invert_yaxis()
        axes.set_xlabel("genes above 0")

    rows = [
        [name, f"{len(values):,}", *(f"{np.quantile(values, share):,.0f}" for share in (0, 0.25, 0.5, 0.75, 1))]
        for name, values in by_source.items()
    ]
    said = "; ".join(f"{row[0]} median {row[4]}" for row in rows[:_MOST_GROUPS])
    drawn = picture(
        draw,
        f"Box plots of genes detected by source: {said}.",
        "Genes above 0 in a profile, by source.",
        0.9 + 0.26 * len(largest),
    )
    table = Table(
        "Genes detected", ["source", "profiles", "fewest", "lower quartile", "median", "upper quartile", "most"], rows
    )
    said = "A corpus holds shares (TPM) and no counts, so the sizes of libraries are not known any more."
    return Section("Genes detected", [Pictures([drawn]), _folded_if_long(table), Paragraph(said)])


def _map(samples: pa.Table, measured: Measured) -> Section:
    title = "Map of profiles"
    if len(measured.mapped) < _FEWEST_MAPPED:
        return Section(title, [missing("too few profiles for a map.")])
    values = measured.expression
    known = np.isfinite(values)
    means = np.divide(
        np.where(known, values, 0).sum(axis=0),
        known.sum(axis=0),
        out=np.zeros(values.shape[1]),
        where=known.any(axis=0),
    )
    filled = np.where(known, values, means.astype(np.float32))
    points, shares = principal_components(filled, seed=0)
    ids = samples.column("sample_id").to_pylist()
    columns = labels_of(samples, [ids[row] for row in measured.mapped])
    said = f"{len(points):,} profiles, drawn at random, on the first two principal components of log1p TPM."
    note = "A value that is not measured counts as the gene's mean: sources with many of them lie nearer the middle."
    return Section(
        title, [Paragraph(said), *map_blocks(points, shares, columns, fullest_label(columns)), Paragraph(note)]
    )
