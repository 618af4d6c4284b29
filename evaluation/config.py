"""Settings of the evaluation commands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, Field, model_validator

from dataprep.genes.identifiers import GeneId, RepeatedGenes
from dataprep.runtime.command_line import CommandSettings, Settings, refuse_without_effect
from dataprep.runtime.plugins import ExtensibleSettings
from dataprep.sources import Units
from pretrain.config import Kernel, Pooling, Precision

Level = Literal["sample", "gene", "expression"]
Splits = Literal["train", "validation", "test", "all"]

# How tables of results name the model that is scored, and one of its shape with random weights.
MODEL = "BulkFormer"
UNTRAINED = "untrained"

Origin = Literal["corpus", "h5ad", "sources"]

# Settings of reading that are about one kind of profiles.
_OF_H5AD = ("units", "layer", "gene_id", "gene_column", "repeated_genes", "log_offset")
_OF_SOURCES = ("root",)
_OF_BOTH = ("gene_aliases",)


def origin_of(address: str) -> Origin:
    """What profiles are read from: a corpus, an .h5ad file, or the sources that a build file names."""
    if address.endswith(".h5ad"):
        return "h5ad"
    return "sources" if address.endswith((".yaml", ".yml")) else "corpus"


class ReadingSettings(BaseModel):
    """How profiles are read that are no corpus."""

    units: Units | None = Field(None, description="what the values of an .h5ad are; checked, never guessed")
    layer: str | None = Field(None, description="layer of an .h5ad that holds the values; default: X")
    gene_id: GeneId = Field("ensembl", description="how an .h5ad names its genes, as in a build file")
    gene_column: str | None = Field(None, description="column of an .h5ad's var with the genes' names; default: index")
    repeated_genes: RepeatedGenes = Field(
        "refuse", description="several rows of an .h5ad with the name of one gene: refuse, sum them, or take the first"
    )
    log_offset: float = Field(1.0, gt=0, le=1, description="what was added before the logarithm, for log units")
    root: str | None = Field(None, description="what relative paths of a .yaml start from; default: its folder")
    gene_aliases: str | None = Field(
        None, description="CSV of former symbols and Entrez ids, for an .h5ad or .yaml with such: name, ensembl_id"
    )

    def require_fitting(self, address: str) -> None:
        """Raise an error of settings that are missing, or would do nothing, for what is at an address."""
        origin = origin_of(address)
        others = {"h5ad": _OF_SOURCES, "sources": _OF_H5AD, "corpus": (*_OF_H5AD, *_OF_SOURCES, *_OF_BOTH)}
        refuse_without_effect(self, others[origin], f"for {address}")
        if origin != "h5ad":
            return
        if self.units is None:
            raise ValueError(f"{address} does not say what its values are: give units (counts, tpm, ...)")
        if not self.units.startswith("log"):
            refuse_without_effect(self, ("log_offset",), f"with units {self.units}, which are no logarithms")
        if self.gene_id == "ensembl":
            refuse_without_effect(self, ("gene_aliases",), "with gene_id ensembl")


class CohortSettings(ReadingSettings, Settings):
    """How labelled profiles are read that are no corpus: an .h5ad, or a .yaml that names sources."""

    study_column: str | None = Field(
        None, description="column of an .h5ad's obs that names the study; default: all samples are of one"
    )
    min_nonzero_genes: int | None = Field(
        None, ge=1, description="genes a profile must express; default: 14,000, or what the .yaml says"
    )

    def require_fitting(self, address: str) -> None:
        """As of all readings."""
        others = {"h5ad": (), "sources": ("study_column",), "corpus": ("study_column", "min_nonzero_genes")}
        refuse_without_effect(self, others[origin_of(address)], f"for {address}")
        super().require_fitting(address)


class EmbedSettings(ReadingSettings, CommandSettings):
    """Embed profiles with a pretrained model, streamed: memory is bounded by one batch."""

    model: str = Field(description="model export: a folder or s3:// address")
    input: str = Field(description="corpus (folder or s3://), .h5ad file, or .yaml that names sources as a build file")
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
        self.require_fitting(self.input)
        if origin_of(self.input) != "corpus":
            refuse_without_effect(self, ("split", "workers"), f"for {self.input}, which is no corpus")
        if self.level != "sample":
            refuse_without_effect(self, ("pooling",), f"for level {self.level}, which pools nothing")
        if self.kernel != "fused" and self.compile:
            refuse_without_effect(self, ("compile",), f"with kernel {self.kernel}")
        return self


class TrackingSettings(Settings):
    """MLflow. The server's address comes from ``MLFLOW_TRACKING_URI``; without one nothing is sent."""

    experiment: str = Field("evaluation", description="MLflow experiment")
    run: str | None = Field(None, description="name of the MLflow run; default: that of the model's folder")
    register_as: str | None = Field(
        None, description="register the model under this name, with its scores; the best version has the alias best"
    )


