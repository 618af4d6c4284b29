"""What a source is: the settings that describe some files of one form, and how such files are read.

To read another form, subclass :class:`Source`, give ``format`` its name, write the two reading methods and register the
class (docs/extending.md). What the values mean is decided elsewhere (:mod:`dataprep.pipeline.normalization`).
"""

from __future__ import annotations

import codecs
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from dataprep.genes.identifiers import GeneId, RepeatedGenes
from dataprep.runtime.command_line import Settings, refuse_without_effect

if TYPE_CHECKING:
    import pandas as pd

Units = Literal[
    "counts",
    "estimated_counts",
    "base_coverage",
    "length_scaled_tpm",
    "scaled_tpm",
    "tpm",
    "fpkm",
    "log1p_tpm",
    "log2_tpm_plus_1",
]
# Those in which a longer gene has more.
BY_LENGTH: tuple[Units, ...] = ("counts", "estimated_counts", "base_coverage", "length_scaled_tpm")

# As publishers write it, in any case. The brackets and "Not Reported" are those of TCGA and the GDC.
MISSING_LABELS = (
    *("", "NA", "N/A", "#N/A", "NaN", "null", "none", "-", "--", "'--", "?", ".", "missing", "unknown", "unspecified"),
    *("not available", "not applicable", "not reported", "not evaluated", "not determined", "not collected"),
    *("[Not Available]", "[Not Applicable]", "[Not Evaluated]", "[Unknown]", "[Discrepancy]", "[Completed]"),
)
# What can name a sample, beside a regular expression.
SAMPLE_NAMES = ("column", "file", "folder", "path")
# Encodings of Python's that are of host names or of literals in code.
_NOT_OF_FILES = ("idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined")


class Refusal(NamedTuple):
    """Why a sample is refused: the reason by its name in ``rejected.parquet``, and the offending value."""

    reason: str
    value: str | None


@dataclass(frozen=True)
class SampleList:
    """The samples of a file in order, and the columns that were taken for something else than samples.

    ``refusals`` has the samples that the file itself says should not be used. So many samples as ``stored_together``
    says lie in one piece of the file, and are best read at once.
    """

    sample_ids: tuple[str, ...]
    ignored_columns: tuple[str, ...] = ()
    refusals: Mapping[str, Refusal] = field(default_factory=dict)
    stored_together: int = 1


@dataclass(frozen=True)
class RawProfiles:
    """Some samples of a file as they stand there.

    ``values`` is float32 [n, S], NaN where the file has no value; ``first`` is the position of the first sample in
    the file's list of samples.
    """

    first: int
    sample_ids: tuple[str, ...]
    gene_ids: tuple[str, ...]
    values: np.ndarray


