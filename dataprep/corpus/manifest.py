"""``manifest.json``: what a corpus holds, shard by shard, and how it was made."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
from pydantic import Field, ValidationError

from dataprep.runtime.command_line import Settings, UserError
from dataprep.runtime.storage import Folder

FORMAT = "bulkformer-corpus"
FORMAT_VERSION = 1
UNIT = "log1p(TPM), natural logarithm"
# The last is of the groups that are trained on, where the others are of groups of their own.
IN_DISTRIBUTION = "validation_in_distribution"
SPLITS = ("train", "validation", "test", IN_DISTRIBUTION)
Split = Literal["train", "validation", "test", "validation_in_distribution"]
# The genes over which TPM's denominator sums: all that the source measures, or those of the vocabulary alone.
TpmOver = Literal["source", "vocabulary"]
MANIFEST_FILE = "manifest.json"


@dataclass(frozen=True)
class Shard:
    """One Parquet file of a corpus; ``path`` is relative to the corpus.

    ``content_sha256`` is of its profiles alone and stands in the file's footer as well; None in corpora of the first
    version.
    """

    path: str
    split: str
    rows: int
    first_row_id: int
    bytes: int
    sha256: str
    row_group_rows: tuple[int, ...]
    vocabulary_sha256: str = ""
    content_sha256: str | None = None

    def row_ids(self, row_group: int) -> range:
        """The row ids of a row group, without reading it."""
        first = self.first_row_id + sum(self.row_group_rows[:row_group])
        return range(first, first + self.row_group_rows[row_group])


# Of a shard: terabytes, and still a list that memory holds.
_MOST_ROWS = 2**26


class ShardEntry(Settings):
    """A shard as the manifest lists it."""

    path: str
    split: Split
    rows: int = Field(ge=0, le=_MOST_ROWS)
    first_row_id: int = Field(ge=0, le=2**48)
    bytes: int = Field(ge=0)
    sha256: str
    content_sha256: str | None = None

    def shard(self, rows_per_row_group: int, vocabulary_sha256: str) -> Shard:
        """With the row groups that the manifest's setting implies, all full but the last, and its vocabulary."""
        full, rest = divmod(self.rows, rows_per_row_group)
        groups = (rows_per_row_group,) * full + ((rest,) if rest else ())
        return Shard(**self.model_dump(), row_group_rows=groups, vocabulary_sha256=vocabulary_sha256)


class SampleCounts(Settings):
    """What became of the samples of all sources."""

    read: int
    kept: int
    rejected: dict[str, int]


class SourceSummary(Settings):
    """What was found in one source.

    Shares are means over its profiles, of what is counted (reads, or TPM): ``outside_share`` in genes outside the
    vocabulary, ``unrecognised_share`` in ids that no table of genes has, ``left_out_share`` in rows that name no gene.
    They are None in corpora that were built before they were counted.
    """

    name: str
    samples: int
    kept: int
    genes: int
    unknown_genes: int
    merged_genes: int
    vocabulary_genes: int
    left_out_rows: int = 0
    repeated_genes: int = 0
    dates: int = 0
    recovered: int = 0
    missing_values: int = 0
    outside_share: float | None = None
    unrecognised_share: float | None = None
    left_out_share: float | None = None


class SplitSummary(Settings):
    """One split: its rows and the studies in it."""

    rows: int
    studies: list[str]


def split_summaries(samples: pd.DataFrame) -> dict[str, SplitSummary]:
    """Each split of samples with columns split and study_id; the one in distribution only where there is one."""
    own = {split: samples[samples["split"] == split] for split in SPLITS}
    return {
        split: SplitSummary(rows=len(rows), studies=sorted(rows["study_id"].unique()))
        for split, rows in own.items()
        if len(rows) or split != IN_DISTRIBUTION
    }


class Manifest(Settings):
    """``manifest.json``: all that is needed to read a corpus without listing it, and how it was made."""

    format: Literal["bulkformer-corpus"] = "bulkformer-corpus"
    format_version: Literal[1] = 1
    genes: int = Field(ge=1)
    vocabulary_sha256: str
    # counted up each time that the corpus grows
    version: int = Field(default=1, ge=1)
    unit: str = UNIT
    tpm_over: TpmOver = "source"
    rows_per_row_group: int = Field(ge=1)
    splits: dict[str, SplitSummary]
    shards: list[ShardEntry]
    tables_sha256: dict[str, str]
    samples: SampleCounts
    sources: list[SourceSummary]
    settings: dict[str, Any]


def manifest_text(manifest: Manifest) -> str:
    """The manifest as it is written."""
    return manifest.model_dump_json(indent=1) + "\n"


def parsed_manifest(folder: Folder, content: bytes) -> Manifest:
    """The manifest in a file's content. Raises :class:`UserError` where it is none, or one of another version."""
    where = f"{folder.uri}/{MANIFEST_FILE}"
    try:
        fields = json.loads(content)
    except ValueError as error:  # also what is not even text
        raise UserError(f"{where} is not JSON: {error}") from None
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise UserError(f"{where} is not the manifest of a corpus")
    if fields.get("format_version") != FORMAT_VERSION:
        raise UserError(f"{where}: format version {fields.get('format_version')}; this is for {FORMAT_VERSION}")
    try:
        return Manifest.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
