"""What a build says about its sources, and when it stops for the genes of one."""

from __future__ import annotations

import pandas as pd

from dataprep.config import BuildSettings
from dataprep.corpus import SourceSummary
from dataprep.pipeline import quality_control as qc
from dataprep.runtime.command_line import UserError
from dataprep.runtime.terminal import log


def report_sources(samples: pd.DataFrame, settings: BuildSettings) -> list[SourceSummary]:
    """The summaries of all sources that have samples, after saying what is odd about them.

    Raises UserError where it is too much.
    """
    read = set(samples["source"])
    summaries = [source_summary(source.name, samples) for source in settings.sources if source.name in read]
    for summary in summaries:
        for line in describe(summary, samples):
            log(line)
    for summary in summaries:
        require_known_genes(summary, samples, settings)
    return summaries


def source_summary(name: str, samples: pd.DataFrame) -> SourceSummary:
    """What was found in one source. Shares are means over its profiles."""
    own = samples[samples["source"] == name]
    most = {column: int(own[column].max()) for column in _COUNTS}
    means = {column: float(own[column].mean()) for column in _SHARES}
    return SourceSummary(
        name=name,
        samples=len(own),
        kept=int(own["reason"].isna().sum()),
        missing_values=int(own["missing_values"].sum()),
        **most,
        **means,
    )


def describe(summary: SourceSummary, samples: pd.DataFrame) -> list[str]:
    """Lines about what a reader of the corpus should know of a source."""
    own = samples[samples["source"] == summary.name]
    lines = []
    if summary.left_out_rows:
        lines.append(
            f"{summary.left_out_rows:,} rows name no gene and are left out of every sum, {summary.left_out_share:.1%} "
            f"of what is counted{_examples(own['left_out_examples'])}"
        )
    if summary.unrecognised_share and summary.unrecognised_share >= 0.0005:
        lines.append(
            f"{summary.unknown_genes:,} ids are in no table of genes, {summary.unrecognised_share:.1%} of what is "
            f"counted{_examples(own['unrecognised_examples'])}"
        )
    if summary.dates:
        lines.append(
            f"{summary.dates:,} symbols were turned into dates by a spreadsheet: {summary.recovered:,} could be "
            f"recovered, {summary.dates - summary.recovered:,} stay unknown"
        )
    if summary.repeated_genes:
        lines.append(f"{summary.repeated_genes:,} rows repeat the name of a gene")
    if (shorter := own["genes"] < own["genes"].max()).any():
        lines.append(
            f"{int(shorter.sum()):,} of {summary.samples:,} samples have fewer rows than the {summary.genes:,} of the "
            f"others, e.g. {own.loc[shorter, 'sample_id'].iloc[0]} {own.loc[shorter, 'genes'].iloc[0]:,}; were their "
            f"files cut off?"
        )
    if summary.missing_values:
        lines.append(f"{summary.missing_values:,} values are missing and count as not measured")
    # decided after the samples were read and counted
    for reason in (qc.DUPLICATE_SAMPLE, qc.DUPLICATE_PROFILE, qc.NEAR_DUPLICATE):
        if count := int((own["reason"] == reason).sum()):
            example = own.loc[own["reason"] == reason, "value"].iloc[0]
            lines.append(f"{count:,} of {summary.samples:,} samples are refused as {reason}, e.g. of {example}")
    return [f"{summary.name}: {line}" for line in lines]


def require_known_genes(summary: SourceSummary, samples: pd.DataFrame, settings: BuildSettings) -> None:
    """Raise :class:`UserError` where too much of a source is in ids that are no genes, or outside the vocabulary."""
    own = samples[samples["source"] == summary.name]
    unrecognised, outside = summary.unrecognised_share or 0.0, summary.outside_share or 0.0
    if unrecognised > settings.max_unrecognised_share:
        raise UserError(
            f"source {summary.name}: {unrecognised:.1%} of what is counted is in {summary.unknown_genes:,} ids that no "
            f"table of genes has{_examples(own['unrecognised_examples'])}; max_unrecognised_share is "
            f"{settings.max_unrecognised_share:.0%}, and gene_id: mixed reads Ensembl ids and symbols side by side"
        )
    if outside > settings.max_outside_share:
        raise UserError(
            f"source {summary.name}: {outside:.1%} of what is counted is in genes outside the vocabulary; "
            f"max_outside_share is {settings.max_outside_share:.0%}"
        )


_COUNTS = (
    *("genes", "unknown_genes", "merged_genes", "vocabulary_genes"),
    *("left_out_rows", "repeated_genes", "dates", "recovered"),
)
_SHARES = ("outside_share", "unrecognised_share", "left_out_share")


def _examples(column: pd.Series) -> str:
    text = next((text for text in column if text), "")
    return f", e.g. {text}" if text else ""