class SearchSettings(Settings):
    """Settings of methods, chosen inside the training part of each fold."""

    trials: int = Field(0, ge=0, description="choices to try for each method; 0: fixed settings, without Ray")
    inner_folds: int = Field(3, ge=2, description="folds of each fold's training rows, to score choices on")
    concurrency: int | None = Field(None, ge=1, description="trials at a time; default: one for each CPU")
    storage: str | None = Field(
        None,
        description="folder or s3:// address for what was tried, which the same command repeated goes on from; "
        "default: beside --output, else in the user's state folder",
    )

    @model_validator(mode="after")
    def _check(self) -> SearchSettings:
        if self.trials == 1:
            raise ValueError("one trial, that of the fixed settings, chooses nothing: give 0, or more")
        if not self.trials:
            refuse_without_effect(self, ("inner_folds", "concurrency", "storage"), "with search.trials 0")
        return self


class RunSettings(ExtensibleSettings):
    """Score a pretrained model on downstream tasks, beside simple methods.

    :func:`evaluation.tasks.registry.run_settings` adds the settings of every task, a group by its name.
    """

    model: str = Field(description="model export: a folder or s3:// address")
    corpus: str = Field(
        description="corpus (folder or s3://), or labelled profiles that are none: an .h5ad, or a .yaml that names "
        "sources as a build file"
    )
    cohort: CohortSettings = Field(CohortSettings(), description="how profiles are read that are no corpus")
    models: list[str] = Field([], description="further exports to score beside it, as NAME=ADDRESS with commas")
    untrained: bool = Field(False, description="also score a model of the same shape with random weights")
    embeddings: list[str] = Field(
        [],
        description="embeddings from elsewhere, as NAME=FILE with commas: Parquet with sample_id, or FILE.h5ad#OBSM",
    )
    tasks: list[str] = Field(["imputation", "classification"], min_length=1, description="tasks, with commas")
    split: Literal["validation", "test"] = Field("test", description="held-out profiles that imputation is scored on")
    label: str | None = Field(None, description="column of samples.parquet to classify; default: all that can be")
    seed: int = Field(0, ge=0, lt=2**31, description="of masks, folds, forests and resamples")
    kernel: Kernel = Field("fused", description="how attention and graph product are computed")
    precision: Precision = Field("fp32", description="bf16: bfloat16 autocast over fp32 parameters")
    batch_size: int | None = Field(None, ge=1, description="profiles in one forward pass; default: what fits in memory")
    output: str | None = Field(None, description="file for the results: .json (everything) or .parquet (the scores)")
    search: SearchSettings = Field(SearchSettings(), description="choice of settings inside training folds")
    tracking: TrackingSettings = Field(TrackingSettings(), description="MLflow")

    @model_validator(mode="after")
    def _check(self) -> RunSettings:
        if self.output and not self.output.endswith((".json", ".parquet")):
            raise ValueError(f"output {self.output!r} must end in .json or .parquet")
        self.cohort.require_fitting(self.corpus)
        taken = {MODEL, UNTRAINED}
        for entry in (*self.models, *self.embeddings):
            name, _, address = entry.partition("=")
            if not name or not address:
                raise ValueError(f"{entry!r} is not NAME=ADDRESS")
            if name in taken:
                raise ValueError(f"the name {name!r} is taken: choose another for {address}")
            taken.add(name)
        return self


def named(entries: Sequence[str]) -> dict[str, str]:
    """Addresses by name, of entries NAME=ADDRESS."""
    return {name: address for name, _, address in (entry.partition("=") for entry in entries)}


class ScalingSweepSettings(CommandSettings):
    """Train a grid of model sizes and shares of a corpus, whose losses `scaling fit` describes."""

    corpus: str = Field(description="corpus folder or s3:// address; all runs share its validation split")
    output: str = Field(description="folder or s3:// address for parts of the corpus, runs and the table of points")
    sizes: list[str] = Field(min_length=1, description="sizes of models, or .yaml files of sizes, with commas")
    fractions: list[float] = Field(
        [0.25, 0.5, 1.0],
        min_length=1,
        description="shares of the train split: whole studies, the smaller within the larger",
    )
    seeds: list[int] = Field([0], min_length=1, description="seeds of initial weights, masks and order")
    budget_steps: int | None = Field(None, ge=1, description="optimizer steps of each run")
    budget_profiles: int | None = Field(None, ge=1, description="profiles that each run trains on, with repeats")
    budget_flops: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="training FLOPs of each run: larger models make fewer steps"
    )
    training: str | None = Field(None, description="YAML file with the settings of pretrain run that all runs share")
    learning_rates: list[float] = Field(
        [],
        description="peak rates to try for each size, on the largest share with the first seed; all points of a size "
        "take the one of least validation loss. Default: the shared settings' rate",
    )
    concurrency: int | None = Field(None, ge=1, description="runs at a time; default: as many as the cluster holds")
    seed: int = Field(0, ge=0, lt=2**31, description="of the order in which studies are taken into the parts")
    dry_run: bool = Field(False, description="print the grid with what each point takes, and train nothing")
    teraflops_per_second: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="speed of the workers of one run together, for hours in a dry run"
    )
    hourly_cost: float | None = Field(None, ge=0, allow_inf_nan=False, description="price of an hour of one run")
    experiment: str = Field("scaling", description="MLflow experiment")

    @model_validator(mode="after")
    def _check(self) -> ScalingSweepSettings:
        budgets = [name for name in ("budget_steps", "budget_profiles", "budget_flops") if getattr(self, name)]
        if len(budgets) != 1:
            raise ValueError(
                "give one of budget_steps, budget_profiles and budget_flops"
                + (f", not {' and '.join(budgets)}" if budgets else "")
            )
        for name in ("sizes", "fractions", "seeds", "learning_rates"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name}: {', '.join(map(str, values))} names one twice")
        if bad := [fraction for fraction in self.fractions if not 0 < fraction <= 1]:
            raise ValueError(f"fractions: {bad[0]:g} is not over 0 and up to 1")
        if bad := [rate for rate in self.learning_rates if not 0 < rate < 1]:
            raise ValueError(f"learning_rates: {bad[0]:g} is not over 0 and under 1")
        if not self.dry_run:
            refuse_without_effect(self, ("teraflops_per_second", "hourly_cost"), "without dry_run")
        elif self.hourly_cost is not None and self.teraflops_per_second is None:
            raise ValueError("hourly_cost would have no effect without teraflops_per_second")
        return self


