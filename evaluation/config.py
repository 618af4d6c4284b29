"""Settings of the evaluation commands."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from dataprep.runtime.command_line import CommandSettings, Settings
from dataprep.sources import Units
from pretrain.config import Kernel, Pooling, Precision

Level = Literal["sample", "gene", "expression"]
Task = Literal["imputation", "classification"]
Splits = Literal["train", "validation", "test", "all"]


class EmbedSettings(CommandSettings):
    """Embed profiles with a pretrained model, streamed: memory is bounded by one batch."""

    model: str = Field(description="model export: a folder or s3:// address")
    input: str = Field(description="corpus (folder or s3://) or .h5ad file")
    output: str = Field(description="file to write: .parquet, or .h5ad (levels sample and expression)")
    level: Level = Field("sample", description="pooled embedding, embedding of every gene, or corrected expression")
    pooling: Pooling = Field("mean", description="over genes, for level sample; all = max + mean + median")
    genes: str | None = Field(
        None, description="pool over, or write, these genes only: ids or symbols with commas, or a file with one a line"
    )
    protein_embeddings: str | None = Field(
        None, description="safetensors file with a row per gene (ESM2) to write beside the embedding, for level gene"
    )
    split: Splits = Field("all", description="which profiles of a corpus")
    workers: int = Field(
        0,
        ge=0,
        description="embed a corpus with so many Ray workers, a GPU each where there are any; 0: in this process",
    )
    units: Units | None = Field(None, description="what the values of an .h5ad are; checked, never guessed")
    layer: str | None = Field(None, description="layer of an .h5ad that holds the values; default: X")
    gene_column: str | None = Field(None, description="column of an .h5ad's var with the Ensembl ids; default: index")
    kernel: Kernel = Field("fused", description="how attention and graph product are computed")
    precision: Precision = Field("fp32", description="bf16: bfloat16 autocast over fp32 parameters")
    compile: bool = Field(
        False, description="fused kernel: compile elementwise parts; half a minute and g++ first, then faster"
    )
    batch_size: int | None = Field(None, ge=1, description="profiles in one forward pass; default: what fits in memory")

    @model_validator(mode="after")
    def _check(self) -> EmbedSettings:
        if not self.output.endswith((".parquet", ".h5ad")):
            raise ValueError(f"output {self.output!r} must end in .parquet or .h5ad")
        if self.output.endswith(".h5ad") and self.level == "gene":
            raise ValueError("level gene has one vector per profile and gene: give an output that ends in .parquet")
        if self.protein_embeddings is not None and self.level != "gene":
            raise ValueError("protein embeddings stand beside those of genes: give --level gene")
        if self.reads_h5ad and self.workers:
            raise ValueError("an .h5ad is embedded in this process: --workers is for a corpus")
        if self.reads_h5ad and self.units is None:
            raise ValueError("an .h5ad does not say what its values are: give --units (counts, tpm, ...)")
        return self

    @property
    def reads_h5ad(self) -> bool:
        return self.input.endswith(".h5ad")


class ImputationSettings(Settings):
    """Masked genes of held-out profiles, predicted from the others."""

    mask_rate: float = Field(0.15, gt=0, lt=1, description="share of genes masked in each profile")
    max_profiles: int | None = Field(None, ge=1, description="profiles to score, from the start of the split")
    fit_profiles: int = Field(3000, ge=3, description="train profiles that the baselines are fitted on, at the most")
    ranks: list[int] = Field([10, 50, 200, 400], min_length=1, description="components of probabilistic PCA to try")
    tuning_profiles: int = Field(200, ge=1, description="profiles that choose the rank, at the most")
    resamples: int = Field(1000, ge=100, description="bootstrap resamples for the confidence intervals")

    @model_validator(mode="after")
    def _check(self) -> ImputationSettings:
        if min(self.ranks) < 1:
            raise ValueError(f"imputation.ranks: {min(self.ranks)} is not a number of components")
        return self


class ClassificationSettings(Settings):
    """Labels predicted from pooled embeddings, and from raw expression, through PCA."""

    split: Splits = Field("all", description="which profiles; pretraining has seen those of train, without labels")
    pooling: Pooling = Field("mean", description="of gene embeddings; all = max + mean + median")
    min_class_samples: int = Field(10, ge=2, description="classes with fewer samples are left out")
    max_labels: int = Field(4, ge=1, description="labels to classify where none is named, those with most samples")
    max_profiles: int = Field(2000, ge=20, description="labelled profiles of one label to use, at the most")
    folds: int = Field(10, ge=2, description="folds, or as many as the smallest class allows")
    grouping: Literal["auto", "study", "none"] = Field(
        "auto", description="keep each study in one fold; auto: where every class comes from several studies"
    )
    components: int = Field(50, ge=1, description="principal components given to the classifiers")
    trees: int = Field(300, ge=1, description="trees of the random forest")


class TrackingSettings(Settings):
    """MLflow. The server's address comes from ``MLFLOW_TRACKING_URI``; without one nothing is sent."""

    experiment: str = Field("evaluation", description="MLflow experiment")
    run: str | None = Field(None, description="name of the MLflow run; default: that of the model's folder")


class RunSettings(CommandSettings):
    """Score a pretrained model on downstream tasks, beside simple methods."""

    model: str = Field(description="model export: a folder or s3:// address")
    corpus: str = Field(description="corpus folder or s3:// address")
    tasks: list[Task] = Field(["imputation", "classification"], min_length=1, description="tasks, with commas")
    split: Literal["validation", "test"] = Field("test", description="held-out profiles that imputation is scored on")
    label: str | None = Field(None, description="column of samples.parquet to classify; default: all that can be")
    seed: int = Field(0, ge=0, lt=2**31, description="of masks, folds, forests and resamples")
    kernel: Kernel = Field("fused", description="how attention and graph product are computed")
    precision: Precision = Field("fp32", description="bf16: bfloat16 autocast over fp32 parameters")
    batch_size: int | None = Field(None, ge=1, description="profiles in one forward pass; default: what fits in memory")
    output: str | None = Field(None, description="file for the results: .json (everything) or .parquet (the scores)")
    imputation: ImputationSettings = Field(ImputationSettings(), description="masked genes of held-out profiles")
    classification: ClassificationSettings = Field(ClassificationSettings(), description="labels of profiles")
    tracking: TrackingSettings = Field(TrackingSettings(), description="MLflow")

    @model_validator(mode="after")
    def _check(self) -> RunSettings:
        if self.output and not self.output.endswith((".json", ".parquet")):
            raise ValueError(f"output {self.output!r} must end in .json or .parquet")
        return self
