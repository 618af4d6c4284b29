"""Settings of the commands of this package."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from pydantic_settings import CliPositionalArg

from dataprep.corpus.manifest import TpmOver
from dataprep.corpus.shards import SHARD_BYTES, rows_per_shard
from dataprep.runtime.addresses import is_absolute, plain_address
from dataprep.runtime.command_line import CommandSettings, Settings, refuse_without_effect
from dataprep.runtime.plugins import ExtensibleSettings
from dataprep.sources import AnySource


class SplitSettings(Settings):
    """How groups of samples are divided: by name, or by fractions of the samples. A group is never divided."""

    by: list[str] = Field(
        default_factory=list,
        description="labels whose values make a group, such as a donor; samples without them, and all by default: the "
        "study",
    )
    validation_fraction: float = Field(default=0.1, ge=0, lt=1)
    test_fraction: float = Field(default=0.1, ge=0, lt=1)
    validation: list[str] = Field(default_factory=list, description="validation groups by name")
    test: list[str] = Field(default_factory=list, description="test groups by name; all others are for training")
    stratify: str | None = Field(
        default=None, description="label whose values get the fractions each, as far as whole groups allow"
    )
    stable: bool = Field(
        default=False,
        description="the split of a group follows from its name and the seed alone, whatever is added later; fractions "
        "are then those of many groups",
    )
    in_distribution_fraction: float = Field(
        default=0,
        ge=0,
        lt=1,
        description="of the samples of training groups that become a second validation split, in distribution",
    )

    @model_validator(mode="after")
    def _disjoint(self) -> SplitSettings:
        both = sorted(set(self.validation) & set(self.test))
        if both:
            raise ValueError(f"groups in both validation and test: {', '.join(both)}")
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError("validation_fraction and test_fraction leave nothing to train on")
        if self.by_name:
            by_fraction = ("validation_fraction", "test_fraction", "stratify", "stable")
            refuse_without_effect(self, by_fraction, "where groups are named")
        if self.stable and self.stratify is not None:
            raise ValueError("stratify needs to see all groups, and stable looks at each alone: give one of them")
        return self

    @property
    def by_name(self) -> bool:
        """Whether groups are named, so that the fractions do not count."""
        return bool(self.validation or self.test)


class BuildSettings(ExtensibleSettings):
    """Settings of `dataprep build`."""

    corpus: str = Field(description="folder or s3:// prefix to write the corpus to")
    root: str | None = Field(default=None, description="what relative paths start from; default: the YAML's folder")
    sources: list[AnySource] = Field(min_length=1, description="the sources, earlier ones win over duplicates")
    vocabulary: str | None = Field(default=None, description="gene list (CSV or Parquet); default: 20,024 genes")
    tpm_over: TpmOver = Field(
        default="source",
        description="genes over which TPM's denominator sums: all of the source, as the first family of models expects "
        "it, or those of the vocabulary alone, as the second does",
    )
    gene_aliases: str | None = Field(default=None, description="CSV of former symbols and Entrez ids: name, ensembl_id")
    min_nonzero_genes: int = Field(default=14_000, ge=1, description="vocabulary genes a profile must express")
    max_missing_share: float = Field(
        default=0.1, ge=0, le=1, description="of a profile's values; more and it is refused, less count as not measured"
    )
    max_gene_share: float = Field(
        default=0.95,
        gt=0,
        le=1,
        description="of a profile's transcripts that one gene may hold; haemoglobin has up to 0.85 in whole blood",
    )
    min_library_size: float | None = Field(
        default=None, gt=0, description="reads a profile must have, where values are reads; default: any number"
    )
    max_mitochondrial_share: float | None = Field(
        default=None, gt=0, le=1, description="of what is counted, in genes of mitochondria; default: any share"
    )
    max_ribosomal_share: float | None = Field(
        default=None, gt=0, le=1, description="in genes of ribosomal proteins and RNA; default: any share"
    )
    max_correlation_between_studies: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Pearson's r of log1p TPM that a profile may have with an earlier one of another study; default: "
        "only equal profiles are duplicates",
    )
    sex_label: str | None = Field(
        default=None, description="label of sex; a profile whose genes say another one is refused; default: none is"
    )
    max_unrecognised_share: float = Field(
        default=0.25,
        ge=0,
        le=1,
        description="of a source's reads in ids of unknown genes; more stops the build",
    )
    max_outside_share: float = Field(
        default=0.9, ge=0, le=1, description="of a source's reads in genes outside the vocabulary; more stops the build"
    )
    split: SplitSettings = Field(default_factory=SplitSettings)
    seed: int = Field(default=0, ge=0, description="of the split by fractions and of the order of profiles")
    rows_per_row_group: int = Field(default=64, ge=1, description="profiles that are read together at the least")
    shard_bytes: int = Field(default=SHARD_BYTES, ge=1, description="size a shard should have, about")
    samples_per_task: int = Field(default=512, ge=1, description="samples that one task holds in memory")
    overwrite: bool = Field(default=False, description="replace a corpus that is there already")
    grow: bool = Field(
        default=False, description="add the samples that the corpus does not have yet, as a new version of it"
    )

    @model_validator(mode="after")
    def _one_way(self) -> BuildSettings:
        if self.grow and self.overwrite:
            raise ValueError("overwrite replaces a corpus, and grow adds to it: give one of them")
        return self

    @model_validator(mode="after")
    def _unique_sources(self) -> BuildSettings:
        names = [source.name for source in self.sources]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"source names used twice: {', '.join(repeated)}")
        entrez = [source.name for source in self.sources if source.gene_id == "entrez"]
        if entrez and self.gene_aliases is None:
            raise ValueError(
                f"source {entrez[0]}: gene_id entrez needs gene_aliases, a table of Entrez ids "
                f"(python -m dataprep.genes.make_aliases)"
            )
        if all(source.gene_id == "ensembl" for source in self.sources):
            refuse_without_effect(self, ("gene_aliases",), "where all sources have Ensembl ids")
        return self

    def address(self, path: str) -> str:
        """A path of the YAML as an address: relative ones start from the root, and tasks elsewhere find them, too."""
        if is_absolute(path):
            return plain_address(path)
        root = self.root if self.root is not None else str(self.config.parent if self.config else ".")
        return f"{plain_address(root).rstrip('/')}/{path}"

    def rows_per_shard(self, genes: int) -> int:
        """Profiles in a shard of about ``shard_bytes``."""
        return rows_per_shard(self.shard_bytes, genes, self.rows_per_row_group)


class GraphSettings(CommandSettings):
    """Settings of `dataprep graph`."""

    corpus: str = Field(description="the corpus; the graph is built from its train split and written into it")
    min_correlation: float = Field(default=0.4, gt=0, le=1, description="smallest |Pearson correlation| of an edge")
    max_neighbours: int = Field(default=20, ge=1, description="strongest edges kept per gene")
    max_samples: int = Field(default=20_000, ge=3, description="profiles used at the most, the first of the split")
    min_common_samples: int = Field(default=20, ge=3, description="profiles that must measure both genes of an edge")
    balance_studies: bool = Field(default=False, description="each study weighs the same, however many profiles it has")
    symmetric: bool = Field(
        default=False,
        description="keep an edge in both directions where it is among the strongest of either gene, as the second "
        "family of models has it",
    )
    edge_table: str | None = Field(
        default=None,
        description="make the graph from this table instead, text or Parquet, local or s3://, with columns gene1 and "
        "gene2 (symbols or Ensembl ids) and perhaps weight",
    )
    genes_per_block: int = Field(default=2_000, ge=1, description="genes of which a task correlates two blocks")
    overwrite: bool = Field(default=False, description="replace another graph that the corpus has already")

    @model_validator(mode="after")
    def _check(self) -> GraphSettings:
        if self.edge_table is not None:
            of_correlations = ("min_correlation", "max_samples", "min_common_samples", "balance_studies")
            refuse_without_effect(self, of_correlations, "where a table has the edges")
        return self


class InspectSettings(CommandSettings):
    """Settings of `dataprep inspect`."""

    corpus: CliPositionalArg[str] = Field(description="the corpus: a folder or s3:// prefix")
    html: str | None = Field(
        default=None, description=".html file for a page with pictures, local or s3://; reads the profiles once more"
    )

    @model_validator(mode="after")
    def _check(self) -> InspectSettings:
        if self.html is not None and not self.html.endswith((".html", ".htm")):
            raise ValueError(f"html {self.html!r} must end in .html")
        return self


class ProbeSettings(CommandSettings):
    """Settings of `dataprep probe`."""

    files: CliPositionalArg[list[str]] = Field(min_length=1, description="files to look at, local or s3://")


class ProteinsSettings(CommandSettings):
    """Settings of `dataprep proteins`."""

    corpus: str = Field(description="the corpus; the embeddings are written into it")
    fasta: str = Field(description="proteins: GENCODE's pc_translations or Ensembl's pep, local or s3://")
    mane: str | None = Field(
        default=None, description="NCBI's MANE summary, whose Select transcripts are principal; default: the longest"
    )
    model: str = Field(
        default="facebook/esm2_t33_650M_UR50D", description="an ESM2 of the Hugging Face hub, or a folder with one"
    )
    max_residues: int = Field(default=1022, ge=1, description="longer proteins go through the model in pieces")
    batch_residues: int = Field(default=8192, ge=1, description="residues that the model sees at a time, with padding")
    workers: int = Field(default=1, ge=1, description="actors, each with the model; one per GPU where there are any")
    max_missing_share: float = Field(default=0.05, ge=0, lt=1, description="of the genes that may have no protein")
    overwrite: bool = Field(default=False, description="replace embeddings that the corpus has already")


class ExportSettings(CommandSettings):
    """Settings of `dataprep export`."""

    corpus: str = Field(description="the corpus")
    output: str = Field(description="the .h5ad file to write")
    split: Literal["train", "validation", "test", "all"] = Field(default="all", description="which profiles")


class SimulateSettings(CommandSettings):
    """Settings of `dataprep simulate`."""

    output: str = Field(description="folder or s3:// prefix to write the cohort to")
    samples: int = Field(default=400, ge=20, description="samples, over all studies")
    genes: int | None = Field(default=None, ge=100, description="genes; default: the whole default vocabulary")
    studies: int = Field(default=8, ge=1, description="studies, each with its own batch effect and depth")
    tissues: int = Field(default=6, ge=1)
    programs: int = Field(default=24, ge=1, description="latent programs that drive the genes")
    seed: int = Field(default=0, ge=0)
    format: Literal["tables", "archs4"] = Field(
        default="tables", description="tables: of counts and of samples, for each study; archs4: one file as ARCHS4's"
    )

    @model_validator(mode="after")
    def _enough_samples(self) -> SimulateSettings:
        if self.studies > self.samples:
            raise ValueError(f"{self.samples} samples are too few for {self.studies} studies")
        return self
