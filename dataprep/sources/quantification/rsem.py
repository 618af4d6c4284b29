"""RSEM's ``SAMPLE.genes.results`` and ``SAMPLE.isoforms.results``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from dataprep.sources.quantification.program_file import ProgramFile
from dataprep.sources.registry import register_source
from dataprep.sources.source import Units

_ISOFORMS = ("transcript_id", "gene_id", "length", "effective_length", "expected_count", "TPM", "FPKM", "IsoPct")


@register_source
class RsemSource(ProgramFile):
    """Estimates per gene; those of isoforms carry the name of their gene, and are summed by ``repeated_genes``."""

    PROGRAM = "RSEM (genes.results or isoforms.results)"
    COLUMNS = ("gene_id", "transcript_id(s)", "length", "effective_length", "expected_count", "TPM", "FPKM")
    NAMES = "gene_id"
    UNITS: ClassVar[Mapping[str, Units]] = {"TPM": "tpm", "expected_count": "estimated_counts", "FPKM": "fpkm"}

    format: Literal["rsem"] = "rsem"
    value_column: Literal["TPM", "expected_count", "FPKM"] = Field(
        default="TPM", description="TPM, by effective lengths; or expected_count or FPKM"
    )
    sample_from: str = Field(
        default=r"([^/]+)\.(?:genes|isoforms)\.results", description="what names a sample; default: what is before"
    )

    def columns_of(self, address: str, first: list[str]) -> tuple[str, ...]:
        """Those of genes, or of isoforms; the confidence intervals of ``--calc-ci`` may stand after them."""
        for known in (self.COLUMNS, _ISOFORMS):
            if tuple(first[: len(known)]) == known:
                return tuple(first)
        return super().columns_of(address, first)