class Source(Settings, ABC):
    """One or more files of the same form, and what their publisher says about them.

    Instances travel to Ray workers, where the files are read. Methods raise :class:`UserError` for files that are not
    what the settings say.
    """

    # Whether what a path means is a folder that is read as one file, and not a file.
    of_folders: ClassVar[bool] = False

    name: str = Field(min_length=1, description="name of the source, unique in the build")
    path: str = Field(description="file, or glob of files, relative to the root, absolute, or s3://")
    format: str = Field(description="the form of the files: table, h5ad, or what a plugin adds")
    gene_id: GeneId = Field(
        description="ensembl (version ignored), symbol, symbol_entrez ('TP53|7157', 'TP53 (7157)'), entrez ('7157', "
        "'entrez:7157'), or mixed: all of them side by side"
    )
    units: Units = Field(description="what the values are; checked, never guessed")
    samples: str | None = Field(default=None, description="table of sample metadata; its first column is the sample")
    study: str | None = Field(default=None, description="the study that all samples belong to")
    study_column: str | None = Field(default=None, description="column of the sample metadata that names the study")
    read_length: float | None = Field(
        default=None,
        gt=0,
        description="bases of a read, by which base_coverage is divided for the number of reads; TPM do not change",
    )
    log_offset: float = Field(default=1.0, gt=0, le=1, description="what was added before the logarithm, for log units")
    repeated_genes: RepeatedGenes | None = Field(
        default=None,
        description="several rows with the name of one gene: refuse, sum them, or take the first; default: sum, and "
        "refuse where the values are logarithms",
    )
    transcripts: str | None = Field(
        default=None,
        description="the rows are transcripts, summed to genes by this GTF file or table of transcript and gene",
    )
    replicates: str | None = Field(
        default=None,
        description="column of the sample metadata with the same value for technical replicates, whose reads are added "
        "up to one sample of that name",
    )
    gene_lengths: str | None = Field(
        default=None,
        description="lengths that counts are divided by: a GTF file (bases in any exon of a gene) or a table of gene "
        "and length; default: those of the vocabulary",
    )
    encoding: str = Field(default="utf-8", description="of text files, the sample metadata too; e.g. latin-1, utf-16")
    missing_labels: list[str] = Field(
        default_factory=lambda: list(MISSING_LABELS), description="words of the sample metadata that stand for no value"
    )
    sample_from: str = Field(
        default="column",
        description="what names a sample: column, the file's own name for it; or file, its name without suffix; or "
        "folder, that of its folder; or path, the path from the first wildcard on; or a regular expression whose one "
        "group is found in the path; before the file's own name where it holds several samples",
    )
    sample_prefix: str = Field(default="", description="put before sample names that are not unique between sources")
    exclude_samples: list[str] = Field(default_factory=list, description="samples to refuse")

    @model_validator(mode="after")
    def _has_study(self) -> Source:
        if (self.study is None) == (self.study_column is None):
            raise ValueError("give either study or study_column")
        if self.log_offset != 1.0 and not self.units.startswith("log"):
            raise ValueError(f"log_offset is for logarithms, and the units are {self.units}")
        if self.transcripts is not None and self.units.startswith("log"):
            raise ValueError("transcripts: logarithms cannot be summed to genes; undo them first")
        if self.units not in BY_LENGTH:
            refuse_without_effect(self, ("gene_lengths",), f"on {self.units}, which are per length already")
        if self.units != "base_coverage":
            refuse_without_effect(self, ("read_length",), f"on {self.units}, which it divides out of base_coverage")
        if self.replicates is not None and not self.units.endswith("counts"):
            raise ValueError(f"replicates: reads can be added up, {self.units} cannot")
        self._require_sample_names()
        self._require_own_metadata()
        try:
            # not codecs.lookup alone, which also knows rot13 and hex
            "gene".encode(self.encoding)
            known = codecs.lookup(self.encoding).name.replace("_", "-") not in _NOT_OF_FILES
        except (LookupError, UnicodeError, ValueError):
            known = False
        if not known:
            raise ValueError(f"encoding: {self.encoding!r} is none of text files that Python knows")
        return self

    @property
    def repeats(self) -> RepeatedGenes:
        """What becomes of several rows of one gene."""
        if self.repeated_genes is not None:
            return self.repeated_genes
        return "refuse" if self.units.startswith("log") else "sum"

    def _require_sample_names(self) -> None:
        if self.sample_from in SAMPLE_NAMES:
            return
        try:
            groups = re.compile(self.sample_from).groups
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"sample_from: {self.sample_from!r} is no regular expression: {error}") from None
        if groups != 1:
            raise ValueError(
                f"sample_from: {self.sample_from!r} is none of {', '.join(SAMPLE_NAMES)}, and no regular expression "
                f"with one group (...) that is the sample's name"
            )

    def _require_own_metadata(self) -> None:
        """Without a table of samples, a study can only be named by files that say something of their samples."""
        if self.samples is not None or type(self).read_metadata is not Source.read_metadata:
            return
        if self.study_column is not None:
            raise ValueError("study_column is a column of the samples table, which is not given")
        if self.replicates is not None:
            raise ValueError("replicates is a column of the samples table, which is not given")
        refuse_without_effect(self, ("missing_labels",), "without a samples table")

    def files_of(self, address: str) -> tuple[str, ...]:
        """The files that one file is read with, itself among them: where one changes, a build that was killed begins
        anew."""
        return (address,)

    @abstractmethod
    def list_samples(self, address: str) -> SampleList:
        """The samples of one file, without reading their values where that can be avoided."""

    @abstractmethod
    def read_samples(self, address: str, start: int, stop: int) -> Iterator[RawProfiles]:
        """Samples ``start`` to ``stop`` of the list, in one part or several."""

    def read_metadata(self, address: str) -> pd.DataFrame | None:
        """What the file itself says about its samples: a row per sample, in the order of the list; None for nothing."""
        return None
