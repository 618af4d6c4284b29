"""Readers of the forms in which people publish expression data, one module each."""

from dataprep.sources.anndata_forms.h5ad import H5adSource
from dataprep.sources.anndata_forms.zarr_folder import ZarrSource
from dataprep.sources.archs4 import Archs4Source
from dataprep.sources.columnar import FeatherSource, ParquetSource
from dataprep.sources.matrix_market import MatrixMarketSource
from dataprep.sources.quantification.featurecounts import FeatureCountsSource
from dataprep.sources.quantification.htseq import HtseqSource
from dataprep.sources.quantification.kallisto import KallistoSource
from dataprep.sources.quantification.rsem import RsemSource
from dataprep.sources.quantification.salmon import SalmonSource
from dataprep.sources.quantification.star import StarSource
from dataprep.sources.registry import AnySource, register_source
from dataprep.sources.source import RawProfiles, Refusal, SampleList, Source, Units
from dataprep.sources.table import TableSource

__all__ = [
    "AnySource",
    "Archs4Source",
    "FeatherSource",
    "FeatureCountsSource",
    "H5adSource",
    "HtseqSource",
    "KallistoSource",
    "MatrixMarketSource",
    "ParquetSource",
    "RawProfiles",
    "Refusal",
    "RsemSource",
    "SalmonSource",
    "SampleList",
    "Source",
    "StarSource",
    "TableSource",
    "Units",
    "ZarrSource",
    "register_source",
]
