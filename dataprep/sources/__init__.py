"""Readers of the forms in which people publish expression data, one module each."""

from dataprep.sources.h5ad import H5adSource
from dataprep.sources.registry import AnySource, register_source
from dataprep.sources.source import RawProfiles, SampleList, Source, Units
from dataprep.sources.table import TableSource

__all__ = [
    "AnySource",
    "H5adSource",
    "RawProfiles",
    "SampleList",
    "Source",
    "TableSource",
    "Units",
    "register_source",
]
