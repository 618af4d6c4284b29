"""STAR's ``ReadsPerGene.out.tab`` (``--quantMode GeneCounts``): no header, four rows ``N_...`` before the genes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from dataprep.sources.quantification.program_file import ProgramFile
from dataprep.sources.registry import register_source
from dataprep.sources.source import Units


@register_source
class StarSource(ProgramFile):
    """Reads per gene; the columns have the names that the GDC gives them."""

    PROGRAM = "STAR (ReadsPerGene.out.tab)"
    COLUMNS = ("gene", "unstranded", "stranded_first", "stranded_second")
    NAMES = "gene"
    UNITS: ClassVar[Mapping[str, Units]] = {
        "unstranded": "counts",
        "stranded_first": "counts",
        "stranded_second": "counts",
    }
    HAS_HEADER = False

    format: Literal["star"] = "star"
    value_column: Literal["unstranded", "stranded_first", "stranded_second"] = Field(
        default="unstranded",
        description="reads of both strands, or those whose first or second read is on the gene's strand",
    )
    sample_from: str = Field(
        default=r"([^/]+?)[._/-]?ReadsPerGene\.out\.tab", description="what names a sample; default: what is before"
    )