# The table of a sweep, in its folder.
POINTS_FILE = "points.csv"


class ScalingFitSettings(CommandSettings):
    """Fit scaling laws to the losses of trained models."""

    points: str | None = Field(
        None, description="CSV file or s3:// object with columns parameters, loss and (if it varies) profiles"
    )
    sweep: str | None = Field(None, description="what `scaling sweep` wrote, by its --output, instead of points")
    runs: str | None = Field(
        None,
        description="MLflow experiment, or the id of a sweep's run, whose finished pretraining runs are the points",
    )
    resamples: int = Field(1000, ge=0, description="bootstrap resamples behind the power law's intervals; 0: none")
    seed: int = Field(0, ge=0, lt=2**31, description="of starts and resamples")
    budget_flops: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="training FLOPs for which to say the best size and profiles"
    )
    flops_per_parameter_and_profile: float = Field(
        # forward and backward pass of a parameter that every gene's embedding is multiplied by
        6 * 20_010,
        gt=0,
        allow_inf_nan=False,
        description="training FLOPs of one parameter for one profile; default: six for each of 20,010 genes",
    )
    plot: str | None = Field(None, description="write the picture to PLOT.png and PLOT.svg, local or s3://")
    output: str | None = Field(None, description=".json file for the results, local or s3://")
    experiment: str = Field("scaling", description="MLflow experiment")

    @model_validator(mode="after")
    def _check(self) -> ScalingFitSettings:
        if sum(given is not None for given in (self.points, self.sweep, self.runs)) != 1:
            raise ValueError("give one of points, sweep and runs")
        if self.output and not self.output.endswith(".json"):
            raise ValueError(f"output {self.output!r} must end in .json")
        if "flops_per_parameter_and_profile" in self.model_fields_set and self.budget_flops is None:
            raise ValueError("flops_per_parameter_and_profile would have no effect without budget_flops")
        return self

    @property
    def table(self) -> str | None:
        """Address of the table of points; None where MLflow has them."""
        return self.points if self.sweep is None else f"{self.sweep}/{POINTS_FILE}"


class ReportSettings(CommandSettings):
    """Write one page about models, for a person to read: any of runs, evaluations, scaling laws and embeddings."""

    output: str = Field(description=".html file to write, local or s3://; a report is replaced, nothing else is")
    run: list[str] = Field([], description="folders of pretraining runs, STORAGE/NAME, with commas")
    results: list[str] = Field([], description=".json files that evaluation run wrote, with commas")
    scaling: str | None = Field(None, description=".json file that evaluation scaling fit wrote")
    experiment: list[str] = Field([], description="MLflow experiments, with commas, whose newest runs to report")
    newest: int = Field(5, ge=1, le=100, description="runs of each experiment")
    embeddings: str | None = Field(None, description=".parquet file that evaluation embed wrote, to draw as a map")
    corpus: str | None = Field(
        None, description="corpus of the embedded profiles; default: that of the evaluation or run"
    )
    label: str | None = Field(None, description="label to colour the map by; default: the one that most profiles have")
    seed: int = Field(0, ge=0, lt=2**31, description="of the profiles that are drawn where there are many")
    title: str = Field("Model report", min_length=1, description="title of the page")

    @model_validator(mode="after")
    def _check(self) -> ReportSettings:
        if not self.output.endswith((".html", ".htm")):
            raise ValueError(f"output {self.output!r} must end in .html")
        if not (self.run or self.results or self.scaling or self.experiment or self.embeddings):
            raise ValueError(
                "there is nothing to report: give --run, --results, --scaling, --experiment or --embeddings"
            )
        if self.embeddings is None:
            refuse_without_effect(self, ("corpus", "label", "seed"), "without embeddings")
        if not self.experiment:
            refuse_without_effect(self, ("newest",), "without an experiment")
        return self
