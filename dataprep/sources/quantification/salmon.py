"""Salmon's ``quant.sf`` (a row per transcript) and ``quant.genes.sf``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from dataprep.sources.quantification.program_file import ProgramFile
from dataprep.sources.registry import register_source
from dataprep.sources.source import Units


@register_source
class SalmonSource(ProgramFile):
    """Estimates per transcript, which ``transcripts`` sums to genes, or per gene."""

    PROGRAM = "Salmon (quant.sf)"
    COLUMNS = ("Name", "Length", "EffectiveLength", "TPM", "NumReads")
    NAMES = "Name"
    UNITS: ClassVar[Mapping[str, Units]] = {"TPM": "tpm", "NumReads": "estimated_counts"}

    format: Literal["salmon"] = "salmon"
    value_column: Literal["TPM", "NumReads"] = Field(
        default="TPM", description="TPM, by effective lengths; or NumReads, divided by the lengths of genes"
    )
    sample_from: str = Field(default="folder", description="what names a sample; default: its folder")
