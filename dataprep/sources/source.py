"""What a source is: the settings that describe some files of one form, and how such files are read.

To read another form, subclass :class:`Source`, give ``format`` its name, write the two reading methods and register the
class (docs/extending.md). What the values mean is decided elsewhere (:mod:`dataprep.pipeline.normalization`).
"""

from __future__ import annotations

import codecs
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, model_validator

from dataprep.genes.identifiers import GeneId, RepeatedGenes
from dataprep.runtime.command_line import Settings

if TYPE_CHECKING:
    import pandas as pd

Units = Literal["counts", "estimated_counts", "tpm", "fpkm", "log1p_tpm", "log2_tpm_plus_1"]

# As publishers write it, in any case. The brackets and "Not Reported" are those of TCGA and the GDC.
MISSING_LABELS = (
    *("", "NA", "N/A", "#N/A", "NaN", "null", "none", "-", "--", "'--", "?", ".", "missing", "unknown", "unspecified"),
    *("not available", "not applicable", "not reported", "not evaluated", "not determined", "not collected"),
    *("[Not Available]", "[Not Applicable]", "[Not Evaluated]", "[Unknown]", "[Discrepancy]", "[Completed]"),
)
# Encodings of Python's that are of host names or of literals in code.
_NOT_OF_FILES = ("idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined")


@dataclass(frozen=True)
class SampleList:
    """The samples of a file in order, and the columns that were taken for something else than samples."""

    sample_ids: tuple[str, ...]
    ignored_columns: tuple[str, ...] = ()


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

    name: str = Field(min_length=1, description="name of the source, unique in the build")
    path: str = Field(description="file, or glob of files, relative to the root, absolute, or s3://")
    format: str = Field(description="the form of the files: table, h5ad, or what a plugin adds")
    gene_id: GeneId = Field(
        description="ensembl (version ignored), symbol, symbol_entrez ('TP53|7157', 'TP53 (7157)'), or mixed: ensembl "
        "and symbols side by side"
    )
    units: Units = Field(description="what the values are; checked, never guessed")
    samples: str | None = Field(default=None, description="table of sample metadata; its first column is the sample")
    study: str | None = Field(default=None, description="the study that all samples belong to")
    study_column: str | None = Field(default=None, description="column of the sample metadata that names the study")
    log_offset: float = Field(default=1.0, gt=0, le=1, description="what was added before the logarithm, for log units")
    repeated_genes: RepeatedGenes = Field(
        default="refuse", description="several rows with the name of one gene: refuse, sum them, or take the first"
    )
    encoding: str = Field(default="utf-8", description="of text files, the sample metadata too; e.g. latin-1, utf-16")
    missing_labels: list[str] = Field(
        default_factory=lambda: list(MISSING_LABELS), description="words of the sample metadata that stand for no value"
    )
    sample_from: Literal["column", "file", "folder", "path"] = Field(
        default="column",
        description="what names a sample: the file's own name for it, or the name of the file without its suffix, of "
        "its folder, or its path from the first wildcard on; before the file's own name where it holds several samples",
    )
    sample_prefix: str = Field(default="", description="put before sample names that are not unique between sources")
    exclude_samples: list[str] = Field(default_factory=list, description="samples to refuse")

    @model_validator(mode="after")
    def _has_study(self) -> Source:
        if (self.study is None) == (self.study_column is None):
            raise ValueError("give either study or study_column")
        if self.log_offset != 1.0 and not self.units.startswith("log"):
            raise ValueError(f"log_offset is for logarithms, and the units are {self.units}")
        try:
            # not codecs.lookup alone, which also knows rot13 and hex
            "gene".encode(self.encoding)
            known = codecs.lookup(self.encoding).name.replace("_", "-") not in _NOT_OF_FILES
        except (LookupError, UnicodeError, ValueError):
            known = False
        if not known:
            raise ValueError(f"encoding: {self.encoding!r} is none of text files that Python knows")
        return self

    @abstractmethod
    def list_samples(self, address: str) -> SampleList:
        """The samples of one file, without reading their values where that can be avoided."""

    @abstractmethod
    def read_samples(self, address: str, start: int, stop: int) -> Iterator[RawProfiles]:
        """Samples ``start`` to ``stop`` of the list, in one part or several."""

    def read_metadata(self, address: str) -> pd.DataFrame | None:
        """What the file itself says about its samples: a row per sample, in the order of the list; None for nothing."""
        return None
